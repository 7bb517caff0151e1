"""What several rules do."""

from collections.abc import Sequence
from typing import SupportsIndex

from jax.extend import core

from lmcjax.symmetry._interpreter import Interpreter, Origin, Value

_REASONS = {
    "approx_top_k": "its largest entries are looked for by position",
    "argmax": "the position of its largest entry is taken, the first of several",
    "argmin": "the position of its smallest entry is taken, the first of several",
    "cumlogsumexp": "a running sum of exponentials",
    "cummax": "a running maximum",
    "cummin": "a running minimum",
    "cumprod": "a running product",
    "cumsum": "a running sum",
    "dynamic_slice": "cut from a position that is computed",
    "fft": "a Fourier transform",
    "pad": "padded",
    "reduce": "reduced by a function that may look at the order",
    "reduce_window": "taken in windows",
    "reduce_window_max": "pooled in windows",
    "reduce_window_min": "pooled in windows",
    "reduce_window_sum": "pooled in windows",
    "rev": "reversed",
    "select_and_gather_add": "pooled in windows",
    "select_and_scatter_add": "pooled in windows",
    "slice": "only every so many entries are taken, by a slice with a stride",
    "sort": "sorted, which shows the order of what compares equal",
}
"""What primitives do to an axis that they pin."""


def reason_of(equation: core.JaxprEqn) -> str:
    """Why an equation pins axes that it works along."""
    name = equation.primitive.name
    return f"{_REASONS.get(name, 'the order along it counts')} ({name})"


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
    axes, reason = list(value.axes), reason_of(equation)
    positions = [int(i) for i in touched]
    interpreter.mix(value, positions)
    for i in positions:
        interpreter.nodes.pin(axes[i], reason)
        axes[i] = interpreter.nodes.axis(
            interpreter.nodes.length(axes[i]) if shape is None else shape[i], reason
        )
    origins = tuple(without_run(origin, positions) for origin in value.origins)
    return value._replace(axes=tuple(axes), origins=origins)


def meet_constant(interpreter: Interpreter, first: Value, i: int, second: Value, j: int) -> None:
    """Say why an axis is pinned that is about to be merged with one of a constant.

    Merging pins it, too, but knows only where the constant is from.
    """
    pairs = (
        (first.axes[i], second, second.axes[j]),
        (second.axes[j], first, first.axes[i]),
    )
    for axis, other, met in pairs:
        if other.leaves == frozenset():
            continue
        pins = [interpreter.nodes.pinned(node) for node in interpreter.nodes.atoms(axis)]
        if pins and None not in pins and pins[0] is not None and pins[0].of_constant:
            interpreter.nodes.pin(met, f"meets {pins[0].reason}")


def without_run(origin: Origin, axes: Sequence[int]) -> Origin:
    """An origin that no longer knows what some axes of the value run over."""
    return origin._replace(
        axes=tuple(None if i in axes else run for i, run in enumerate(origin.axes))
    )
