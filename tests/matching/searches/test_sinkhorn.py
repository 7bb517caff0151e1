"""Learned soft permutations: gradients against finite differences and an unrolled scan, and planted
permutations.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmcjax import match_layerwise, mlp_spec, permute, random_permutations, require_finite
from lmcjax.matching import (
    match_sinkhorn,
    midpoint_loss,
    random_point_loss,
    soft_alignments,
    weight_distance,
)
from lmcjax.symmetry import PermutationSpec, apply_soft, invert, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation")


def mean_square(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def apply(params, x):
    for i in range(len(params)):
        x = (jnp.tanh(x) if i else x) @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"][
            "bias"
        ]
    return x


def scanned(x, temperature, num_iterations=400):
    """Sinkhorn's iterations in the log domain, differentiated through: `T` with sums 1."""

    def step(potentials, _):
        u, v = potentials
        u = -jax.nn.logsumexp(x / temperature + v, axis=1, keepdims=True)
        v = -jax.nn.logsumexp(x / temperature + u, axis=0, keepdims=True)
        return (u, v), None

    zero = jnp.zeros_like(x)
    (u, v), _ = jax.lax.scan(step, (zero[:, :1], zero[:1]), None, num_iterations)
    return jnp.exp(x / temperature + u + v)


@pytest.fixture(scope="module")
def double_pair(small_pairs):
    """The first of the small pairs and its data, in double precision where that is on."""
    a, b = (jax.tree.map(lambda v: np.asarray(v[0], np.float64), p) for p in small_pairs[2:4])
    x = np.asarray(small_pairs.inputs, np.float64)
    return a, b, (x, np.sin(x[:, :3]))


def test_gradients_are_finite_differences_and_those_of_a_scan(
    double_pair, x64, rng, finite_difference
):
    """In the logits and in the temperature, through both layers' alignments at once."""
    a, b, data = double_pair
    at_random = random_point_loss(apply, mean_square, data, batch_size=20)

    def objective(a, b, key):
        return 0.1 * weight_distance(a, b) + at_random(a, b, key)

    logits = {"Dense_0": rng.normal(size=(8, 8)), "Dense_1": rng.normal(size=(6, 6))}

    def implicit(logits, temperature):
        soft = soft_alignments(
            logits, temperature=temperature, threshold=1e-13, max_iterations=5000
        )
        return objective(a, apply_soft(mlp_spec(2), soft.alignments, b), jax.random.key(1))

    def unrolled(logits, temperature):
        soft = {g: scanned(x, temperature) for g, x in logits.items()}
        return objective(a, apply_soft(mlp_spec(2), soft, b), jax.random.key(1))

    of_implicit, of_scan = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(logits, 0.5) for f in (implicit, unrolled)
    )
    chex.assert_trees_all_close(of_implicit, of_scan, rtol=1e-8, atol=1e-10)
    value = jax.jit(implicit)
    slope = finite_difference(lambda t: float(value(logits, t)), np.array(0.5))
    np.testing.assert_allclose(of_implicit[1][1], slope, rtol=1e-6)
    for group, x in logits.items():
        entries = rng.integers(0, len(x), (2, 2))
        for i, j in entries:

            def at(v, group=group, x=x, i=i, j=j):
                changed = x.copy()
                changed[i, j] = v
                return float(value({**logits, group: changed}, 0.5))

            oracle = finite_difference(at, x[i, j])
            np.testing.assert_allclose(of_implicit[1][0][group][i, j], oracle, rtol=1e-5, atol=1e-9)


def test_gradients_near_a_permutation_are_finite(rng):
    """In single precision, where the fixed point's linear system is singular to rounding."""
    logits = {
        "g": jnp.asarray(
            20 * np.eye(12)[rng.permutation(12)] + rng.normal(size=(12, 12)), jnp.float32
        )
    }
    target = rng.normal(size=(12, 12)).astype(np.float32)
    of_logits = jax.jit(
        jax.grad(lambda x: jnp.sum(target * soft_alignments(x, temperature=0.1).alignments["g"]))
    )
    assert np.abs(of_logits(logits)["g"]).max() < 1e-3


@functools.cache
def learner(spec, batch=False, **options):
    match = functools.partial(match_sinkhorn, spec, **options)
    return jax.jit(jax.vmap(match) if batch else match)


def shuffle(spec, key, params):
    planted = random_permutations(key, spec, params)
    return planted, permute(spec, invert(spec, planted), params)


