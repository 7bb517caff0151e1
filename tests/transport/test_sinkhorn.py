"""The entropic plan against POT, its gradient against finite differences of POT, and its flags."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from jax.test_util import check_grads

from lmcjax import linear_assignment, sinkhorn_plan

EPSILON = 0.2


def problem(rng: np.random.Generator, n_a: int = 4, n_b: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A cost and two nonuniform vectors of weights."""
    a, b = rng.uniform(0.5, 1.5, n_a), rng.uniform(0.5, 1.5, n_b)
    return rng.uniform(size=(n_a, n_b)), a / a.sum(), b / b.sum()


def pot_plan(cost: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
    a, b = a / a.sum(), b / b.sum()  # after a rounding to float32
    return ot.sinkhorn(a, b, cost, epsilon, method="sinkhorn_log", stopThr=1e-13, numItermax=5000)


@functools.cache
def precise_plan() -> Callable:
    """The plan alone, iterated until it is right to float64."""
    return jax.jit(lambda cost, a, b: sinkhorn_plan(cost, epsilon=EPSILON, a=a, b=b, threshold=1e-12).plan)


@pytest.mark.parametrize("epsilon", [0.05, 1.0])
def test_equals_pot(epsilon: float, rng: np.random.Generator) -> None:
    cost, a, b = (v.astype(np.float32) for v in problem(rng))
    result = sinkhorn_plan(cost, epsilon=epsilon, a=a, b=b, threshold=1e-5)
    expected = pot_plan(*(v.astype(np.float64) for v in (cost, a, b)), epsilon)
    np.testing.assert_allclose(result.plan, expected, atol=1e-5)
    assert result.plan.dtype == jnp.float32
    assert result.converged
    assert result.finite


def test_weights_are_uniform_by_default(rng: np.random.Generator) -> None:
    cost, _, _ = problem(rng)
    plan = sinkhorn_plan(cost.astype(np.float32), epsilon=EPSILON, threshold=1e-5).plan
    np.testing.assert_allclose(plan, pot_plan(cost, np.full(4, 1 / 4), np.full(3, 1 / 3)), atol=1e-5)


def test_equals_pot_in_float64(rng: np.random.Generator, x64: None) -> None:
    cost, a, b = problem(rng)
    np.testing.assert_allclose(precise_plan()(cost, a, b), pot_plan(cost, a, b), atol=1e-10)


def test_small_epsilon_approaches_the_exact_plan() -> None:
    cost = np.random.default_rng(3).uniform(size=(4, 4)).astype(np.float32)
    plan = sinkhorn_plan(cost, epsilon=0.01).plan
    np.testing.assert_allclose(plan, np.eye(4)[np.asarray(linear_assignment(cost))] / 4, atol=0.01)


def test_the_gradient_is_that_of_pot(rng: np.random.Generator, x64: None, finite_difference: Callable) -> None:
    """In the cost; alone under jit and in a batch."""
    cost, a, b = problem(rng)
    costs, weights = np.stack([cost, rng.uniform(size=cost.shape)]), rng.normal(size=cost.shape)
    gradient = jax.grad(lambda c: jnp.sum(weights * precise_plan()(c, a, b)))
    batch = jax.jit(jax.vmap(gradient))(costs)
    for i in range(2):
        oracle = finite_difference(lambda c: float(np.sum(weights * pot_plan(c, a, b))), costs[i])
        np.testing.assert_allclose(batch[i], oracle, atol=1e-6)
    np.testing.assert_allclose(jax.jit(gradient)(costs[0]), batch[0], atol=1e-8)


def test_the_gradient_in_epsilon_and_weights(rng: np.random.Generator, x64: None) -> None:
    """The weights run over the simplex, as softmax does."""
    cost, a, b = problem(rng)

    def plan(epsilon: jax.Array, logits_a: jax.Array, logits_b: jax.Array) -> jax.Array:
        weights = {"a": jax.nn.softmax(logits_a), "b": jax.nn.softmax(logits_b)}
        return sinkhorn_plan(cost, epsilon=epsilon, threshold=1e-13, **weights).plan

    check_grads(jax.jit(plan), (EPSILON, np.log(a), np.log(b)), order=1, modes=["rev"], atol=1e-6, rtol=1e-5)


def test_too_few_iterations_are_not_converged(rng: np.random.Generator) -> None:
    cost, a, b = (v.astype(np.float32) for v in problem(rng))
    solve = functools.partial(sinkhorn_plan, epsilon=0.002, a=a, b=b, threshold=1e-4)
    early, late = solve(cost, max_iterations=10), solve(cost, max_iterations=20_000)
    assert not early.converged
    assert early.finite
    assert late.converged
    assert int(early.iterations) <= 10 < int(late.iterations)
    early_error, late_error = (
        np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum() for plan in (early.plan, late.plan)
    )
    assert late_error < 2e-4 < early_error


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_cost_is_flagged_and_spoils_no_neighbour(bad: float, rng: np.random.Generator) -> None:
    costs = rng.uniform(size=(3, 5, 4)).astype(np.float32)
    solve = jax.jit(jax.vmap(lambda cost: sinkhorn_plan(cost, epsilon=EPSILON)))
    clean = solve(costs)
    costs[1, 0, 0] = bad
    result = solve(costs)
    assert result.finite.tolist() == [True, False, True]
    assert result.converged.tolist() == [True, False, True]
    np.testing.assert_array_equal(result.plan[::2], clean.plan[::2])


def test_a_bad_epsilon_is_flagged(rng: np.random.Generator) -> None:
    result = sinkhorn_plan(rng.uniform(size=(5, 4)).astype(np.float32), epsilon=jnp.nan)
    assert not result.finite
    assert not result.converged


@pytest.mark.usefixtures("unchecked")
def test_errors_name_the_argument_and_the_shapes() -> None:
    cost = jnp.zeros((5, 4))
    with pytest.raises(ValueError, match=r"\(2, 5, 4\).*vmap"):
        sinkhorn_plan(jnp.zeros((2, 5, 4)), epsilon=1.0)
    with pytest.raises(ValueError, match=r"a has shape \(4,\).*\(5,\)"):
        sinkhorn_plan(cost, epsilon=1.0, a=jnp.ones(4) / 4)
    with pytest.raises(ValueError, match=r"b has shape \(5,\).*\(4,\)"):
        sinkhorn_plan(cost, epsilon=1.0, b=jnp.ones(5) / 5)
