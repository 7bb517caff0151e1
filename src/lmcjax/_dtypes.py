"""The precision in which sums are accumulated."""

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike


def accumulation_dtype(*arrays: ArrayLike, least: jnp.dtype | None = None) -> jnp.dtype:
    """The widest dtype of the arrays, at least float32 (or `least`), whatever JAX's rules of promotion are set to.

    Raises:
        ValueError: an array is complex.
    """
    check_real(*arrays)
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(jnp.result_type(*arrays), jnp.float32 if least is None else least)


def check_real(*arrays: ArrayLike) -> None:
    """Check that no array is complex: complex costs have no order, and transport compares real neurons.

    Raises:
        ValueError: shows the dtype.
    """
    for array in arrays:
        if jnp.issubdtype(jnp.result_type(array), jnp.complexfloating):
            raise ValueError(
                f"expected real numbers, not {jnp.result_type(array)}: complex costs have no order, and their "
                "imaginary parts would be lost"
            )
