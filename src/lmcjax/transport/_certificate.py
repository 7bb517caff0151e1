"""Proof that an assignment is the best: dual potentials recovered from the permutation alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num

from lmcjax._bijections import check_bijection
from lmcjax._dtypes import accumulation_dtype
from lmcjax._powers_of_two import in_original_unit, in_unit_range

_TOLERANCE = 1e-5  # of the summed absolute costs of the assignment


class AssignmentCertificate(NamedTuple):
    """How far an assignment can be from the best; `vmap` prepends axes to every field. In the unit
    of the costs.

    The potentials are feasible up to rounding: `u_i + v_j <= cost_ij` for a cost that is minimised,
        `>=` where it is
    maximised. So their sum bounds the value of every assignment. `optimal` is right for costs of
    any size; another number is nan where it is smaller than the smallest normal number of its
    dtype, and inf where it is too large.
    """

    row_potentials: Float[Array, " n"]  # u
    column_potentials: Float[Array, " n"]  # v
    gap: Float[
        Array, ""
    ]  # between the assignment's value and the bound: no assignment is better by more
    smallest_reduced_cost: Float[
        Array, ""
    ]  # before u was made feasible; below 0: by so much an edge is too good
    optimal: Bool[
        Array, ""
    ]  # the gap is at most 1e-5 of the summed absolute costs of the assignment


def assignment_certificate(
    matrix: Num[ArrayLike, "n n"], permutation: Int[ArrayLike, " n"], *, maximize: bool = False
) -> AssignmentCertificate:
    """Dual potentials of a linear assignment problem, from its matrix and a permutation said to
    solve it.

    With `w_ij = cost[i, p[j]] - cost[i, p[i]]`, the permutation is optimal if and only if `w` has
    no negative cycle; then the lengths `v` of the shortest paths in `w` are potentials of the
    columns, and `u_i = cost[i, p[i]] - v` of the rows (all reduced costs are at least 0, those of
    the assignment are 0). Shortest paths by Bellman and Ford, all edges at once. Where the
    permutation is not optimal they do not settle; `u` is then lowered until it is feasible, and the
    gap says by how much the assignment may be beaten: it is an upper bound, right for any
    permutation.

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
            f"expected a square matrix and a permutation of its size, not {shape} and {jnp.shape(permutation)}; "
            "use jax.vmap for batches"
        )
    check_bijection("the permutation", permutation)
    permutation = jnp.asarray(permutation, jnp.int32)
    cost = jnp.asarray(matrix, accumulation_dtype(matrix)) * (-1 if maximize else 1)
    cost, exponent = in_unit_range(cost)  # sums and differences of costs stay numbers, at any scale
    ordered = jnp.take(cost, permutation, axis=1)  # the assignment is the diagonal
    own = jnp.diagonal(ordered)
    paths = _shortest_paths(ordered - own[:, None])
    rows = own - paths
    slack = jnp.min(ordered - rows[:, None] - paths, axis=1)
    missing = jnp.maximum(-slack, 0)
    gap = missing.sum()
    columns = jnp.zeros_like(paths).at[permutation].set(paths)
    sign = -1 if maximize else 1
    bijective = jnp.all(jnp.sort(permutation) == jnp.arange(shape[0], dtype=jnp.int32))
    finite = jnp.isfinite(cost).all() & bijective  # otherwise there is nothing to certify
    optimal = finite & (gap <= _TOLERANCE * jnp.abs(own).sum())
    result = AssignmentCertificate(
        sign * (rows - missing), sign * columns, gap, slack.min(), optimal
    )

    def in_unit_of_costs(x: Array) -> Array:
        return jnp.where(finite, in_original_unit(x, exponent), jnp.nan)

    return jax.tree.map(lambda x: x if x.dtype == bool else in_unit_of_costs(x), result)


def _shortest_paths(edges: Array) -> Array:
    """`v_j = min_i (v_i + edges_ij)` from `v = 0`, until nothing falls by more than rounding; at
    most n rounds.
    """
    size = edges.shape[0]
    rounding = 4 * jnp.finfo(edges.dtype).eps * jnp.max(jnp.abs(edges))

    def shorten(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        lengths, _, count = state
        shorter = jnp.minimum(lengths, jnp.min(lengths[:, None] + edges, axis=0))
        return shorter, jnp.any(lengths - shorter > rounding), count + 1

    def unsettled(state: tuple[Array, Array, Array]) -> Array:
        return state[1] & (state[2] < size)

    # like the edges, which vary between devices inside `shard_map`
    nothing = jnp.zeros_like(edges[0])
    start = (nothing, jnp.ones_like(nothing[0], bool), jnp.asarray(0, jnp.int32))
    return jax.lax.while_loop(unsettled, shorten, start)[0]
