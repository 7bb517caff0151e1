"""The entropic plan against POT, its gradient against finite differences of POT, and its flags."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from lmcjax import linear_assignment, sinkhorn_plan
from lmcjax.transport import SinkhornPlan

EPSILON = 0.2


def problem(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A cost and two nonuniform vectors of weights."""
    a, b = rng.uniform(0.5, 1.5, 4), rng.uniform(0.5, 1.5, 3)
    return rng.uniform(size=(4, 3)), a / a.sum(), b / b.sum()


def pot_plan(
    cost: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float = EPSILON
) -> np.ndarray:
    a, b = a / a.sum(), b / b.sum()  # after a rounding to float32
    return ot.sinkhorn(a, b, cost, epsilon, method="sinkhorn_log", stopThr=1e-13, numItermax=5000)


@jax.jit
def solve(cost: jax.Array, epsilon: jax.Array, a: jax.Array, b: jax.Array) -> SinkhornPlan:
    return sinkhorn_plan(cost, epsilon=epsilon, a=a, b=b, threshold=1e-5)


@pytest.mark.parametrize("epsilon", [0.05, 1.0])
@pytest.mark.slow
def test_equals_pot(epsilon: float, rng: np.random.Generator) -> None:
    cost, a, b = (v.astype(np.float32) for v in problem(rng))
    result = solve(cost, epsilon, a, b)
    expected = pot_plan(*(v.astype(np.float64) for v in (cost, a, b)), epsilon)
    np.testing.assert_allclose(result.plan, expected, atol=1e-5)
    assert result.plan.dtype == jnp.float32
    assert result.converged
    assert result.finite


def test_weights_are_uniform_by_default(rng: np.random.Generator) -> None:
    cost, _, _ = problem(rng)
    plan = jax.jit(lambda c: sinkhorn_plan(c, epsilon=EPSILON, threshold=1e-5).plan)(
        cost.astype(np.float32)
    )
    np.testing.assert_allclose(
        plan, pot_plan(cost, np.full(4, 1 / 4), np.full(3, 1 / 3)), atol=1e-5
    )


