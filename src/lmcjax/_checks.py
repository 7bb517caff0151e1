"""Checks of numbers that may be traced: where the value is known, a bad one is an error at once."""

import jax
import numpy as np
from jaxtyping import ArrayLike


def check_positive(name: str, value: ArrayLike) -> None:
    """Check that a number is above 0; a traced one passes.

    Raises:
        ValueError: it is 0, negative or nan.
    """
    if not isinstance(value, jax.core.Tracer) and not np.all(np.asarray(value) > 0):
        raise ValueError(f"{name} is above 0, not {value}")


def check_not_negative(name: str, value: ArrayLike) -> None:
    """Check that a number is at least 0; a traced one passes.

    Raises:
        ValueError: it is negative or nan.
    """
    if not isinstance(value, jax.core.Tracer) and not np.all(np.asarray(value) >= 0):
        raise ValueError(f"{name} is at least 0, not {value}")
