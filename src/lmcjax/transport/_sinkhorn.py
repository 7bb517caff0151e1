"""Entropic optimal transport by ott-jax."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num

from lmcjax._dtypes import accumulation_dtype


class SinkhornPlan(NamedTuple):
    """The result of `sinkhorn_plan`; `vmap` prepends axes to every field."""

    plan: Float[Array, "n_a n_b"]  # sums to 1; rows sum to a, columns to b
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]  # the marginals are met to the threshold
    finite: Bool[Array, ""]  # False: some entry of the cost or the plan is nan or inf, ignore the plan


def sinkhorn_plan(
    cost: Num[ArrayLike, "n_a n_b"],
    *,
    epsilon: float | Float[ArrayLike, ""],
    a: Float[ArrayLike, " n_a"] | None = None,
    b: Float[ArrayLike, " n_b"] | None = None,
    threshold: float = 1e-4,
    max_iterations: int = 2000,
) -> SinkhornPlan:
    """The entropic transport plan `argmin_P <P, cost> + epsilon KL(P || a b^T)` over plans with marginals a and b.

    In the log domain, by ott-jax. Differentiable in `cost`, `epsilon`, `a`, `b`: the gradient is that of the fixed
    point (implicit differentiation), right to the precision with which the fixed point is reached, so ask for a small
    `threshold` where gradients matter.

    Args:
        cost: traced, any unit.
        epsilon: traced, in the unit of `cost`; smaller is nearer the exact plan and slower.
        a: weights of the rows, summing to 1; None: uniform.
        b: weights of the columns, summing to 1; None: uniform.
        threshold: static; the L1 error of the marginals at which iteration stops.
        max_iterations: static.

    Raises:
        ValueError: `cost` is no matrix, or `a` or `b` does not fit it.

    Source: Cuturi (2013); Cuturi et al. (2022), Optimal Transport Tools.
    """
    # ott-jax takes seconds to import: pay for it where it is used
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    shape = jnp.shape(cost)
    if len(shape) != 2:
        raise ValueError(f"cost has shape {shape}, expected a matrix [n_a, n_b]; use jax.vmap for batches")
    for name, weights, size in (("a", a, shape[0]), ("b", b, shape[1])):
        if weights is not None and jnp.shape(weights) != (size,):
            raise ValueError(f"{name} has shape {jnp.shape(weights)}, the cost {shape} asks for {(size,)}")
    cost = jnp.asarray(cost, accumulation_dtype(cost))
    finite_cost = jnp.isfinite(cost).all()
    problem = linear_problem.LinearProblem(
        geometry.Geometry(cost_matrix=jnp.where(finite_cost, cost, 0), epsilon=jnp.asarray(epsilon, cost.dtype)),
        a=None if a is None else jnp.asarray(a, cost.dtype),
        b=None if b is None else jnp.asarray(b, cost.dtype),
    )
    output = sinkhorn.Sinkhorn(threshold=threshold, max_iterations=max_iterations)(problem)
    finite = finite_cost & jnp.isfinite(output.matrix).all()
    return SinkhornPlan(output.matrix, jnp.asarray(output.n_iters, jnp.int32), output.converged & finite, finite)
