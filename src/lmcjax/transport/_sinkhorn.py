"""Entropic optimal transport by ott-jax."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num

from lmcjax._checks import check_positive
from lmcjax._dtypes import accumulation_dtype, check_real


class SinkhornPlan(NamedTuple):
    """The result of `sinkhorn_plan`; `vmap` prepends axes to every field."""

    plan: Float[Array, "n_a n_b"]  # sums to 1; rows sum to a, columns to b
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]  # the marginals are met to the threshold
    # False: some entry of the cost or the plan is nan or inf, or epsilon is not above 0; ignore the
    # plan
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
    """The entropic transport plan `argmin_P <P, cost> + epsilon KL(P || a b^T)` over plans with
    marginals a and b.

    In the log domain, by ott-jax. Differentiable in `cost`, `epsilon`, `a`, `b`, any number of
    times: the gradient is that of the fixed point (implicit differentiation, one dense linear
    system of the smaller side), right to the precision with which the fixed point is reached, so
    ask for a small `threshold` where gradients matter.

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
    for name, weights, size in (("a", a, shape[0]), ("b", b, shape[1])):
        if weights is None:
            continue
        check_real(weights)
        if jnp.shape(weights) != (size,):
            raise ValueError(
                f"{name} has shape {jnp.shape(weights)}, the cost {shape} asks for {(size,)}"
            )
    check_positive("epsilon", epsilon)
    cost = jnp.asarray(cost, accumulation_dtype(cost))
    epsilon = jnp.asarray(epsilon, cost.dtype)
    positive = epsilon > 0  # nan is not
    logits = -cost / jnp.where(positive, epsilon, 1)
    finite_logits = jnp.isfinite(logits).all()
    margins = [
        jnp.full(n, 1 / n, cost.dtype) if given is None else jnp.asarray(given, cost.dtype)
        for n, given in zip(shape, (a, b), strict=True)
    ]
    plan, iterations, converged = _solve(
        threshold, max_iterations, jnp.where(finite_logits, logits, 0), *margins
    )
    plan = jnp.where(positive, plan, jnp.nan)
    finite = finite_logits & jnp.isfinite(plan).all()
    return SinkhornPlan(plan, iterations, converged & finite, finite)


# ott-jax's own implicit gradient solves an unsymmetric system by conjugate gradients on its normal
# equations, and where these fail (near a permutation, in float32) it raises from within jit.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _solve(
    threshold: float, max_iterations: int, logits: Array, a: Array, b: Array
) -> tuple[Array, Array, Array]:
    """The plan `exp(u_i + v_j + logits_ij)`, the iterations, and whether the marginals are met."""
    # ott-jax takes seconds to import: pay for it where it is used
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    problem = linear_problem.LinearProblem(
        geometry.Geometry(cost_matrix=-logits, epsilon=1.0), a=a, b=b
    )
    output = sinkhorn.Sinkhorn(threshold=threshold, max_iterations=max_iterations)(problem)
    return output.matrix, jnp.asarray(output.n_iters, jnp.int32), jnp.asarray(output.converged)


def _forward(
    threshold: float, max_iterations: int, logits: Array, a: Array, b: Array
) -> tuple[tuple, Array]:
    output = _solve(threshold, max_iterations, logits, a, b)
    return output, output[0]


def _backward(
    threshold: float, max_iterations: int, plan: Array, cotangents: tuple
) -> tuple[Array, Array, Array]:
    """With `dP = P * (du 1^T + 1 dv^T + dX)` and marginals that stay: `X' = W - P * (x 1^T + 1
    y^T)`, `W = P' * P`,
    where `[diag(P 1), P; P^T, diag(P^T 1)] [x; y] = [W 1; W^T 1]`."""
    del threshold, max_iterations
    weighted = cotangents[0] * plan
    x, y = _dual_system(plan, weighted.sum(1), weighted.sum(0))
    return weighted - plan * (x[:, None] + y), x, y


_solve.defvjp(_forward, _backward)


def _dual_system(plan: Array, right_a: Array, right_b: Array) -> tuple[Array, Array]:
    """Solve for `x` and `y`, by the Schur complement of the larger side; a constant may pass from
    `x` to `y`.
    """
    if plan.shape[0] > plan.shape[1]:
        y, x = _dual_system(plan.T, right_b, right_a)
        return x, y
    rows, columns = plan.sum(1), plan.sum(0)
    scaled = plan / columns
    n, level = len(rows), rows.mean()
    schur = jnp.diag(rows) - jnp.matmul(scaled, plan.T, precision=jax.lax.Precision.HIGHEST)
    ridge = (
        10 * jnp.finfo(plan.dtype).eps * level
    )  # near a permutation the complement vanishes, and so does W
    schur = (
        schur + level / n + ridge * jnp.eye(n, dtype=plan.dtype)
    )  # the constants, which it sends to 0, are lifted
    x = jnp.linalg.solve(schur, right_a - scaled @ right_b)
    return x, (right_b - plan.T @ x) / columns
