"""Coordinate descent over all weights, against the paper's double loop and planted shuffles."""

import functools
import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment

from lmcjax import (
    Covariance,
    Matching,
    PermutationSpec,
    activation_moments,
    match_coordinate_descent,
    mlp_spec,
    permute,
    random_permutations,
)
from lmcjax.matching import weight_inner_product, weight_similarity
from lmcjax.symmetry import both, identity_permutations, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation")

SPEC = mlp_spec(2)
TOY = PermutationSpec.from_axes({"w1": (reads("h"), writes("g")), "w2": (reads("g"), writes("h"))})


@functools.cache
def matcher(spec: PermutationSpec, batch: bool = False, **options: Any) -> Any:
    def match(a: Any, b: Any, key: Any) -> Matching:
        drawn = "restarts" in options or options.get("drawn")
        given = {name: value for name, value in options.items() if name != "drawn"}
        return match_coordinate_descent(spec, a, b, key=key if drawn else None, **given)

    return jax.jit(jax.vmap(match) if batch else match)


def mlp(rng: np.random.Generator, *widths: int) -> dict[str, Any]:
    """Kernels of fan-in's variance and small biases, in NumPy."""
    return {
        f"Dense_{i}": {
            "kernel": (rng.normal(size=(m, n)) / np.sqrt(m)).astype(np.float32),
            "bias": (0.3 * rng.normal(size=n)).astype(np.float32),
        }
        for i, (m, n) in enumerate(itertools.pairwise(widths))
    }


def git_rebasin(a: Any, b: Any, order: tuple[int, ...]) -> list[np.ndarray]:
    """Algorithm 1: `P_l <- argmax <P, W_l^A P_{l-1} W_l^B^T + W_{l+1}^A^T P_{l+1} W_{l+1}^B + b_l^A
    b_l^B^T>`.
    """
    kernels = [
        [np.asarray(layer["kernel"], np.float64).T for layer in side.values()] for side in (a, b)
    ]
    biases = [[np.asarray(layer["bias"], np.float64) for layer in side.values()] for side in (a, b)]
    depth = len(biases[0])
    p = [np.arange(len(bias)) for bias in biases[0]]  # the last stays
    improving = True
    while improving:
        improving = False
        for layer in order:
            seen = kernels[1][layer][:, p[layer - 1]] if layer else kernels[1][layer]
            matrix = kernels[0][layer] @ seen.T + np.outer(biases[0][layer], biases[1][layer])
            matrix += kernels[0][layer + 1].T @ kernels[1][layer + 1][p[layer + 1]]
            best = linear_sum_assignment(matrix, maximize=True)[1]
            rows = np.arange(len(best))
            improving |= matrix[rows, best].sum() > matrix[rows, p[layer]].sum() + 1e-9
            p[layer] = best
    return p[: depth - 1]


