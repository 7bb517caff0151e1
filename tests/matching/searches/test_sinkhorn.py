"""Learned soft permutations: planted permutations come back, and any loss can be made small."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmcjax import Weights, match_layerwise, mlp_spec, permute, random_permutations, require_finite
from lmcjax.matching import match_sinkhorn, midpoint_loss
from lmcjax.symmetry import PermutationSpec, fixed, invert, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation")


def mean_square(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def apply(params, x):
    for i in range(len(params)):
        layer = params[f"Dense_{i}"]
        x = (jnp.tanh(x) if i else x) @ layer["kernel"] + layer["bias"]
    return x


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
    found = learner(spec, batch=True, num_iterations=60, temperature=0.6)(a, spoilt)
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
        assert float(found.search.loss[i]) == pytest.approx(distance, rel=1e-4)
        assert float(found.search.identity_loss[i]) > 2 * distance
        assert found.search.trace[i, -1] < 0.5 * found.search.trace[i, 0]
    with pytest.raises(ValueError, match=r"finite is False at \[1\]"):
        require_finite(found)


def test_a_lower_loss_at_the_midpoint_than_weights_reach(small_pairs):
    """What is made small is the loss given; started where matching by weights ends."""
    spec, layers = mlp_spec(1), ("Dense_0", "Dense_1")
    a, b = (
        {name: jax.tree.map(lambda v: v[0], p[name]) for name in layers} for p in small_pairs[2:4]
    )
    data = (small_pairs.inputs, apply(a, small_pairs.inputs))
    loss = midpoint_loss(apply, mean_square, data, batch_size=40)
    whole = jax.jit(
        lambda p: midpoint_loss(apply, mean_square, data)(a, permute(spec, p, b), jax.random.key(0))
    )
    by_weights = jax.jit(functools.partial(match_layerwise, spec, similarity=Weights()))
    start = by_weights(a, b).permutations
    options = {
        "optimizer": optax.adam(0.1),
        "num_iterations": 40,
        "temperature": optax.linear_schedule(1.0, 0.3, 40),
    }
    found = learner(spec, loss=loss, **options)(a, b, init=start)
    assert float(whole(found.permutations)) < 0.95 * float(whole(start))
    assert int(found.iterations) == len(found.search.trace) - 1 == 40
    assert len(set(np.asarray(found.search.trace).tolist())) == 41


def test_stacked_layers_have_an_alignment_each(rng):
    """Two layers in one leaf; B is the same with each layer's neurons shuffled for itself."""
    spec = PermutationSpec.from_axes(
        {
            "up": (fixed("layers"), None, writes("h", along="layers")),
            "down": (fixed("layers"), reads("h", along="layers"), None),
        }
    )
    a = {"up": jnp.asarray(rng.normal(size=(2, 3, 6)), jnp.float32)}
    a["down"] = jnp.asarray(rng.normal(size=(2, 6, 3)), jnp.float32)
    planted, b = jax.jit(functools.partial(shuffle, spec))(jax.random.key(3), a)
    found = learner(spec, num_iterations=40, temperature=0.6)(a, b)
    np.testing.assert_array_equal(found.permutations["h"], planted["h"])
    assert float(found.search.loss) == 0


@pytest.mark.parametrize("temperature", [-0.5, 0.0, np.nan])
def test_a_known_temperature_is_above_0(temperature, small_pairs):
    a, b = (jax.tree.map(lambda v: v[0], p) for p in small_pairs[2:4])
    with pytest.raises(ValueError, match="temperature is above 0, not"):
        match_sinkhorn(small_pairs.spec, a, b, temperature=temperature)


@pytest.mark.slow
def test_a_traced_temperature_that_is_not_above_0_is_flagged(small_pairs):
    """A number, or what a schedule says at one step; neighbours in the batch are as without."""
    a, b = (jax.tree.map(lambda v: v[0], p) for p in small_pairs[2:4])

    @jax.jit
    @jax.vmap
    def match(first, second):
        def schedule(step):
            return jnp.where(step == 1, second, first)

        return match_sinkhorn(small_pairs.spec, a, b, temperature=schedule, num_iterations=3)

    good, bad = jnp.full(4, 0.6), jnp.array([0.6, -0.6, 0.6, 0.6])
    found = match(bad, jnp.array([0.6, -0.6, 0.0, 0.6]))
    clean = match(good, good)
    assert clean.finite.tolist() == [True] * 4
    assert found.finite.tolist() == [True, False, False, True]
    assert not found.converged[1:3].any()
    ends = [jax.tree.map(lambda v: np.asarray(v)[::3], m) for m in (found, clean)]
    chex.assert_trees_all_equal(*ends)
    for group, p in found.permutations.items():
        assert (np.sort(p) == np.arange(p.shape[-1])).all()
        assert np.isnan(found.alignments[group][1]).all()


def test_a_start_that_does_not_fit(small_pairs):
    a, b = (jax.tree.map(lambda v: v[0], p) for p in small_pairs[2:4])
    with pytest.raises(ValueError, match="'Dense_1' is not in both"):
        match_sinkhorn(small_pairs.spec, a, b, init={"Dense_0": np.arange(8)})
