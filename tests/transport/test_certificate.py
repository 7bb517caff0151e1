"""Certificates of assignments, against SciPy's linear program and all permutations."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog

from lmcjax.transport import AssignmentCertificate, assignment_certificate

pytestmark = pytest.mark.usefixtures("quick_compilation", "strict_promotion")


@functools.cache
def jitted(maximize: bool = False, batch: bool = False) -> Any:
    certify = functools.partial(assignment_certificate, maximize=maximize)
    return jax.jit(jax.vmap(certify) if batch else certify)


def value(cost: np.ndarray, permutation: Any) -> float:
    return cost[np.arange(len(cost)), np.asarray(permutation)].sum()


def dual_optimum(cost: np.ndarray) -> float:
    """`max sum u + sum v` subject to `u_i + v_j <= cost_ij`."""
    n = len(cost)
    rows, columns = np.divmod(np.arange(n * n), n)
    constraints = np.zeros((n * n, 2 * n))
    constraints[np.arange(n * n), rows] = constraints[np.arange(n * n), n + columns] = 1
    return -linprog(-np.ones(2 * n), constraints, cost.ravel(), bounds=(None, None)).fun


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_the_potentials_of_an_optimum_solve_the_dual(
    maximize: bool, ties: bool, rng: np.random.Generator
) -> None:
    for _ in range(4):
        cost = (
            rng.integers(-2, 3, (12, 12)).astype(np.float32) if ties else rng.normal(size=(12, 12))
        )
        p = linear_sum_assignment(cost, maximize=maximize)[1]
        proof = jitted(maximize)(jnp.asarray(cost, jnp.float32), p)
        u = np.asarray(proof.row_potentials, np.float64)
        v = np.asarray(proof.column_potentials, np.float64)
        reduced = (u[:, None] + v - cost) * (1 if maximize else -1)
        assert reduced.min() >= -1e-5
        assert np.abs(reduced[np.arange(12), p]).max() < 1e-5
        sign = -1 if maximize else 1
        assert u.sum() + v.sum() == pytest.approx(sign * dual_optimum(sign * cost), abs=1e-4)
        assert proof.optimal
        assert 0 <= proof.gap < 1e-5
        assert abs(proof.smallest_reduced_cost) < 1e-5


def test_the_gap_bounds_what_any_permutation_lacks(rng: np.random.Generator) -> None:
    """Of all 120 permutations the cheapest alone is certified, and no gap is too small."""
    cost = rng.normal(size=(5, 5)).astype(np.float32)
    permutations = np.array(list(itertools.permutations(range(5))), np.int32)
    proofs = jitted(batch=True)(jnp.asarray(np.broadcast_to(cost, (120, 5, 5))), permutations)
    values = np.array([value(cost, p) for p in permutations])
    best = values.argmin()
    assert np.flatnonzero(proofs.optimal).tolist() == [best]
    assert (np.asarray(proofs.gap) >= values - values[best] - 1e-5).all()
    worse = np.arange(120) != best
    assert (np.asarray(proofs.smallest_reduced_cost)[worse] < -1e-3).all()
    bounds = np.asarray(proofs.row_potentials).sum(1) + np.asarray(proofs.column_potentials).sum(1)
    np.testing.assert_allclose(bounds, values - proofs.gap, atol=1e-5)
    assert (bounds <= values[best] + 1e-5).all()


def test_a_single_swap_is_found_out_at_a_larger_size(rng: np.random.Generator) -> None:
    similarity = rng.normal(size=(12, 12)).astype(np.float32)
    p = linear_sum_assignment(similarity, maximize=True)[1]
    swapped = p[[1, 0, *range(2, 12)]]
    lost = value(similarity, p) - value(similarity, swapped)
    proof = jitted(True)(jnp.asarray(similarity), swapped)
    assert not proof.optimal
    assert proof.gap >= lost - 1e-5


def test_the_unit_of_the_costs_changes_no_verdict(rng: np.random.Generator) -> None:
    """The best assignment is certified, one with two rows exchanged is not; gaps scale exactly."""
    similarity = rng.normal(size=(12, 12)).astype(np.float32)
    best = linear_sum_assignment(similarity, maximize=True)[1]
    swapped = best[[1, 0, *range(2, 12)]]
    powers = np.array([0, -110, -63, -10, 10, 63, 110, 126])
    scaled = np.ldexp(similarity, powers[:, None, None])
    certify = jitted(True, batch=True)
    proofs = certify(jnp.asarray(scaled), np.broadcast_to(best, (len(powers), 12)))
    refuted = certify(jnp.asarray(scaled), np.broadcast_to(swapped, (len(powers), 12)))
    assert proofs.optimal.all()
    assert not refuted.optimal.any()
    for field in ("gap", "smallest_reduced_cost"):
        values = getattr(refuted, field)
        with np.errstate(over="ignore"):
            expected = np.ldexp(np.float32(values[0]), powers)
        np.testing.assert_array_equal(values, expected)


def test_what_is_not_finite_is_not_certified() -> None:
    cost = np.zeros((12, 12), np.float32)
    cost[0, 1] = np.nan
    proof = jitted()(jnp.asarray(cost), np.arange(12))
    assert not proof.optimal
    assert np.isnan(proof.gap)
    assert isinstance(proof, AssignmentCertificate)


NOT_BIJECTIVE = [[0, 0], [1, 1], [0, 2], [-1, 0], [-2, -1]]


@pytest.mark.parametrize("columns", NOT_BIJECTIVE)
def test_what_is_no_permutation_is_not_certified(columns: list[int]) -> None:
    """An error where the values are known; inside a program the fields say it."""
    cost = jnp.array([[0.0, 5.0], [0.0, 5.0]])
    with pytest.raises(ValueError, match=r"not a bijection of 0\.\.1"):
        assignment_certificate(cost, np.array(columns))
    batch = np.array([columns, [1, 0]])
    proof = jitted(batch=True)(jnp.stack([cost, cost]), batch)
    assert proof.optimal.tolist() == [False, True]
    assert np.isnan(proof.gap).tolist() == [True, False]


@pytest.mark.usefixtures("unchecked")
def test_what_is_not_of_integers_is_an_error() -> None:
    with pytest.raises(ValueError, match="float32, expected integers"):
        jax.eval_shape(assignment_certificate, jnp.zeros((2, 2)), jnp.array([0.0, 1.0]))


def test_inside_shard_map_with_its_checks_on(two_devices: list[jax.Device]) -> None:
    cost = np.random.default_rng(0).normal(size=(2, 6, 6)).astype(np.float32)
    p = np.stack([linear_sum_assignment(c)[1] for c in cost])
    mesh = jax.sharding.Mesh(np.array(two_devices), "pairs")
    pairs = jax.sharding.PartitionSpec("pairs")
    certify = jax.shard_map(
        jax.vmap(assignment_certificate), mesh=mesh, in_specs=pairs, out_specs=pairs
    )
    assert jax.jit(certify)(cost, p).optimal.tolist() == [True, True]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("shape", "length"), [((3, 4), 3), ((3, 3), 2), ((3,), 3)])
def test_other_shapes_are_errors(shape: tuple[int, ...], length: int) -> None:
    with pytest.raises(ValueError, match="square matrix"):
        assignment_certificate(jnp.zeros(shape), jnp.arange(length))
