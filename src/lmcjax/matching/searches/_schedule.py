"""Numbers that may change from step to step."""

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Array, ArrayLike, Float

Schedule: TypeAlias = float | Float[ArrayLike, ""] | Callable[[Array], ArrayLike]
"""A number, or a function of the step: any of optax's schedules."""


def at_step(schedule: Schedule, step: Array) -> ArrayLike:
    """The schedule's value at a step."""
    return schedule(step) if callable(schedule) else schedule
