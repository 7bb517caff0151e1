"""Entropic optimal transport by ott-jax."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num

from lmcjax._checks import check_positive
from lmcjax._dtypes import accumulation_dtype, check_real


class _Solution(NamedTuple):
    """What ott-jax returns, in plain arrays."""

    plan: Float[Array, "n_a n_b"]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


class SinkhornPlan(NamedTuple):
    """The result of `sinkhorn_plan`; `vmap` prepends axes to every field."""

    plan: Float[Array, "n_a n_b"]  # sums to 1; rows sum to a, columns to b
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]  # the marginals are met to the threshold
    # False: ignore the plan. Some entry of the cost or the plan is nan or inf, or epsilon is not
    # above 0.
    finite: Bool[Array, ""]


def sinkhorn_plan(
    cost: Num[ArrayLike, "n_a n_b"],
    *,
    epsilon: float | Float[ArrayLike, ""],
    a: Float[ArrayLike, " n_a"] | None = None,
    b: Float[ArrayLike, " n_b"] | None = None,
    threshold: float = 1e-4,
    max_iterations: int = 2000,
) -> SinkhornPlan:
    """The entropic transport plan `argmin_P <P, cost> + epsilon KL(P || a b^T)`.

    P runs over the plans with marginals a and b. Computed in the log domain, by ott-jax.
    Differentiable in `cost`, `epsilon`, `a`, `b`, any number of times. The gradient is that of the
    fixed point (implicit differentiation, one dense linear system of the smaller side). It is right
    to the precision with which the fixed point is reached, so ask for a small `threshold` where
    gradients matter.

    Args:
        cost: traced, any unit.
        epsilon: traced, above 0, in the unit of `cost`; smaller is nearer the exact plan and
            slower. A traced one that is not above 0 gives a plan of nan.
        a: weights of the rows, summing to 1; None: uniform.
        b: weights of the columns, summing to 1; None: uniform.
        threshold: static; the L1 error of the marginals at which iteration stops.
        max_iterations: static.

    Raises:
        ValueError: `cost` is no matrix, `a` or `b` does not fit it, one of them is complex, or
            `epsilon` is known and not above 0.

    Source: Cuturi (2013); Cuturi et al. (2022), Optimal Transport Tools.
    """
    shape = jnp.shape(cost)
    if len(shape) != 2:
        raise ValueError(
            f"cost has shape {shape}, expected a matrix [n_a, n_b]; use jax.vmap for batches"
        )
    n_a, n_b = shape
    check_positive("epsilon", epsilon)
    cost = jnp.asarray(cost, accumulation_dtype(cost))
    weights_a = _weights("a", a, n_a, cost)
    weights_b = _weights("b", b, n_b, cost)

    epsilon = jnp.asarray(epsilon, cost.dtype)
    positive = epsilon > 0  # nan is not
    logits = -cost / jnp.where(positive, epsilon, 1)
    finite_logits = jnp.isfinite(logits).all()
    # The solver sees finite numbers in any case; `finite` tells that the plan is not to be used.
    solvable = jnp.where(finite_logits, logits, 0)
    solution = _solve(threshold, max_iterations, solvable, weights_a, weights_b)
    plan = jnp.where(positive, solution.plan, jnp.nan)
    finite = finite_logits & jnp.isfinite(plan).all()
    return SinkhornPlan(plan, solution.iterations, solution.converged & finite, finite)


def _weights(name: str, given: Float[ArrayLike, " n"] | None, size: int, cost: Array) -> Array:
    """The weights of one side, in the dtype of the costs; uniform where none are given."""
    if given is None:
        return jnp.full(size, 1 / size, cost.dtype)
    check_real(given)
    if jnp.shape(given) != (size,):
        raise ValueError(
            f"{name} has shape {jnp.shape(given)}, the cost {cost.shape} asks for {(size,)}"
        )
    return jnp.asarray(given, cost.dtype)


# ott-jax's own implicit gradient solves an unsymmetric system by conjugate gradients on its normal
# equations, and where these fail (near a permutation, in float32) it raises from within jit.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _solve(threshold: float, max_iterations: int, logits: Array, a: Array, b: Array) -> _Solution:
    """The plan `exp(u_i + v_j + logits_ij)` with marginals a and b."""
    # ott-jax takes seconds to import: pay for it only where it is used.
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    cloud_geometry = geometry.Geometry(cost_matrix=-logits, epsilon=1.0)
    problem = linear_problem.LinearProblem(cloud_geometry, a=a, b=b)
    solver = sinkhorn.Sinkhorn(threshold=threshold, max_iterations=max_iterations)
    output = solver(problem)
    return _Solution(
        plan=output.matrix,
        iterations=jnp.asarray(output.n_iters, jnp.int32),
        converged=jnp.asarray(output.converged),
    )


def _forward(
    threshold: float, max_iterations: int, logits: Array, a: Array, b: Array
) -> tuple[_Solution, Array]:
    """The solution, and what the backward pass needs of it: the plan."""
    solution = _solve(threshold, max_iterations, logits, a, b)
    return solution, solution.plan


def _backward(
    threshold: float, max_iterations: int, plan: Array, cotangents: _Solution
) -> tuple[Array, Array, Array]:
    """The cotangents of logits, a and b.

    A change of the plan is `dP = P * (du 1^T + 1 dv^T + dX)`, X the logits, where du and dv are
    such that the marginals become a + da and b + db. With P' the cotangent of the plan and
    `W = P' * P`, the transpose of this is `X' = W - P * (x 1^T + 1 y^T)`, `a' = x`, `b' = y`, where
    `[diag(P 1), P; P^T, diag(P^T 1)] [x; y] = [W 1; W^T 1]`.
    """
    del threshold, max_iterations
    weighted = cotangents.plan * plan
    x, y = _solve_dual_system(plan, weighted.sum(1), weighted.sum(0))
    return weighted - plan * (x[:, None] + y), x, y


_solve.defvjp(_forward, _backward)


def _solve_dual_system(plan: Array, right_a: Array, right_b: Array) -> tuple[Array, Array]:
    """Solve the system of `_backward` for `x` and `y`, by the Schur complement of the larger side.

    The solution is unique up to a constant that may pass from `x` to `y`.
    """
    n_a, n_b = plan.shape
    if n_a > n_b:
        y, x = _solve_dual_system(plan.T, right_b, right_a)
        return x, y
    row_sums = plan.sum(1)
    column_sums = plan.sum(0)
    scaled = plan / column_sums
    product = jnp.matmul(scaled, plan.T, precision=jax.lax.Precision.HIGHEST)
    complement = jnp.diag(row_sums) - product
    # The complement sends constants to 0, so they are lifted to make it invertible.
    mean_row_sum = row_sums.mean()
    complement = complement + mean_row_sum / n_a
    # Near a permutation the complement vanishes, and so does W.
    ridge = 10 * jnp.finfo(plan.dtype).eps * mean_row_sum
    complement = complement + ridge * jnp.eye(n_a, dtype=plan.dtype)
    x = jnp.linalg.solve(complement, right_a - scaled @ right_b)
    y = (right_b - plan.T @ x) / column_sums
    return x, y
