"""The whole chain, from training to the barrier, as one function: jit, vmap, grad."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmcjax import (
    Covariance,
    FunctionNetwork,
    TrainConfig,
    activation_moments,
    apply_soft,
    batched_loss,
    cross_entropy_and_accuracy,
    discover,
    interpolate,
    linear_barrier,
    match_layerwise,
    match_sinkhorn,
    match_soft,
    permute,
    train,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM_PAIRS = 16


def init(key):
    keys = jax.random.split(key)
    return {
        "w1": jax.random.normal(keys[0], (2, 8)),
        "b1": jnp.zeros(8),
        "w2": jax.random.normal(keys[1], (8, 2)) / 3,
        "b2": jnp.zeros(2),
    }


def apply(params, x):
    return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def dataset():
    """Two classes that no line parts."""
    x = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int32)


NETWORK = FunctionNetwork(init, apply)


def chain(key, learning_rate, data):
    """From two seeds to a barrier: nothing but this function is jitted."""
    config = TrainConfig(learning_rate, NETWORK, num_steps=60, batch_size=32)
    a, b = (train(config, jax.random.fold_in(key, i), data).params for i in (0, 1))
    spec = discover(apply, a, data[0])
    moments = activation_moments(apply, spec, a, b, data[0])
    matching = match_layerwise(spec, a, b, similarity=Covariance(moments))
    loss = batched_loss(apply, cross_entropy_and_accuracy, data)
    aligned = linear_barrier(loss, a, permute(spec, matching.permutations, b), num_points=5)
    return matching, aligned, linear_barrier(loss, a, b, num_points=5)


def test_sixteen_pairs_of_seeds_in_one_call_are_a_loop():
    """One program, one batch; the pairs differ, and matching lowers their midpoints."""
    keys = jax.random.split(jax.random.key(0), NUM_PAIRS)
    matching, aligned, unmatched = jax.jit(jax.vmap(chain, in_axes=(0, None, None)))(
        keys, 0.3, dataset()
    )
    assert matching.finite.all()
    assert aligned.finite.all()
    assert len(np.unique(np.asarray(matching.permutations["w1"]), axis=0)) > 8
    assert aligned.midpoint_loss.mean() < 0.9 * unmatched.midpoint_loss.mean()
    assert unmatched.losses[:, [0, -1]].max() < 0.6 < np.log(2)  # they have learned
    single = jax.jit(chain)
    for i in (0, NUM_PAIRS - 1):
        alone, barrier, _ = single(keys[i], 0.3, dataset())
        chex.assert_trees_all_equal(
            alone.permutations, jax.tree.map(lambda p, i=i: p[i], matching.permutations)
        )
        np.testing.assert_allclose(barrier.losses, aligned.losses[i], rtol=1e-3)


def test_the_batch_of_chains_has_no_callback_and_no_float64_on_other_platforms(exported_text):
    """Lowered here, on a CPU, for a GPU and a TPU, where SciPy is not at hand; for the CPU it is
    called.
    """
    batch = jax.jit(jax.vmap(chain, in_axes=(0, None, None)))
    arguments = (jax.random.split(jax.random.key(0), NUM_PAIRS), 0.3, dataset())
    plain = jax.jit(lambda *arguments: jax.tree.leaves(batch(*arguments)))
    assert "callback" in plain.lower(*arguments).as_text()
    for platforms in (["cuda"], ["tpu"]):
        text = exported_text(plain, platforms, *arguments)
        assert "callback" not in text
        assert "f64" not in text


def soft_midpoint(params_a, params_b, temperature, data):
    """The midpoint loss after an entropic match of covariances: every link is differentiable."""
    x, labels = data
    spec = discover(apply, params_a, x)
    moments = activation_moments(apply, spec, params_a, params_b, x)
    options = {"temperature": temperature, "threshold": 1e-12}
    found = match_soft(spec, params_a, params_b, similarity=Covariance(moments), **options)
    middle = interpolate(params_a, apply_soft(spec, found.alignments, params_b), 0.5)
    return optax.softmax_cross_entropy_with_integer_labels(apply(middle, x), labels).mean()


def learned_midpoint(params_a, params_b, temperature, data):
    """The same after three steps of learning soft permutations: derivatives of derivatives of the
    fixed point.
    """
    spec = discover(apply, params_a, data[0])
    options = {"optimizer": optax.sgd(0.1), "num_iterations": 3, "temperature": temperature}
    found = match_sinkhorn(spec, params_a, params_b, threshold=1e-12, **options)
    middle = interpolate(params_a, apply_soft(spec, found.alignments, params_b), 0.5)
    return optax.softmax_cross_entropy_with_integer_labels(apply(middle, data[0]), data[1]).mean()


@pytest.mark.parametrize("midpoint", [soft_midpoint, learned_midpoint])
@pytest.mark.slow
def test_a_soft_chain_is_differentiable_from_end_to_end(midpoint, x64, finite_difference):
    """In the temperature and in every parameter of both networks, against finite differences."""
    x, labels = dataset()
    data = (np.asarray(x, np.float64), labels)
    rng = np.random.default_rng(1)
    a, b = (
        jax.tree.map(lambda v: v + 0.3 * rng.normal(size=v.shape), init(jax.random.key(i)))
        for i in (0, 1)
    )
    flat, rebuild = jax.flatten_util.ravel_pytree((a, b, 0.5))
    function = jax.jit(lambda v: midpoint(*rebuild(v), data))
    gradient = jax.jit(jax.grad(lambda v: midpoint(*rebuild(v), data)))(flat)
    entries = [*rng.choice(flat.size - 1, 8, replace=False), flat.size - 1]

    def along(v):
        return float(function(flat.at[jnp.asarray(entries)].set(v)))

    oracle = finite_difference(along, np.asarray(flat)[entries])
    np.testing.assert_allclose(gradient[jnp.asarray(entries)], oracle, rtol=1e-5, atol=1e-8)
    assert abs(oracle[-1]) > 1e-4  # of the temperature
