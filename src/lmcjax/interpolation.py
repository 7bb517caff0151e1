"""Paths between aligned networks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from lmcjax.symmetry import check_same_shapes, named_leaves


def interpolate(
    params_a: PyTree, params_b: PyTree, t: float | int | Float[ArrayLike, ""]
) -> PyTree:
    """The point `(1 - t) A + t B` of the straight line between two networks.

    t = 0 is A and t = 1 is B, exactly, for finite networks. Between counters, flags and random keys
    there is no line: leaves that are not of floating point in both networks are A's at every t.

    Args:
        params_a, params_b: traced, of the same structure and shapes.
        t: traced, usually in [0, 1]; differentiable.

    Raises:
        ValueError: the trees differ, or a leaf is of floating point in one network only; the leaf
            and both shapes or dtypes are named.

    Source: Section 2 of the paper, which runs t the other way.
    """
    return straight_line(params_a, params_b)(t)


def straight_line(params_a: PyTree, params_b: PyTree) -> Callable[..., PyTree]:
    """The line from A to B as a function of t, checked once however many points are asked for.

    `straight_line(A, B)(t)` is `interpolate(A, B, t)`; arguments and errors are the same.
    """
    check_same_shapes(params_a, params_b)
    _check_floating(params_a, params_b)

    def point(t: float | int | Float[ArrayLike, ""]) -> PyTree:
        def between(a: ArrayLike, b: ArrayLike) -> Array:
            a = jnp.asarray(a)
            if not _is_floating(a):
                return a
            weight = jnp.asarray(t, a.dtype)
            return (1 - weight) * a + weight * jnp.asarray(b)

        return jax.tree.map(between, params_a, params_b)

    return point


def _check_floating(params_a: PyTree, params_b: PyTree) -> None:
    """Check that no leaf is of floating point in one network only."""
    pairs = zip(jax.tree.leaves(params_a), jax.tree.leaves(params_b), strict=True)
    for number, (leaf_a, leaf_b) in enumerate(pairs):
        if _is_floating(leaf_a) != _is_floating(leaf_b):
            name = list(named_leaves(params_a))[number]
            raise ValueError(
                f"leaf {name!r} is {jnp.result_type(leaf_a)} in params_a "
                f"but {jnp.result_type(leaf_b)} in params_b: there is no line between them"
            )


def _is_floating(leaf: ArrayLike) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
