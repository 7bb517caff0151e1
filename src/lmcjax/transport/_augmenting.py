"""Shortest augmenting paths on the device, in the arithmetic of the costs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num, UInt


class _Dual(NamedTuple):
    """Potentials and the assignment so far. Reduced costs `cost - u + w` are never negative."""

    u: Num[Array, " n"]  # of the rows
    w: Num[Array, " n"]  # of the columns, negated: an unsigned integer can hold it
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
    zeros = _zeros(cost[0])
    nobody = zeros.astype(jnp.int32) - 1
    dual = _Dual(zeros, zeros, nobody, nobody)

    def assign(row: Array, dual: _Dual) -> _Dual:
        search = _nearest_free_column(cost, dual, row)
        grown = jnp.where(search.settled, search.least - search.distance, 0)
        u = dual.u.at[dual.row_of].add(grown)  # nothing grows at the free columns, whose row is -1
        u = u.at[row].add(search.least)
        return _augment(dual._replace(u=u, w=dual.w + grown), search)

    return jax.lax.fori_loop(0, len(cost), assign, dual).column_of


def _nearest_free_column(cost: Array, dual: _Dual, row: Array) -> _Search:
    free = dual.row_of < 0
    zeros = _zeros(dual.row_of)
    distances = zeros.astype(cost.dtype)
    far = distances + _largest(cost.dtype)
    rows = zeros + row.astype(jnp.int32)
    search = _Search(
        distance=far,
        row_before=rows,
        settled=zeros > 0,
        least=distances[0],
        column=rows[0],
        row=rows[0],
    )

    def settle(search: _Search) -> _Search:
        through = _sum(search.least, _reduced(cost[search.row], dual.u[search.row], dual.w))
        nearer = ~search.settled & (through < search.distance)
        distance = jnp.where(nearer, through, search.distance)
        open_distance = jnp.where(search.settled, far, distance)
        nearest = ~search.settled & ~(open_distance > jnp.min(open_distance))  # or nan
        # free ones first: the search ends sooner, and no overflown distance is taken for a true one
        preferred = jnp.where(free, 2, 1)
        column = jnp.argmax(jnp.where(nearest, preferred, 0)).astype(jnp.int32)
        return _Search(
            distance,
            jnp.where(nearer, search.row, search.row_before),
            search.settled.at[column].set(True),
            distance[column],
            column,
            dual.row_of[column],
        )

    return jax.lax.while_loop(lambda search: search.row >= 0, settle, search)


def _augment(dual: _Dual, search: _Search) -> _Dual:
    """Turn round the assignments on the path that the search has found."""

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        row_of, column_of, column = state
        row = search.row_before[column]
        return row_of.at[column].set(row), column_of.at[row].set(column), column_of[row]

    state = (dual.row_of, dual.column_of, search.column)
    row_of, column_of, _ = jax.lax.while_loop(lambda state: state[2] >= 0, step, state)
    return dual._replace(row_of=row_of, column_of=column_of)


def _zeros(x: Array) -> Array:
    """Computed from a finite `x`, and not constants: the loops start with what is mapped as the
    costs are.

    `shard_map` asks for that, and `vmap` need not trace the loops again to find it out.
    """
    return x - x


def _reduced(row: Array, u: Array, w: Array) -> Array:
    """`row - u + w`, which is not negative though `row - u` may be."""
    return jnp.where(row >= u, _sum(row - u, w), w - (u - row))


def _sum(x: Array, y: Array) -> Array:
    """Of two numbers that are not negative; the largest integer where it would overflow."""
    total = x + y
    if jnp.issubdtype(total.dtype, jnp.floating):
        return total
    return jnp.where(total < x, _largest(total.dtype), total)


def _largest(dtype: jnp.dtype) -> Array:
    floating = jnp.issubdtype(dtype, jnp.floating)
    return jnp.asarray(jnp.inf if floating else jnp.iinfo(dtype).max, dtype)
