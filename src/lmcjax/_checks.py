"""Check numbers that may be traced: a known value that is bad is an error at once."""

import jax
import numpy as np
from jaxtyping import ArrayLike


def check_positive(name: str, value: ArrayLike) -> None:
    """Check that a number is above 0; a traced one passes.

    Raises:
        ValueError: it is 0, negative or nan.
    """
    if isinstance(value, jax.core.Tracer):
        return
    # Not `<= 0`: a comparison with nan is false.
    if not np.all(np.asarray(value) > 0):
        raise ValueError(f"{name} is above 0, not {value}")


def check_not_negative(name: str, value: ArrayLike) -> None:
    """Check that a number is at least 0; a traced one passes.

    Raises:
        ValueError: it is negative or nan.
    """
    if isinstance(value, jax.core.Tracer):
        return
    # Not `< 0`: a comparison with nan is false.
    if not np.all(np.asarray(value) >= 0):
        raise ValueError(f"{name} is at least 0, not {value}")
