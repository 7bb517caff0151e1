"""Checking that index vectors are permutations, where their values are known."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike


def check_bijection(name: str, permutation: ArrayLike) -> None:
    """Check that integers `[*batch, n]` are bijections of `0 .. n-1`; traced ones pass.

    The dtype is checked in any case, the values only where they are concrete.

    Raises:
        ValueError: shows the name and the dtype, the shape or the values.
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
    identity = np.broadcast_to(np.arange(size), values.shape)
    if not np.array_equal(np.sort(values, axis=-1), identity):
        raise ValueError(f"{name} is not a bijection of 0..{size - 1}: {values}")
