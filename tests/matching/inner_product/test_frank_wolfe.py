"""All groups at once over the Birkhoff polytope: against brute force and coordinate descents."""

import functools
import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from lmcjax import (
    Matching,
    PermutationSpec,
    Weights,
    match_coordinate_descent,
    match_frank_wolfe,
    mlp_spec,
    permute,
)
from lmcjax.matching import weight_inner_product
from lmcjax.matching._pair import make_pair
from lmcjax.matching.inner_product import compare_weights
from lmcjax.matching.inner_product._frank_wolfe import _ascend, _start
from lmcjax.symmetry import reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation")

SPEC = PermutationSpec.from_axes(
    {
        "w1": (None, writes("g")),
        "w2": (reads("g"), writes("h")),
        "b2": (writes("h"),),
        "w3": (reads("h"), None),
    }
)


@functools.cache
def matcher(spec: PermutationSpec, batch: bool = False, **options: Any) -> Any:
    def match(a: Any, b: Any, key: Any) -> Matching:
        return match_frank_wolfe(spec, a, b, key=key, **options)

    return jax.jit(jax.vmap(match) if batch else match)


def network(rng: np.random.Generator, width: int, *batch: int) -> dict[str, Any]:
    shapes = {"w1": (3, width), "w2": (width, width), "b2": (width,), "w3": (width, 2)}
    scales = {name: np.sqrt(shape[0]) for name, shape in shapes.items()}
    return {
        n: (rng.normal(size=(*batch, *s)) / scales[n]).astype(np.float32) for n, s in shapes.items()
    }


def keys(count: int) -> Any:
    return jax.random.split(jax.random.key(0), count)


