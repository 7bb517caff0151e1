"""Checking that index vectors are permutations, where their values are known."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike


def check_bijection(name: str, permutation: ArrayLike) -> None:
    """Check that integers `[*batch, n]` are, where their values are concrete, bijections of `0 ..
    n-1`.

    Raises:
        ValueError: shows the name and the dtype or the values.
    """
    dtype = jnp.result_type(permutation)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"{name} has dtype {dtype}, expected integers")
    if isinstance(permutation, jax.core.Tracer):
        return
    values = np.asarray(permutation)
    if values.ndim == 0:
        raise ValueError(f"{name} has shape (), expected [*batch, n]")
    size = values.shape[-1]
    if not np.array_equal(np.sort(values, axis=-1), np.broadcast_to(np.arange(size), values.shape)):
        raise ValueError(f"{name} is not a bijection of 0..{size - 1}: {values}")
