"""Simulated annealing against brute force and Boltzmann's distribution."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import match_annealing, mlp_spec, permute
from lmcjax.matching import weight_distance
from lmcjax.symmetry import PermutationSpec, fixed, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation")

SPEC = PermutationSpec.from_axes(
    {
        "conv": (None, writes("c")),
        "dense": (fixed(2) * reads("c") * fixed(3) | reads("s"), writes("h")),
        "other": (None, writes("s")),
        "out": (reads("h"), None),
    }
)
SHAPES = {"conv": (3, 4), "dense": (27, 5), "other": (3, 3), "out": (5, 2)}


def anew(a, b, key):
    """The distance of weights, not known as such."""
    return weight_distance(a, b)


@pytest.mark.slow
def test_changes_by_two_rows_are_those_of_the_distance(rng):
    """With a flatten and a concatenation, at a constant temperature: the same swaps are kept, and
    the same value.
    """
    a, b = (
        {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in SHAPES.items()}
        for _ in range(2)
    )
    options = {"key": jax.random.key(0), "num_iterations": 300, "temperature": 40.0}
    fast = jax.jit(functools.partial(match_annealing, SPEC, loss=weight_distance, **options))(a, b)
    slow = jax.jit(functools.partial(match_annealing, SPEC, loss=anew, **options))(a, b)
    np.testing.assert_allclose(fast.search.trace, slow.search.trace, rtol=1e-4)
    for group, p in fast.permutations.items():
        np.testing.assert_array_equal(p, slow.permutations[group])
    assert len(np.unique(np.round(fast.search.trace, 2))) > 30
    assert float(fast.search.loss) == pytest.approx(float(fast.search.trace.min()), rel=1e-4)


def layers(sizes, rng):
    return {
        f"Dense_{i}": {
            "kernel": jnp.asarray(rng.normal(size=(m, n)), jnp.float32),
            "bias": jnp.zeros(n),
        }
        for i, (m, n) in enumerate(itertools.pairwise(sizes))
    }


def all_distances(spec, a, b, sizes):
    every = [list(itertools.permutations(range(n))) for n in sizes]
    grid = [jnp.asarray(v, jnp.int32) for v in zip(*itertools.product(*every), strict=True)]
    act = jax.vmap(
        lambda *p: weight_distance(a, permute(spec, dict(zip(spec.groups, p, strict=True)), b))
    )
    return np.asarray(jax.jit(act)(*grid), np.float64)


@pytest.mark.slow
def test_the_least_of_all_permutations_and_a_nan_that_stays_alone(rng):
    """By brute force over 4! * 4!; three pairs in a batch, of which the middle one has a nan."""
    pairs = [(layers((3, 4, 4, 2), rng), layers((3, 4, 4, 2), rng)) for _ in range(3)]
    a, b = (jax.tree.map(lambda *v: np.stack(v), *side) for side in zip(*pairs, strict=True))
    b["Dense_1"]["kernel"][1, 0, 0] = np.nan
    spec = mlp_spec(2)

    @jax.jit
    @jax.vmap
    def match(a, b, key):
        return match_annealing(spec, a, b, key=key, num_iterations=3000)

    found = match(a, b, jax.random.split(jax.random.key(1), 3))
    assert found.finite.tolist() == [True, False, True]
    for i in (0, 2):
        least = all_distances(spec, *pairs[i], (4, 4)).min()
        assert float(found.search.loss[i]) == pytest.approx(least, rel=1e-5)
        assert float(found.search.trace[i].min()) == pytest.approx(least, rel=1e-5)
        assert float(found.search.trace[i, -1]) < 1.01 * least
    assert all(sorted(p[1].tolist()) == list(range(4)) for p in found.permutations.values())


def test_visits_follow_boltzmann(rng):
    """At a constant temperature, over the 6 permutations of 3 neurons, which the trace tells."""
    a, b = layers((2, 3, 2), rng), layers((2, 3, 2), rng)
    distances = np.sort(all_distances(mlp_spec(1), a, b, (3,)))
    temperature = float(np.ptp(distances)) / 2
    expected = np.exp(-distances / temperature)
    expected /= expected.sum()
    options = {
        "key": jax.random.key(2),
        "num_iterations": 30_000,
        "temperature": temperature,
        "loss": anew,
    }
    match = jax.jit(functools.partial(match_annealing, mlp_spec(1), **options))
    trace = np.asarray(match(a, b).search.trace)
    states = np.abs(trace[:, None] - distances).argmin(1)
    visited = np.bincount(states, minlength=6) / len(states)
    assert np.abs(visited - expected).max() < 0.02  # four standard errors
    assert np.abs(1 / 6 - expected).max() > 0.1


@pytest.mark.parametrize("temperature", [-1.0, np.nan])
def test_a_known_temperature_is_at_least_0(temperature, rng):
    a, b = layers((2, 3, 2), rng), layers((2, 3, 2), rng)
    with pytest.raises(ValueError, match="temperature is at least 0, not"):
        match_annealing(mlp_spec(1), a, b, key=jax.random.key(0), temperature=temperature)


def test_a_traced_temperature_below_0_is_flagged(rng):
    """As a number or at one step of a schedule; 0 is a descent, and never rises."""
    a, b = layers((2, 4, 2), rng), layers((2, 4, 2), rng)

    @jax.jit
    @jax.vmap
    def match(first, second):
        def schedule(step):
            return jnp.where(step == 7, second, first)

        options = {"key": jax.random.key(0), "num_iterations": 40, "temperature": schedule}
        return match_annealing(mlp_spec(1), a, b, **options)

    first, second = jnp.array([0.0, -1.0, 2.0, np.nan]), jnp.array([0.0, -1.0, -1.0, np.nan])
    found = match(first, second)
    assert found.finite.tolist() == found.converged.tolist() == [True, False, False, False]
    assert (np.diff(found.search.trace[0]) <= 0).all()
    np.testing.assert_array_equal(
        found.search.trace[0], match(jnp.zeros(4), jnp.zeros(4)).search.trace[3]
    )


def test_what_cannot_be_annealed(rng):
    a, b = layers((2, 1, 2), rng), layers((2, 1, 2), rng)
    with pytest.raises(ValueError, match="no group has two neurons"):
        match_annealing(mlp_spec(1), a, b, key=jax.random.key(0))
