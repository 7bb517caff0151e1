"""Rules of what reads or writes at positions that are given as numbers.

In each of them, a window is taken out of the operand, or written into it, for every index vector.
Three kinds of axes: a window's axis may be the operand's whole axis, and passes. An axis in which
the indices say where the window lies is pinned, for its positions are spelled out. A batching axis
is one of the operand's and of the indices' at once: each entry has indices of its own, and both may
be permuted alike.
"""

from collections.abc import Sequence
from typing import SupportsIndex

from jax.extend import core

from lmcjax.symmetry._interpreter import Interpreter, Value, combine, pin_everything, rule, shapes
from lmcjax.symmetry._nodes import NodeAxis
from lmcjax.symmetry._rules._common import meet_constant


@rule("gather")
def gather(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Axes that are taken whole come through (an embedding's features), indexed ones are pinned."""
    operand, indices = operands
    nodes = interpreter.nodes
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    batching = _integers(numbers.operand_batching_dims)
    of_indices = _integers(numbers.start_indices_batching_dims)
    _merge_batching(interpreter, operand, batching, indices, of_indices)
    nodes.pin(indices.axes[-1], "its entries say which position is meant")
    window = _window_axes(operand, numbers.collapsed_slice_dims, batching)
    whole = [i for i in window if sizes[i] == nodes.length(operand.axes[i])]
    looked_up = [i for i in range(len(operand.axes)) if i not in whole and i not in batching]
    interpreter.mix(operand, looked_up)
    for i in looked_up:
        nodes.pin(operand.axes[i], "looked up by position")
    (shape,) = shapes(equation)
    axes: list[NodeAxis | None] = [None] * len(shape)
    for position, i in zip(numbers.offset_dims, window, strict=True):
        axes[position] = (
            operand.axes[i]
            if i in whole
            else nodes.axis(sizes[i], "cut from a position that is computed")
        )
    if indices.leaves is None:
        interpreter.use(operand, whole, "writes")
        if (
            tuple(numbers.start_index_map)
            == tuple(numbers.collapsed_slice_dims)
            == tuple(looked_up)
            and not batching
        ):
            interpreter.multiply(1, operand, looked_up, lookup=True)
    # what is no window's axis is one of the indices'
    rest = iter(indices.axes[:-1])
    return [combine([next(rest) if axis is None else axis for axis in axes], operands)]


_ORDER_IS_FREE = {"scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max"}
"""Updates of one place may come in any order."""


@rule("scatter", *_ORDER_IS_FREE)
def scatter(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """The reverse of a gather: updates are written into an operand, or added, multiplied, ..."""
    operand, indices, updates = operands
    nodes = interpreter.nodes
    numbers = equation.params["dimension_numbers"]
    if equation.params.get("update_consts"):
        return pin_everything(interpreter, equation, operands)
    interpreter.meet([operand, updates])
    nodes.pin(indices.axes[-1], "its entries say which position is meant")
    batching = _integers(numbers.operand_batching_dims)
    of_indices = _integers(numbers.scatter_indices_batching_dims)
    _merge_batching(interpreter, operand, batching, indices, of_indices)

    whole, partial = [], []
    window = _window_axes(operand, numbers.inserted_window_dims, batching)
    for i, position in zip(window, _integers(numbers.update_window_dims), strict=True):
        if nodes.length(operand.axes[i]) == nodes.length(updates.axes[position]):
            nodes.merge(operand.axes[i], updates.axes[position])
            whole.append(i)
        else:
            partial.append(position)
    written = [i for i in range(len(operand.axes)) if i not in whole and i not in batching]
    for i in written:
        nodes.pin(operand.axes[i], "written by position")
    for i in partial:
        nodes.pin(updates.axes[i], "written by position")

    # the other axes of the updates say which index vector they belong to
    along_indices = [i for i in range(len(updates.axes)) if i not in numbers.update_window_dims]
    pairs = zip(along_indices, indices.axes[:-1], strict=True)
    for position, (i, axis) in enumerate(pairs):
        meet_constant(interpreter, updates, i, indices, position)
        nodes.merge(updates.axes[i], axis)
    scattered = [axis for i, axis in enumerate(along_indices) if i not in of_indices]
    if not _is_order_free(equation):
        for i in scattered:
            nodes.pin(updates.axes[i], "updates that are written one after the other")
    interpreter.mix(operand, written)
    interpreter.mix(updates, [*scattered, *partial])
    return [combine(operand.axes, operands)]


def _is_order_free(equation: core.JaxprEqn) -> bool:
    """Whether updates may be reordered together with their indices."""
    if equation.params["indices_are_sorted"]:
        return False  # after reordering they may no longer be
    # Of several that are written to one place, one stays: which one depends on the order.
    return equation.primitive.name in _ORDER_IS_FREE or equation.params["unique_indices"]


def _window_axes(
    operand: Value, single: Sequence[SupportsIndex], batching: Sequence[int]
) -> list[int]:
    """The operand's axes that windows have, too; along the `single` ones a window has length 1."""
    return [i for i in range(len(operand.axes)) if i not in single and i not in batching]


def _merge_batching(
    interpreter: Interpreter,
    operand: Value,
    batching: Sequence[int],
    indices: Value,
    of_indices: Sequence[int],
) -> None:
    for i, j in zip(batching, of_indices, strict=True):
        interpreter.nodes.merge(operand.axes[i], indices.axes[j])


def _integers(numbers: Sequence[SupportsIndex]) -> list[int]:
    """Python's integers; `vmap` leaves NumPy's."""
    return [int(i) for i in numbers]