def test_small_epsilon_approaches_the_exact_plan() -> None:
    cost = np.random.default_rng(3).uniform(size=(4, 4)).astype(np.float32)
    uniform = np.full(4, 1 / 4, np.float32)
    plan = solve(cost, 0.01, uniform, uniform).plan
    np.testing.assert_allclose(plan, np.eye(4)[np.asarray(linear_assignment(cost))] / 4, atol=0.01)


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def test_plan_and_gradients_are_those_of_pot(x64: None, finite_difference: Callable) -> None:
    """In float64: the gradients in the cost, in epsilon, and in the weights along the simplex."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(4, 3))
    problems = (
        rng.uniform(size=(2, 4, 3)),
        np.array([0.2, 0.5]),
        rng.normal(size=(2, 4)),
        rng.normal(size=(2, 3)),
    )

    def ours(
        cost: jax.Array, epsilon: jax.Array, logits_a: jax.Array, logits_b: jax.Array
    ) -> tuple:
        a, b = jax.nn.softmax(logits_a), jax.nn.softmax(logits_b)
        plan = sinkhorn_plan(cost, epsilon=epsilon, a=a, b=b, threshold=1e-12).plan
        return jnp.sum(direction * plan), plan

    def pots(
        cost: np.ndarray, epsilon: np.ndarray, logits_a: np.ndarray, logits_b: np.ndarray
    ) -> float:
        return float(
            np.sum(direction * pot_plan(cost, softmax(logits_a), softmax(logits_b), float(epsilon)))
        )

    differentiated = jax.value_and_grad(ours, argnums=(0, 1, 2, 3), has_aux=True)
    (_, plans), gradients = jax.jit(jax.vmap(differentiated))(*problems)
    for i in range(2):
        point = [v[i] for v in problems]
        expected = pot_plan(point[0], softmax(point[2]), softmax(point[3]), point[1])
        np.testing.assert_allclose(plans[i], expected, atol=1e-10)
        for k, gradient in enumerate(gradients):
            oracle = finite_difference(
                lambda v, k=k: pots(*point[:k], v, *point[k + 1 :]), point[k]
            )
            np.testing.assert_allclose(gradient[i], oracle, atol=1e-6)


def test_too_few_iterations_are_not_converged(rng: np.random.Generator) -> None:
    cost, a, b = (v.astype(np.float32) for v in problem(rng))
    limited = functools.partial(sinkhorn_plan, epsilon=0.002, a=a, b=b, threshold=1e-4)
    early = jax.jit(functools.partial(limited, max_iterations=10))(cost)
    late = jax.jit(functools.partial(limited, max_iterations=20_000))(cost)
    assert not early.converged
    assert early.finite
    assert late.converged
    assert int(early.iterations) <= 10 < int(late.iterations)

    def marginal_error(plan: jax.Array) -> float:
        return np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum()

    assert marginal_error(late.plan) < 2e-4 < marginal_error(early.plan)


def test_bad_costs_and_epsilons_are_flagged_and_spoil_no_neighbour(
    rng: np.random.Generator,
) -> None:
    _, a, b = (v.astype(np.float32) for v in problem(rng))
    costs = rng.uniform(size=(5, 4, 3)).astype(np.float32)
    epsilons = np.full(5, EPSILON, np.float32)
    batched = jax.jit(jax.vmap(solve, in_axes=(0, 0, None, None)))
    clean = batched(costs, epsilons, a, b)
    assert clean.finite.all()
    assert clean.converged.all()
    costs[1, 0, 0] = np.nan
    costs[2, 1, 1] = np.inf
    epsilons[3] = np.nan
    result = batched(costs, epsilons, a, b)
    assert result.finite.tolist() == result.converged.tolist() == [True, False, False, False, True]
    np.testing.assert_array_equal(np.asarray(result.plan)[::4], np.asarray(clean.plan)[::4])


@pytest.mark.parametrize("epsilon", [-1.0, 0.0, np.nan])
def test_a_traced_epsilon_that_is_not_above_0_gives_no_plan(
    epsilon: float, rng: np.random.Generator
) -> None:
    """Nan, and flagged; beside it in the batch, to the bit what a batch without it gives."""
    cost, a, b = (v.astype(np.float32) for v in problem(rng))
    batched = jax.jit(jax.vmap(solve, in_axes=(None, 0, None, None)))
    clean = batched(cost, np.full(3, EPSILON, np.float32), a, b)
    result = batched(cost, np.array([EPSILON, epsilon, EPSILON], np.float32), a, b)
    assert result.finite.tolist() == result.converged.tolist() == [True, False, True]
    assert np.isnan(result.plan[1]).all()
    np.testing.assert_array_equal(np.asarray(result.plan)[::2], np.asarray(clean.plan)[::2])


@pytest.mark.parametrize("epsilon", [-1.0, 0.0, np.nan, jnp.float32(-1)])
def test_a_known_epsilon_that_is_not_above_0_is_an_error(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon is above 0, not"):
        sinkhorn_plan(jnp.ones((2, 2)), epsilon=epsilon)


@pytest.mark.usefixtures("unchecked")
def test_errors_name_the_argument_and_the_shapes() -> None:
    cost = jnp.zeros((5, 4))
    with pytest.raises(ValueError, match=r"\(2, 5, 4\).*vmap"):
        sinkhorn_plan(jnp.zeros((2, 5, 4)), epsilon=1.0)
    with pytest.raises(ValueError, match=r"a has shape \(4,\).*\(5,\)"):
        sinkhorn_plan(cost, epsilon=1.0, a=jnp.ones(4) / 4)
    with pytest.raises(ValueError, match=r"b has shape \(5,\).*\(4,\)"):
        sinkhorn_plan(cost, epsilon=1.0, b=jnp.ones(5) / 5)