def totals(a: Any, b: Any, g: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Of many permutations of both groups: `[g, h]`."""
    first = np.einsum("io,pio->p", a["w1"], b["w1"][:, g].transpose(1, 0, 2))
    last = np.einsum("ho,pho->p", a["w3"], b["w3"][h]) + np.einsum("h,ph->p", a["b2"], b["b2"][h])
    middle = np.stack([np.einsum("gh,gqh->q", a["w2"], b["w2"][p][:, h]) for p in g])
    return first[:, None] + last + middle


@pytest.mark.slow
def test_small_networks_reach_the_best_of_all_permutations_mostly(rng: np.random.Generator) -> None:
    """Two groups of 4, 576 pairs of permutations; and the inner product is that of the
    permutations returned.
    """
    a, b = network(rng, 4, 20), network(rng, 4, 20)
    every = np.array(list(itertools.permutations(range(4))))
    found = matcher(SPEC, batch=True, init="random")(a, b, keys(20))
    best = 0
    for i in range(20):
        one, other = ({name: side[name][i] for name in side} for side in (a, b))
        truth = totals(one, other, every, every)
        g, h = (
            np.flatnonzero((every == np.asarray(found.permutations[n][i])).all(1)) for n in "gh"
        )
        assert float(found.total.reached[i]) == pytest.approx(truth[g[0], h[0]], rel=1e-4, abs=1e-4)
        assert float(found.total.identity[i]) == pytest.approx(truth[0, 0], rel=1e-4, abs=1e-4)
        best += truth[g[0], h[0]] > truth.max() - 1e-4
    assert best >= 12
    assert found.converged.all()


def test_one_group_is_solved_in_one_step(rng: np.random.Generator) -> None:
    """The inner product is linear: the first vertex is the best of all 120 permutations."""
    spec = PermutationSpec.from_axes({"w1": (None, writes("g")), "w2": (reads("g"), None)})
    a, b = ({"w1": rng.normal(size=(3, 5)), "w2": rng.normal(size=(5, 2))} for _ in "ab")
    matching = matcher(spec, polish=False)(*jax.tree.map(np.float32, (a, b)), None)
    values = [
        np.vdot(a["w1"], b["w1"][:, p]) + np.vdot(a["w2"], b["w2"][list(p)])
        for p in itertools.permutations(range(5))
    ]
    assert float(matching.total.reached) == pytest.approx(max(values), rel=1e-5)
    assert int(matching.iterations) == 1


@pytest.mark.slow
def test_steps_are_the_best_on_their_segment(cases: Any) -> None:
    """Attention kernels carry three groups: the inner product is cubic in the step. Against SciPy's
    vertex and 201
    steps towards it."""
    case = cases["attention"]
    spec = case.spec.bind(case.params(0))

    @jax.jit
    def climb(a: Any, b: Any, key: Any) -> Any:
        pair = make_pair(spec, a, b)
        inner_product = compare_weights(pair, Weights())
        start = _start(pair.spec, inner_product, "random", key)
        gradient = jax.grad(lambda soft: weight_inner_product(spec, soft, a, b))(start)
        ascent = _ascend(inner_product, start, 1, 0.0, "auto")
        return start, gradient, ascent.alignments

    @jax.jit
    def along(a: Any, b: Any, start: Any, vertex: Any, reached: Any) -> Any:
        value = functools.partial(weight_inner_product, spec, params_a=a, params_b=b)
        mixed = jax.vmap(lambda t: jax.tree.map(lambda x, y: (1 - t) * x + t * y, start, vertex))
        return jax.vmap(lambda soft: value(soft))(mixed(jnp.linspace(0, 1, 201))), value(reached)

    inside = 0
    for seed in range(12):
        a, b = case.params(2 * seed), case.params(2 * seed + 1)
        start, gradient, once = climb(a, b, jax.random.key(seed))
        vertex = {g: np.zeros_like(matrix) for g, matrix in gradient.items()}
        for g, matrix in gradient.items():
            for batch in np.ndindex(matrix.shape[:-2]):
                vertex[g][batch][linear_sum_assignment(matrix[batch], maximize=True)] = 1
        values, reached = along(a, b, start, vertex, once)
        assert reached >= values.max() - 1e-5
        inside += 0 < values.argmax() < 200
        for matrix in once.values():
            for axis in (-1, -2):
                np.testing.assert_allclose(matrix.sum(axis), 1, atol=1e-5)
            assert matrix.min() >= 0
    assert inside > 0


@pytest.mark.slow
def test_it_beats_coordinate_descent_and_recovers_a_shuffled_copy(rng: np.random.Generator) -> None:
    """19 pairs and a copy; `benchmarks/matching_quality.py` has 50 pairs of width 128, and
    restarts.
    """
    a, b = network(rng, 24, 20), network(rng, 24, 20)
    planted = {g: rng.permutation(24) for g in SPEC.groups}
    copy = permute(
        SPEC, {g: np.argsort(p) for g, p in planted.items()}, {name: a[name][0] for name in a}
    )
    for name in b:
        b[name][0] = copy[name]
    found = matcher(SPEC, batch=True)(a, b, keys(20))
    descend = jax.jit(jax.vmap(functools.partial(match_coordinate_descent, SPEC)))
    by_descent = descend(a, b).total.reached
    for g, p in planted.items():
        np.testing.assert_array_equal(found.permutations[g][0], p)
    reached = found.total.reached
    assert np.mean(reached[1:]) > 1.02 * np.mean(by_descent[1:])
    assert (np.asarray(reached) > np.asarray(by_descent)).sum() >= 16


def test_started_at_the_best_permutations_it_stays(rng: np.random.Generator) -> None:
    a = {name: leaf[0] for name, leaf in network(rng, 6, 1).items()}
    planted = {g: rng.permutation(6).astype(np.int32) for g in SPEC.groups}
    shuffled = permute(SPEC, {g: np.argsort(p) for g, p in planted.items()}, a)
    match = jax.jit(lambda b, p: match_frank_wolfe(SPEC, a, b, init=p, polish=False))
    found = match(shuffled, planted)
    assert int(found.iterations) == 0
    assert found.converged
    chex.assert_trees_all_equal(found.permutations, jax.tree.map(jnp.asarray, planted))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "zero"}, "init 'zero' is not one of"),
        ({"init": {"Dense_0": np.arange(8)}}, "'Dense_1' is not in both"),
        ({"init": "random"}, "init='random' is drawn from a key, and key is None"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str, small_pairs: Any) -> None:
    a, b = (jax.tree.map(lambda v: np.asarray(v)[0], side) for side in small_pairs[2:4])
    with pytest.raises(ValueError, match=message):
        match_frank_wolfe(mlp_spec(2), a, b, **options)
