"""Paths between aligned networks."""

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
    check_same_shapes(params_a, params_b)
    leaves_b = named_leaves(params_b)
    for name, leaf in named_leaves(params_a).items():
        dtypes = jnp.result_type(leaf), jnp.result_type(leaves_b[name])
        floating = [jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes]
        if floating[0] != floating[1]:
            raise ValueError(
                f"leaf {name!r} is {dtypes[0]} in params_a but {dtypes[1]} in params_b: there is no line between them"
            )

    def along(a: ArrayLike, b: ArrayLike) -> Array:
        a = jnp.asarray(a)
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return a
        weight = jnp.asarray(t, a.dtype)
        return (1 - weight) * a + weight * jnp.asarray(b)

    return jax.tree.map(along, params_a, params_b)
