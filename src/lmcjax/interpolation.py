"""Paths between aligned networks."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from lmcjax.symmetry import check_same_shapes


def interpolate(params_a: PyTree, params_b: PyTree, t: float | int | Float[ArrayLike, ""]) -> PyTree:
    """The point `(1 - t) A + t B` of the straight line between two networks.

    t = 0 is A and t = 1 is B, exactly, for finite networks. Leaves that are not floating point (counters, random keys)
    are A's.

    Args:
        params_a, params_b: traced, of the same structure and shapes.
        t: traced, usually in [0, 1]; differentiable.

    Raises:
        ValueError: the trees differ; the leaf and both shapes are named.

    Source: Section 2 of the paper, which runs t the other way.
    """
    check_same_shapes(params_a, params_b)

    def along(a: ArrayLike, b: ArrayLike) -> Array:
        a = jnp.asarray(a)
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return a
        weight = jnp.asarray(t, a.dtype)
        return (1 - weight) * a + weight * jnp.asarray(b)

    return jax.tree.map(along, params_a, params_b)
