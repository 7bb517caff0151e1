"""The Sinkhorn operator: from logits to doubly stochastic matrices."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from lmcjax._checks import check_positive
from lmcjax.statistics import over_batch
from lmcjax.transport import sinkhorn_plan


class SoftAlignments(NamedTuple):
    """Doubly stochastic matrices by group; `vmap` prepends axes to every field."""

    alignments: dict[str, Float[Array, "*batch n n"]]  # rows and columns sum to 1, rows exactly
    converged: Bool[Array, ""]  # every column sum is met to the threshold
    finite: Bool[Array, ""]


class _Solved(NamedTuple):
    """One group's matrix."""

    alignment: Array
    converged: Array
    finite: Array


def soft_alignments(
    logits: Mapping[str, Float[ArrayLike, "*batch n n"]],
    *,
    temperature: float | Float[ArrayLike, ""],
    threshold: float = 1e-4,
    max_iterations: int = 1000,
) -> SoftAlignments:
    """Doubly stochastic matrices `argmax_T <X, T> + temperature * entropy(T)`, per group.

    Differentiable in logits and temperature, by implicit differentiation of the fixed point, as
    `sinkhorn_plan` is.

    Args:
        logits: X per group `[*batch, n, n]`, traced, any unit.
        temperature: traced, above 0, in the unit of the logits; smaller is nearer a permutation,
            and slower. A traced one that is not above 0 gives matrices of nan.
        threshold: static; the summed error of the column sums, relative to n, at which iteration
            stops.
        max_iterations: static.

    Returns:
        Matrices in the orientation of `apply_soft`: rows A, columns B.

    Raises:
        ValueError: a matrix that is not square, a known temperature that is not above 0.

    Source: Mena et al. (2018); implicit differentiation for matching networks: Pena et al. (2023),
    Section 3.2.
    """
    check_positive("temperature", temperature)

    def solve(matrix: Array) -> _Solved:
        result = sinkhorn_plan(
            -matrix, epsilon=temperature, threshold=threshold, max_iterations=max_iterations
        )
        return _Solved(len(matrix) * result.plan, result.converged, result.finite)

    alignments = {}
    converged = jnp.asarray(True)
    finite = jnp.asarray(True)
    for group, of_group in logits.items():
        matrix = jnp.asarray(of_group)
        if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
            raise ValueError(
                f"the logits of group {group!r} have shape {matrix.shape}, expected [*batch, n, n]"
            )
        solved = over_batch(solve, matrix.ndim - 2)(matrix)
        alignments[group] = solved.alignment
        converged &= solved.converged.all()
        finite &= solved.finite.all()
    return SoftAlignments(alignments, converged, finite)
