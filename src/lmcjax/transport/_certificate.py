"""Proof that an assignment is the best: dual potentials recovered from the permutation alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num

from lmcjax._bijections import check_bijection
from lmcjax._dtypes import accumulation_dtype
from lmcjax._powers_of_two import in_original_unit, in_unit_range

# The largest gap that rounding explains, as a share of the summed absolute costs.
_TOLERANCE = 1e-5


class AssignmentCertificate(NamedTuple):
    """A bound on how far an assignment is from the best, in the unit of the costs.

    `vmap` prepends axes to every field.

    The potentials are feasible up to rounding: `u_i + v_j <= cost_ij` for a cost that is minimised,
    `>=` where it is maximised. So their sum bounds the value of every assignment. `optimal` is
    right for costs of any size; another number is nan where it is smaller than the smallest normal
    number of its dtype, and inf where it is too large.
    """

    row_potentials: Float[Array, " n"]  # u
    column_potentials: Float[Array, " n"]  # v
    # between the assignment's value and the bound: no assignment is better by more
    gap: Float[Array, ""]
    # before u was made feasible; below 0: by so much an edge is too good
    smallest_reduced_cost: Float[Array, ""]
    # the gap is at most 1e-5 of the summed absolute costs of the assignment
    optimal: Bool[Array, ""]


class _ShortestPaths(NamedTuple):
    """The algorithm of Bellman and Ford after some rounds."""

    lengths: Float[Array, " n"]  # of the shortest path to each node that was found so far
    unsettled: Bool[Array, ""]  # the last round has shortened a path by more than rounding
    num_rounds: Int[Array, ""]


def assignment_certificate(
    matrix: Num[ArrayLike, "n n"], permutation: Int[ArrayLike, " n"], *, maximize: bool = False
) -> AssignmentCertificate:
    """Compute dual potentials of a linear assignment problem from its matrix and a permutation.

    With `w_ij = cost[i, p[j]] - cost[i, p[i]]`, the permutation is optimal if and only if `w` has
    no negative cycle. Then the lengths `v` of the shortest paths in `w` are potentials of the
    columns, and `u_i = cost[i, p[i]] - v_i` of the rows: all reduced costs are at least 0, those of
    the assignment are 0. The algorithm of Bellman and Ford finds the paths, all edges at once.
    Where the permutation is not optimal they do not settle; `u` is then lowered until it is
    feasible, and the gap is an upper bound on how much the assignment may be beaten by. This bound
    is right for any permutation.

    Args:
        matrix: costs (or similarities), traced, any unit.
        permutation: the column for each row, as `linear_assignment` returns it, traced.
        maximize: static, as for `linear_assignment`.

    Returns:
        `AssignmentCertificate`; nan and not `optimal` where the matrix is not finite or the
        permutation no bijection.

    Raises:
        ValueError: the matrix is not square or is complex, the permutation is of another length or
            not of integers, or it is concrete and no bijection.

    Source: Ahuja, Magnanti and Orlin (1993), Network Flows, Sections 5.2 and 9.3.
    """
    shape = jnp.shape(matrix)
    if len(shape) != 2 or shape[0] != shape[1] or jnp.shape(permutation) != shape[:1]:
        raise ValueError(
            f"expected a square matrix and a permutation of its size, not {shape} and "
            f"{jnp.shape(permutation)}; use jax.vmap for batches"
        )
    check_bijection("the permutation", permutation)
    permutation = jnp.asarray(permutation, jnp.int32)
    sign = -1 if maximize else 1
    cost = sign * jnp.asarray(matrix, accumulation_dtype(matrix))
    cost, exponent = in_unit_range(cost)  # sums and differences of costs stay finite, at any scale

    ordered = jnp.take(cost, permutation, axis=1)  # the assignment is the diagonal
    assigned_cost = jnp.diagonal(ordered)
    path_lengths = _shortest_paths(ordered - assigned_cost[:, None])
    row_potentials = assigned_cost - path_lengths
    column_potentials = jnp.zeros_like(path_lengths).at[permutation].set(path_lengths)

    reduced_cost = ordered - row_potentials[:, None] - path_lengths
    smallest_of_row = jnp.min(reduced_cost, axis=1)
    infeasibility = jnp.maximum(-smallest_of_row, 0)  # by so much, lowering u makes it feasible
    gap = infeasibility.sum()

    # A traced permutation was not checked above: of anything else there is nothing to certify.
    bijective = jnp.all(jnp.sort(permutation) == jnp.arange(shape[0], dtype=jnp.int32))
    valid = jnp.isfinite(cost).all() & bijective

    def in_unit_of_matrix(x: Array) -> Array:
        return jnp.where(valid, in_original_unit(x, exponent), jnp.nan)

    return AssignmentCertificate(
        row_potentials=in_unit_of_matrix(sign * (row_potentials - infeasibility)),
        column_potentials=in_unit_of_matrix(sign * column_potentials),
        gap=in_unit_of_matrix(gap),
        smallest_reduced_cost=in_unit_of_matrix(smallest_of_row.min()),
        optimal=valid & (gap <= _TOLERANCE * jnp.abs(assigned_cost).sum()),
    )


def _shortest_paths(edges: Array) -> Array:
    """The lengths `v_j = min_i (v_i + edges_ij)`, from `v = 0`, after at most n rounds.

    The rounds end when no length falls by more than rounding.
    """
    num_nodes = edges.shape[0]
    rounding = 4 * jnp.finfo(edges.dtype).eps * jnp.max(jnp.abs(edges))

    def shorten(state: _ShortestPaths) -> _ShortestPaths:
        through_others = jnp.min(state.lengths[:, None] + edges, axis=0)
        lengths = jnp.minimum(state.lengths, through_others)
        return _ShortestPaths(
            lengths=lengths,
            unsettled=jnp.any(state.lengths - lengths > rounding),
            num_rounds=state.num_rounds + 1,
        )

    def unfinished(state: _ShortestPaths) -> Array:
        # With a negative cycle, paths would shrink forever.
        return state.unsettled & (state.num_rounds < num_nodes)

    # Made from the edges, because inside `shard_map` the state varies between devices as they do.
    zeros = jnp.zeros_like(edges[0])
    start = _ShortestPaths(
        lengths=zeros,
        unsettled=jnp.ones_like(zeros[0], bool),
        num_rounds=jnp.asarray(0, jnp.int32),
    )
    return jax.lax.while_loop(unfinished, shorten, start).lengths
