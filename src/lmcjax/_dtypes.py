"""The precision in which sums are accumulated."""

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike


def accumulation_dtype(*arrays: ArrayLike, least: jnp.dtype | None = None) -> jnp.dtype:
    """The widest dtype of the arrays, at least float32 (or `least`), whatever JAX's rules of
    promotion are set to.
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(jnp.result_type(*arrays), jnp.float32 if least is None else least)
