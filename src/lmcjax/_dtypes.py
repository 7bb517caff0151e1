"""The precision in which sums are accumulated."""

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike


def accumulation_dtype(*arrays: ArrayLike | None, least: jnp.dtype | None = None) -> jnp.dtype:
    """The widest dtype of the arrays that are not None, at least float32 (or `least`)."""
    present = [array for array in arrays if array is not None]
    narrowest = jnp.float32 if least is None else least
    # The user's rules of promotion may be strict, which would refuse to mix dtypes.
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(jnp.result_type(*present), narrowest)
