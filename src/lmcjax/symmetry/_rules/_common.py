"""What several rules do."""

from collections.abc import Sequence
from typing import SupportsIndex

from jax.extend import core

from lmcjax.symmetry._interpreter import Interpreter, Origin, Value


def replace_axes(
    interpreter: Interpreter,
    equation: core.JaxprEqn,
    value: Value,
    touched: Sequence[SupportsIndex],  # NumPy's integers, as some equations have them, or Python's
    shape: Sequence[int] | None = None,
) -> Value:
    """A value some of whose axes an equation has reordered, mixed or cut.

    These axes are pinned, and new in the result.

    Args:
        touched: the axes.
        shape: of the result; default: that of the value.
    """
    axes, reason = list(value.axes), f"{equation.primitive.name} at {interpreter.source}"
    positions = [int(i) for i in touched]
    interpreter.mix(value, positions)
    for i in positions:
        interpreter.nodes.pin(axes[i], reason)
        axes[i] = interpreter.nodes.axis(
            interpreter.nodes.length(axes[i]) if shape is None else shape[i], reason
        )
    origins = tuple(without_run(origin, positions) for origin in value.origins)
    return value._replace(axes=tuple(axes), origins=origins)


def without_run(origin: Origin, axes: Sequence[int]) -> Origin:
    """An origin that no longer knows what some axes of the value run over."""
    return origin._replace(
        axes=tuple(None if i in axes else run for i, run in enumerate(origin.axes))
    )
