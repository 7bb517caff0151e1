"""Shortest augmenting paths on the device, in the arithmetic of the costs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num, UInt


class _Dual(NamedTuple):
    """Potentials and the assignment so far. Reduced costs `cost - u + w` are never negative."""

    u: Num[Array, " n"]  # of the rows
    w: Num[Array, " n"]  # of the columns, negated so that an unsigned integer can hold it
    row_of: Int[Array, " n"]  # of each column; -1: free
    column_of: Int[Array, " n"]  # of each row; -1: free


class _Search(NamedTuple):
    """Dijkstra's algorithm from one free row to the nearest free column."""

    distance: Num[Array, " n"]  # of each column
    row_before: Int[Array, " n"]  # of each column: the last row on the way to it
    settled: Bool[Array, " n"]
    least: Num[Array, ""]  # the distance of the column settled last
    column: Int[Array, ""]  # the column settled last
    row: Int[Array, ""]  # where the search goes on; -1: the column was free, and the search ends


class _Augmentation(NamedTuple):
    """The way back along a path, from its free column to its free row."""

    row_of: Int[Array, " n"]  # as in `_Dual`
    column_of: Int[Array, " n"]
    column: Int[Array, ""]  # the next column to assign; -1: the free row has its column


def shortest_augmenting_paths(cost: Float[Array, "n n"] | UInt[Array, "n n"]) -> Int[Array, " n"]:
    """The column of each row in the assignment of least cost, exactly for integers of any range.

    One row after the other is assigned along a shortest path to a free column. With integers up to
    R, `u` and `w` stay within 0 and R, and so does the length of every path that is taken: the edge
    to a free column is never longer than R. Other paths only have to compare as longer: a sum that
    would overflow becomes the largest integer.

    Args:
        cost: finite, traced; integers are unsigned.

    Source: Crouse (2016), On implementing 2D rectangular assignment algorithms.
    """
    zeros = _zeros_like(cost[0])
    unassigned = zeros.astype(jnp.int32) - 1
    dual = _Dual(u=zeros, w=zeros, row_of=unassigned, column_of=unassigned)

    def assign(row: Array, dual: _Dual) -> _Dual:
        search = _nearest_free_column(cost, dual, row)
        dual = _raise_potentials(dual, search, row)
        return _augment(dual, search)

    return jax.lax.fori_loop(0, len(cost), assign, dual).column_of


def _nearest_free_column(cost: Array, dual: _Dual, row: Array) -> _Search:
    """Settle columns in the order of their distance from a free row, up to the first free one."""
    free = dual.row_of < 0

    def settle(search: _Search) -> _Search:
        return _settle_nearest(cost, dual, free, search)

    def unfinished(search: _Search) -> Array:
        return search.row >= 0

    return jax.lax.while_loop(unfinished, settle, _start_search(cost, dual, row))


def _start_search(cost: Array, dual: _Dual, row: Array) -> _Search:
    zeros = _zeros_like(dual.row_of)
    distances = zeros.astype(cost.dtype)
    rows = zeros + row.astype(jnp.int32)
    return _Search(
        distance=distances + _largest(cost.dtype),
        row_before=rows,
        settled=zeros > 0,
        least=distances[0],
        column=rows[0],
        row=rows[0],
    )


def _settle_nearest(cost: Array, dual: _Dual, free: Array, search: _Search) -> _Search:
    """Shorten the ways to all columns through the current row, then settle the nearest column."""
    reduced_cost = _reduced(cost[search.row], dual.u[search.row], dual.w)
    through_row = _saturating_sum(search.least, reduced_cost)
    nearer = ~search.settled & (through_row < search.distance)
    distance = jnp.where(nearer, through_row, search.distance)

    unsettled_distance = jnp.where(search.settled, _largest(cost.dtype), distance)
    # Not `==`, because the least distance of huge costs may be nan: some column must be settled.
    nearest = ~search.settled & ~(unsettled_distance > jnp.min(unsettled_distance))
    # Of equally near columns a free one goes first: the search ends sooner, and a distance that
    # has overflowed is never taken for a true one.
    preference = jnp.where(free, 2, 1)
    column = jnp.argmax(jnp.where(nearest, preference, 0)).astype(jnp.int32)
    return _Search(
        distance=distance,
        row_before=jnp.where(nearer, search.row, search.row_before),
        settled=search.settled.at[column].set(True),
        least=distance[column],
        column=column,
        row=dual.row_of[column],
    )


def _raise_potentials(dual: _Dual, search: _Search, free_row: Array) -> _Dual:
    """Raise the potentials so that every edge of the path found has reduced cost 0."""
    growth = jnp.where(search.settled, search.least - search.distance, 0)
    # A free column has row -1, which indexes the last row, but its growth is 0: only the free
    # column at the path's end is settled, and its distance is the least.
    u = dual.u.at[dual.row_of].add(growth)
    u = u.at[free_row].add(search.least)
    return dual._replace(u=u, w=dual.w + growth)


def _augment(dual: _Dual, search: _Search) -> _Dual:
    """Exchange the assigned and the other edges on the path that the search has found."""

    def assign_column(state: _Augmentation) -> _Augmentation:
        row = search.row_before[state.column]
        return _Augmentation(
            row_of=state.row_of.at[state.column].set(row),
            column_of=state.column_of.at[row].set(state.column),
            column=state.column_of[row],  # what the row had before needs another row
        )

    def unfinished(state: _Augmentation) -> Array:
        return state.column >= 0

    start = _Augmentation(dual.row_of, dual.column_of, search.column)
    end = jax.lax.while_loop(unfinished, assign_column, start)
    return dual._replace(row_of=end.row_of, column_of=end.column_of)


def _zeros_like(x: Array) -> Array:
    """Compute zeros from a finite `x`, so that they vary over batches and devices as `x` does.

    A loop that starts from constants would change their kind: `shard_map` refuses that, and `vmap`
    traces the loop again to find out what is batched.
    """
    return x - x


def _reduced(row: Array, u: Array, w: Array) -> Array:
    """`row - u + w`, which is not negative though `row - u` may be."""
    return jnp.where(row >= u, _saturating_sum(row - u, w), w - (u - row))


def _saturating_sum(x: Array, y: Array) -> Array:
    """The sum of two numbers that are not negative; the largest integer where it would overflow."""
    total = x + y
    if jnp.issubdtype(total.dtype, jnp.floating):
        return total
    return jnp.where(total < x, _largest(total.dtype), total)  # an overflown sum wraps around


def _largest(dtype: jnp.dtype) -> Array:
    floating = jnp.issubdtype(dtype, jnp.floating)
    return jnp.asarray(jnp.inf if floating else jnp.iinfo(dtype).max, dtype)