def product(a: Any, b: Any) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum(np.vdot(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in pairs)


@pytest.mark.parametrize("width", [16, 64, 256])
@pytest.mark.usefixtures("strict_promotion")
def test_equals_the_papers_double_loop(width: int, rng: np.random.Generator) -> None:
    a, b = mlp(rng, 10, width, width, 4), mlp(rng, 10, width, width, 4)
    order = (1, 0) if width == 16 else (0, 1)
    matching = matcher(SPEC, certify=width == 64, order=tuple(f"Dense_{i}" for i in order))(
        a, b, None
    )
    for found, expected in zip(
        matching.permutations.values(), git_rebasin(a, b, order), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert float(matching.total.reached) == pytest.approx(
        product(a, permute(SPEC, matching.permutations, b)), rel=1e-5
    )
    assert float(matching.total.identity) == pytest.approx(product(a, b), rel=1e-3, abs=1e-3)
    assert (matching.converged, matching.finite) == (True, True)
    for group, p in [("Dense_1", matching.permutations["Dense_1"])] if width == 16 else []:
        matrix = weight_similarity(SPEC, group, a, b, permutations=matching.permutations)
        assert float(matching.similarity[group]) == pytest.approx(
            float(matrix[np.arange(width), p].sum()), rel=1e-5
        )
        assert float(matching.identity_similarity[group]) == pytest.approx(
            float(jnp.trace(matrix)), rel=1e-4
        )
    for proof in (matching.certificates or {}).values():
        assert proof.optimal
        assert 0 <= proof.gap < 1e-4


@pytest.mark.parametrize("width", [32, 128, 512])
def test_a_shuffled_copy_is_recovered(width: int, rng: np.random.Generator) -> None:
    a = mlp(rng, 10, width, width, 4)
    planted = {g: rng.permutation(width) for g in SPEC.groups}
    shuffled = permute(SPEC, {g: np.argsort(p) for g, p in planted.items()}, a)
    matching = matcher(SPEC)(a, shuffled, None)
    assert matching.certificates is None
    chex.assert_trees_all_equal(
        matching.permutations, {g: jnp.asarray(p, jnp.int32) for g, p in planted.items()}
    )
    assert float(matching.total.reached) == pytest.approx(product(a, a), rel=1e-5)


def toy(rng: np.random.Generator, width: int) -> dict[str, Any]:
    return {name: rng.normal(size=(width, width)).astype(np.float32) for name in ("w1", "w2")}


def test_restarts_recover_what_one_descent_does_not(rng: np.random.Generator) -> None:
    """Two groups that meet in two leaves in both orders, with nothing else to hold on to;
    `benchmarks/
    matching_quality.py` has width 64 and 20 seeds."""
    match = matcher(TOY, restarts=32, order=TOY.groups)
    first = 0
    for seed in range(6):
        a = toy(np.random.default_rng(seed), 16)
        planted = {g: rng.permutation(16) for g in TOY.groups}
        shuffled = permute(TOY, {g: np.argsort(p) for g, p in planted.items()}, a)
        matching = match(a, shuffled, jax.random.key(seed))
        chex.assert_trees_all_equal(
            matching.permutations, {g: jnp.asarray(p, jnp.int32) for g, p in planted.items()}
        )
        assert matching.total.restarts.shape == (32,)
        assert float(matching.total.restarts.max()) == float(matching.total.reached)
        first += float(matching.total.restarts[0]) > 0.999 * product(a, a)
    assert first < 6


@pytest.mark.slow
def test_the_first_restart_is_the_plain_descent(small_pairs: Any) -> None:
    """In a batch of pairs, each with its own key."""
    a, b = (jax.tree.map(np.asarray, side) for side in small_pairs[2:4])
    match = matcher(SPEC, batch=True, restarts=5, order=SPEC.groups)
    matching = match(a, b, jax.random.split(jax.random.key(0), 3))
    for i in range(3):
        one, other = (jax.tree.map(lambda x, i=i: x[i], side) for side in (a, b))
        p = dict(zip(SPEC.groups, git_rebasin(one, other, (0, 1)), strict=True))
        plain = product(one, permute(SPEC, p, other))
        assert float(matching.total.restarts[i, 0]) == pytest.approx(plain, rel=1e-5)
        best = product(
            one, permute(SPEC, {g: p[i] for g, p in matching.permutations.items()}, other)
        )
        assert float(matching.total.reached[i]) == pytest.approx(best, rel=1e-5)
        assert best >= float(matching.total.restarts[i].max()) - 1e-4
    assert len(np.unique(matching.total.restarts)) > 3


def test_a_key_draws_the_order_of_every_pass(rng: np.random.Generator) -> None:
    """Different keys end in different local optima, each of which the double loop in SciPy cannot
    better.
    """
    a, b = mlp(rng, 10, 16, 16, 4), mlp(rng, 10, 16, 16, 4)
    found = [matcher(SPEC, drawn=True)(a, b, jax.random.key(i)) for i in range(8)]
    again = matcher(SPEC, drawn=True)(a, b, jax.random.key(0))
    chex.assert_trees_all_equal(again, found[0])
    assert len({float(matching.total.reached) for matching in found}) > 1
    for matching in found:
        assert matching.converged
        aligned = permute(SPEC, matching.permutations, b)
        assert all((p == np.arange(16)).all() for p in git_rebasin(a, aligned, (0, 1)))


@pytest.mark.slow
def test_heads_come_back_together_with_their_channels(cases: Any) -> None:
    case = cases["attention"]
    a = case.params(0)
    spec = case.spec.bind(a)

    @jax.jit
    def recover(a: Any, key: Any) -> Any:
        shuffled = permute(spec, random_permutations(key, spec), a)
        matching = match_coordinate_descent(spec, a, shuffled)
        return matching.total.reached, permute(spec, matching.permutations, shuffled)

    total, recovered = recover(a, jax.random.key(3))
    assert float(total) == pytest.approx(product(a, a), rel=1e-5)
    chex.assert_trees_all_equal(recovered, jax.tree.map(jnp.asarray, a))


def test_a_group_on_two_axes_of_a_leaf_never_falls(rng: np.random.Generator) -> None:
    """`<A, P B P^T>`: a quadratic assignment. The step by its linearisation is taken only if that
    rises.
    """
    spec = PermutationSpec.from_axes({"in": (None, writes("h")), "w": (both("h"), both("h"))})
    start = identity_permutations(spec, {"in": np.zeros((1, 9)), "w": np.zeros((9, 9))})["h"]

    @jax.jit
    def match(a: Any, b: Any) -> list[Matching]:
        once = match_coordinate_descent(spec, a, b, max_iterations=1)
        to_the_end = match_coordinate_descent(spec, a, b, max_iterations=50)
        return [once, to_the_end]

    falls = 0
    for _ in range(8):
        sides = [{"in": 0.1 * rng.normal(size=(1, 9)), "w": rng.normal(size=(9, 9))} for _ in "ab"]
        a, b = (jax.tree.map(np.float32, side) for side in sides)
        results = match(a, b)
        totals = [product(a, b), *(product(a, permute(spec, m.permutations, b)) for m in results)]
        assert (np.diff(totals) >= -1e-4).all()
        assert float(results[-1].total.reached) == pytest.approx(totals[-1], rel=1e-4)
        matrix = weight_similarity(spec, "h", a, b, permutations={"h": start})
        blind = linear_sum_assignment(matrix, maximize=True)[1]
        falls += product(a, permute(spec, {"h": blind.astype(np.int32)}, b)) < product(a, b)
        assert results[-1].converged
    assert falls > 0


@pytest.mark.slow
def test_the_metric_is_each_networks_own_root(pair: Any) -> None:
    """`<W_A S_A^(1/2), P' W_B S_B^(1/2) P^T>` by SciPy's `sqrtm`; and it moves with the neurons."""
    a, b, spec = pair.params_a, pair.params_b, pair.spec

    @jax.jit
    def match(a: Any, b: Any) -> Any:
        def covariance(b: Any) -> Covariance:
            apply = pair.network.apply
            return Covariance(activation_moments(apply, spec, a, b, pair.inputs, batch_size=300))

        found = match_coordinate_descent(spec, a, b, similarity=covariance(b))
        aligned = permute(spec, found.permutations, b)
        in_place = identity_permutations(spec, a)
        return found, weight_inner_product(
            spec, in_place, a, aligned, similarity=covariance(aligned)
        )

    found, of_aligned = match(a, b)
    expected, phi = 0.0, [np.asarray(pair.inputs, np.float64)] * 2
    before = np.arange(phi[0].shape[1])
    for name in a:
        kernels, biases = (
            [np.asarray(side[name][leaf], np.float64) for side in (a, b)]
            for leaf in ("kernel", "bias")
        )
        after = np.asarray(found.permutations.get(name, np.arange(len(biases[0]))))
        roots = [np.real(sqrtm(x.T @ x / len(x))) @ w for x, w in zip(phi, kernels, strict=True)]
        expected += np.vdot(roots[0], roots[1][before][:, after]) + biases[0] @ biases[1][after]
        phi = [np.maximum(x @ w + v, 0) for x, w, v in zip(phi, kernels, biases, strict=True)]
        before = after
    assert float(found.total.reached) == pytest.approx(expected, rel=1e-3)
    assert float(of_aligned) == pytest.approx(expected, rel=1e-3)
    plain = jax.jit(weight_inner_product, static_argnums=0)(spec, found.permutations, a, b)
    assert float(plain) != pytest.approx(expected, rel=1e-2)


def test_leaf_weights_count(small_pairs: Any) -> None:
    """Without outgoing kernel and bias a network with one hidden layer is matched by its incoming
    kernel.
    """
    sides = [
        {n: jax.tree.map(lambda v: np.asarray(v)[0], side[n]) for n in ("Dense_0", "Dense_1")}
        for side in small_pairs[2:4]
    ]
    spec, (a, b) = mlp_spec(1), sides
    weights = {name: 0.0 for name in ("Dense_1/kernel", "Dense_0/bias", "Dense_1/bias")}
    match = jax.jit(functools.partial(match_coordinate_descent, spec, leaf_weights=weights))
    matrix = np.asarray(a["Dense_0"]["kernel"]).T @ np.asarray(b["Dense_0"]["kernel"])
    np.testing.assert_array_equal(
        match(a, b).permutations["Dense_0"], linear_sum_assignment(matrix, maximize=True)[1]
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"restarts": 3}, "restarts=3 start at random permutations, and key is None"),
        (
            {"order": ("Dense_0",)},
            r"order names \('Dense_0',\), the groups of the spec are \('Dense_0', 'Dense_1'\)",
        ),
        ({"leaf_weights": {"Dense_9/kernel": 2.0}}, "leaf_weights name leaf 'Dense_9/kernel'"),
        ({"init": {"Dense_0": np.zeros(8, np.int32), "Dense_1": np.arange(6)}}, "not a bijection"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str, small_pairs: Any) -> None:
    a, b = (jax.tree.map(lambda v: np.asarray(v)[0], side) for side in small_pairs[2:4])
    with pytest.raises(ValueError, match=message):
        match_coordinate_descent(SPEC, a, b, **options)
