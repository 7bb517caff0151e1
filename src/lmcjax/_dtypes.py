"""The precision in which sums are accumulated, and what cannot be summed."""

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike


def accumulation_dtype(*arrays: ArrayLike | None, least: jnp.dtype | None = None) -> jnp.dtype:
    """The widest dtype of the arrays that are not None, at least float32 (or `least`).

    Raises:
        ValueError: an array is complex.
    """
    present = [array for array in arrays if array is not None]
    check_real(*present)
    narrowest = jnp.float32 if least is None else least
    # The user's rules of promotion may be strict, which would refuse to mix dtypes.
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(jnp.result_type(*present), narrowest)


def check_real(*arrays: ArrayLike) -> None:
    """Check that no array is complex: complex costs have no order, and neurons are real.

    Raises:
        ValueError: shows the dtype.
    """
    for array in arrays:
        dtype = jnp.result_type(array)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise ValueError(
                f"expected real numbers, not {dtype}: complex costs have no order, and their "
                "imaginary parts would be lost"
            )
