"""Numbers brought near 1 by a power of two, which changes no digit, and brought back.

Products of very small weights are 0 in floating point, and products of very large ones are inf.
What does not depend on the unit of the weights (which permutation is the best, say) is therefore
computed in a unit in which the largest weight is about 1. A power of two changes the exponents of
floating point numbers only, so that the results are the same to the last bit.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from lmcjax._dtypes import accumulation_dtype


def in_unit_range(tree: PyTree) -> tuple[PyTree, Int[Array, ""]]:
    """Divide all leaves by one power of two, so that the largest entry is between 1 and 2.

    Leaves come back in the precision in which they are summed, float32 at least; random keys and
    complex numbers come back as they are. Entries that are nan or inf stay so and do not count. The
    exponent keeps within the normal numbers of the leaves' dtypes, so the largest entry may be up
    to 4, or, if it is subnormal, below 1. No gradient flows through the choice of the exponent.

    Returns:
        The scaled tree, and the exponent: scaled leaves times `2^exponent` are the given ones.
    """
    leaves, structure = jax.tree.flatten(tree)
    wide_leaves = [_in_accumulation_dtype(leaf) for leaf in leaves]
    numbers = [leaf for leaf in wide_leaves if _is_real(leaf)]
    if not numbers:
        return tree, jnp.zeros((), jnp.int32)

    exponent = _common_exponent(numbers)
    scaled_leaves = []
    for leaf in wide_leaves:
        scaled = times_power_of_two(leaf, -exponent) if _is_real(leaf) else leaf
        scaled_leaves.append(scaled)
    return jax.tree.unflatten(structure, scaled_leaves), exponent


def pair_in_unit_range(params_a: PyTree, params_b: PyTree) -> tuple[PyTree, PyTree, Int[Array, ""]]:
    """Divide each of two networks by its own power of two.

    Returns:
        Both scaled networks, and the exponent: products of an entry of each, times `2^exponent`,
            are those of the given networks.
    """
    scaled_a, exponent_a = in_unit_range(params_a)
    scaled_b, exponent_b = in_unit_range(params_b)
    return scaled_a, scaled_b, exponent_a + exponent_b


def times_power_of_two(x: Float[Array, "..."], exponent: Int[Array, ""]) -> Float[Array, "..."]:
    """`x 2^exponent`, rounded only where the result is no normal number of the dtype."""
    half = exponent // 2  # the power itself may be out of range where the result is not
    return x * _power_of_two(half, x.dtype) * _power_of_two(exponent - half, x.dtype)


def in_original_unit(x: Float[Array, "..."], exponent: Int[Array, ""]) -> Float[Array, "..."]:
    """`x 2^exponent`; inf where that is too large for the dtype, nan where it is too small.

    Too small is what would be 0, or subnormal, and was not 0: 0 stays the exact number 0.
    """
    value = times_power_of_two(x, exponent)
    lost = (x != 0) & (jnp.abs(value) < jnp.finfo(x.dtype).tiny)
    return jnp.where(lost, jnp.nan, value)


def _power_of_two(exponent: Int[Array, ""], dtype: jnp.dtype) -> Float[Array, ""]:
    """`2^exponent` where it is a normal number, put together from its bits: `exp2` rounds."""
    info = jnp.finfo(dtype)
    bias = int(info.maxexp) - 1
    biased = exponent.astype(f"int{info.bits}") + bias
    return jax.lax.bitcast_convert_type(biased << info.nmant, dtype)


def _common_exponent(numbers: list[Array]) -> Int[Array, ""]:
    """The exponent of the largest finite entry, within the normal numbers of all the dtypes."""
    dtype = accumulation_dtype(*numbers)
    largest = jnp.zeros((), dtype)
    for leaf in numbers:
        sizes = jnp.abs(jax.lax.stop_gradient(leaf))
        sizes = jnp.where(jnp.isfinite(sizes), sizes, 0)
        largest = jnp.maximum(largest, jnp.max(sizes, initial=0).astype(dtype))
    # `frexp` gives a mantissa between 1/2 and 1, we want it between 1 and 2.
    exponent = jnp.frexp(largest)[1] - 1
    limit = min(-int(jnp.finfo(leaf.dtype).minexp) for leaf in numbers)
    return jnp.clip(exponent, -limit, limit).astype(jnp.int32)


def _in_accumulation_dtype(leaf: Any) -> Any:
    """A real leaf in the precision in which it is summed; any other as it is."""
    if not _is_real(leaf):
        return leaf
    return jnp.asarray(leaf).astype(accumulation_dtype(leaf))


def _is_real(leaf: ArrayLike) -> bool:
    dtype = jnp.result_type(leaf)
    kinds = (jnp.bool_, jnp.integer, jnp.floating)
    return any(jnp.issubdtype(dtype, kind) for kind in kinds)