@pytest.mark.slow
def test_planted_permutations_come_back_and_neighbours_are_not_spoilt(small_pairs):
    """B is A with noise, shuffled; the middle pair has a nan."""
    a = small_pairs.params_a
    b = jax.tree.map(lambda x, y: x + 0.3 * y, a, small_pairs.params_b)
    spec = small_pairs.spec.bind(jax.tree.map(lambda v: v[0], b))
    keys = jax.random.split(jax.random.key(0), 3)
    planted, shuffled = jax.jit(jax.vmap(functools.partial(shuffle, spec)))(keys, b)
    spoilt = jax.tree.map(np.array, shuffled)
    spoilt["Dense_1"]["kernel"][1, 0, 0] = np.nan
    found = learner(spec, batch=True, num_steps=60, temperature=0.6)(a, spoilt)
    assert found.finite.tolist() == [True, False, True]
    assert not found.converged[1]
    for group, p in planted.items():
        np.testing.assert_array_equal(found.permutations[group][::2], p[::2])
        assert sorted(found.permutations[group][1].tolist()) == list(range(p.shape[-1]))
        rows, columns = (found.alignments[group][::2].sum(axis) for axis in (-1, -2))
        np.testing.assert_allclose(rows, 1, atol=2e-3)
        np.testing.assert_allclose(columns, 1, atol=2e-3)
    for i in (0, 2):
        distance = sum(
            np.sum((np.asarray(x[i]) - np.asarray(y[i])) ** 2)
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        )
        assert float(found.loss[i]) == pytest.approx(distance, rel=1e-4)
        assert float(found.identity_loss[i]) > 2 * distance
        assert found.trace[i, -1] < 0.5 * found.trace[i, 0]
    with pytest.raises(ValueError, match=r"finite is False at \[1\]"):
        require_finite(found)


def test_a_lower_loss_at_the_midpoint_than_weights_reach(small_pairs):
    """What is made small is what the objective says; started where matching by weights ends."""
    spec, layers = mlp_spec(1), ("Dense_0", "Dense_1")
    a, b = (
        {name: jax.tree.map(lambda v: v[0], p[name]) for name in layers} for p in small_pairs[2:4]
    )
    data = (small_pairs.inputs, apply(a, small_pairs.inputs))
    objective = midpoint_loss(apply, mean_square, data, batch_size=40)
    whole = jax.jit(
        lambda p: midpoint_loss(apply, mean_square, data)(a, permute(spec, p, b), jax.random.key(0))
    )
    start = jax.jit(functools.partial(match_layerwise, spec, similarity="weights"))(
        a, b
    ).permutations
    options = {
        "optimizer": optax.adam(0.1),
        "num_steps": 40,
        "temperature": optax.linear_schedule(1.0, 0.3, 40),
    }
    found = learner(spec, objective=objective, **options)(a, b, init=start)
    assert float(whole(found.permutations)) < 0.95 * float(whole(start))
    assert int(found.iterations) == len(found.trace) - 1 == 40
    assert len(set(np.asarray(found.trace).tolist())) == 41


def test_stacked_layers_have_an_alignment_each(rng):
    """Two layers in one leaf; B is the same with each layer's neurons shuffled for itself."""
    spec = PermutationSpec.from_axes(
        {
            "up": (None, None, writes("h", batch_axes=(0,))),
            "down": (None, reads("h", batch_axes=(0,)), None),
        }
    )
    a = {"up": jnp.asarray(rng.normal(size=(2, 3, 6)), jnp.float32)}
    a["down"] = jnp.asarray(rng.normal(size=(2, 6, 3)), jnp.float32)
    planted, b = jax.jit(functools.partial(shuffle, spec))(jax.random.key(3), a)
    found = learner(spec, num_steps=40, temperature=0.6)(a, b)
    np.testing.assert_array_equal(found.permutations["h"], planted["h"])
    assert float(found.loss) == 0


@pytest.mark.parametrize("temperature", [-0.5, 0.0, np.nan])
def test_a_known_temperature_is_above_0(temperature, small_pairs):
    a, b = (jax.tree.map(lambda v: v[0], p) for p in small_pairs[2:4])
    with pytest.raises(ValueError, match="temperature is above 0, not"):
        soft_alignments({"g": jnp.eye(3)}, temperature=temperature)
    with pytest.raises(ValueError, match="temperature is above 0, not"):
        match_sinkhorn(small_pairs.spec, a, b, temperature=temperature)


def test_a_traced_temperature_that_is_not_above_0_is_flagged(small_pairs):
    """A number, or what a schedule says at one step; the neighbours in the batch are as without it."""
    a, b = (jax.tree.map(lambda v: v[0], p) for p in small_pairs[2:4])

    @jax.jit
    @jax.vmap
    def match(first, second):
        def schedule(step):
            return jnp.where(step == 1, second, first)

        return match_sinkhorn(small_pairs.spec, a, b, temperature=schedule, num_steps=3)

    good, bad = jnp.full(4, 0.6), jnp.array([0.6, -0.6, 0.6, 0.6])
    found, clean = match(bad, jnp.array([0.6, -0.6, 0.0, 0.6])), match(good, good)
    assert clean.finite.tolist() == [True] * 4
    assert found.finite.tolist() == [True, False, False, True]
    assert not found.converged[1:3].any()
    chex.assert_trees_all_equal(*(jax.tree.map(lambda v: np.asarray(v)[::3], m) for m in (found, clean)))
    for group, p in found.permutations.items():
        assert (np.sort(p) == np.arange(p.shape[-1])).all()
        assert np.isnan(found.alignments[group][1]).all()


def test_a_start_that_does_not_fit(small_pairs):
    a, b = (jax.tree.map(lambda v: v[0], p) for p in small_pairs[2:4])
    with pytest.raises(ValueError, match="'Dense_1' is not in both"):
        match_sinkhorn(small_pairs.spec, a, b, init={"Dense_0": np.arange(8)})
