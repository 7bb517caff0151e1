"""Rules of values in blocks: an equation on them stands for one equation per block.

A packed projection is why: query, key and value lie end to end on one axis, a reshape gives them an
axis of 3, and only its entries are used. Such a reshape makes a value in blocks, and each equation
on it is read as what it does to each block, by its usual rule. So query, key and value have index
sets of their own, as if they had been split before. An equation that does not go block by block
joins them. Nothing here can make up a symmetry: the program that is read gives the same outputs.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jax.extend import core

from lmcjax.symmetry._interpreter import (
    RULES,
    Blocks,
    Interpreter,
    Operand,
    Value,
    block_rule,
    blocks_of,
    combine,
    shapes,
)
from lmcjax.symmetry._nodes import MOST_BLOCKS, NodeAxis
from lmcjax.symmetry._rules._axes import cut_axes, select_axes
from lmcjax.symmetry._rules._common import without_run
from lmcjax.symmetry._rules._entries import ENTRY_BY_ENTRY


class Places(NamedTuple):
    """Where the blocks lie along the operands and the results of an equation."""

    operands: tuple[int | None, ...]  # an axis; None: each block meets all of the operand
    result: int


def _block_by_block(
    interpreter: Interpreter,
    equation: core.JaxprEqn,
    operands: Sequence[Operand],
    places: Places,
    num_blocks: int,
) -> list[Blocks]:
    """The results of an equation, block by block."""
    entering = []
    for number in range(num_blocks):
        of_block = []
        for operand, axis in zip(operands, places.operands, strict=True):
            of_block.append(_block(interpreter, operand, axis, number, num_blocks))
        entering.append(of_block)
    return _apply_to_each(interpreter, equation, entering, places.result)


def _apply_to_each(
    interpreter: Interpreter, equation: core.JaxprEqn, entering: Sequence[list[Value]], axis: int
) -> list[Blocks]:
    """The results of an equation from what each block meets; their blocks lie along the axis."""
    usual_rule = RULES[equation.primitive.name]
    of_block = _on_one_block(equation, axis, len(entering))
    results = [usual_rule(interpreter, of_block, operands) for operands in entering]
    return [Blocks(axis, values) for values in zip(*results, strict=True)]


def _on_one_block(equation: core.JaxprEqn, axis: int, num_blocks: int) -> core.JaxprEqn:
    """The equation with results that have the length of one block."""
    variables = []
    for variable, shape in zip(equation.outvars, shapes(equation), strict=True):
        of_block = (*shape[:axis], shape[axis] // num_blocks, *shape[axis + 1 :])
        variables.append(core.Var(variable.aval.update(shape=of_block)))
    return equation.replace(outvars=variables)


def _block(
    interpreter: Interpreter, operand: Operand, axis: int | None, number: int, num_blocks: int
) -> Value:
    """What one block meets of an operand; one that is not in blocks is cut along the axis."""
    if isinstance(operand, Blocks):
        return operand.values[number]
    (value,) = interpreter.read_positions([operand])
    if value.uniform:  # each block gets its own
        value = interpreter.detach(value)
    if axis is None:
        return value
    length = interpreter.nodes.length(value.axes[axis]) // num_blocks
    return cut_axes(interpreter, value, {axis: (number * length, (number + 1) * length)})


Move = Callable[[core.JaxprEqn, int], int | None]
"""`move(equation, axis)`: where an equation on one value puts an axis; None: it does not pass."""


def _transpose(equation: core.JaxprEqn, axis: int) -> int:
    return [int(i) for i in equation.params["permutation"]].index(axis)


def _squeeze(equation: core.JaxprEqn, axis: int) -> int:
    return axis - sum(i < axis for i in equation.params["dimensions"])


def _broadcast(equation: core.JaxprEqn, axis: int) -> int:
    return int(equation.params["broadcast_dimensions"][axis])


def _reduction(equation: core.JaxprEqn, axis: int) -> int | None:
    reduced = equation.params["axes"]
    return None if axis in reduced else axis - sum(i < axis for i in reduced)


_MOVES: dict[str, Move] = {
    "transpose": _transpose,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"), _reduction),
}


@block_rule(*_MOVES)
def moved(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: Sequence[Operand]
) -> list[Blocks] | None:
    """The blocks' axis goes where the equation puts it."""
    operand = operands[0]
    if not isinstance(operand, Blocks):
        return None
    axis = _MOVES[equation.primitive.name](equation, operand.axis)
    if axis is None:
        return None
    places = Places((operand.axis,), axis)
    return _block_by_block(interpreter, equation, operands, places, len(operand.values))


@block_rule(*ENTRY_BY_ENTRY.split(), "eq")
def entry_by_entry(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: Sequence[Operand]
) -> list[Blocks] | None:
    """Operands are in blocks along one axis, or are cut along it, or are the same all along it."""
    found = set()
    for operand in operands:
        if isinstance(operand, Blocks):
            found.add((operand.axis, len(operand.values)))
    if len(found) != 1:
        return None
    ((axis, num_blocks),) = found
    cut: list[int | None] = []
    for operand in operands:
        axes = blocks_of(operand)[0].axes
        is_uniform = not axes or interpreter.nodes.length(axes[axis]) == 1
        cut.append(None if is_uniform else axis)
    return _block_by_block(interpreter, equation, operands, Places(tuple(cut), axis), num_blocks)


@block_rule("dot_general")
def dot_general(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: Sequence[Operand]
) -> list[Blocks] | None:
    """The blocks' axis is a batch axis, or one that only one of the operands has."""
    contracting, batch = equation.params["dimension_numbers"]
    sides = [side for side, operand in enumerate(operands) if isinstance(operand, Blocks)]
    if not sides:
        return None
    side = sides[0]
    blocks = operands[side]
    assert isinstance(blocks, Blocks)
    other = operands[1 - side]
    if blocks.axis in contracting[side]:
        return None
    cut: list[int | None] = [None, None]
    cut[side] = blocks.axis
    if blocks.axis in batch[side]:
        result = list(batch[side]).index(blocks.axis)
        cut[1 - side] = int(batch[1 - side][result])
    else:
        bound = (*contracting[side], *batch[side])
        before = sum(i not in bound for i in range(blocks.axis))
        others_free = len(blocks_of(other)[0].axes) - len(contracting[0]) - len(batch[0])
        result = len(batch[0]) + before + (others_free if side == 1 else 0)
    if isinstance(other, Blocks) and other.axis != cut[1 - side]:
        return None
    return _block_by_block(
        interpreter, equation, operands, Places(tuple(cut), result), len(blocks.values)
    )


@block_rule("slice")
def slicing(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: Sequence[Operand]
) -> list[Operand] | None:
    """Some of the blocks, each of them cut along other axes."""
    (operand,) = operands
    if not isinstance(operand, Blocks):
        return None
    axis = operand.axis
    starts = list(equation.params["start_indices"])
    limits = list(equation.params["limit_indices"])
    strides = list(equation.params["strides"] or [1] * len(starts))
    chosen = operand.values[starts[axis] : limits[axis] : strides[axis]]
    starts[axis], limits[axis], strides[axis] = 0, 1, 1
    params = {"start_indices": starts, "limit_indices": limits, "strides": strides}
    of_block = _on_one_block(equation, axis, len(chosen))
    of_block = of_block.replace(params={**equation.params, **params})
    values = []
    for value in chosen:
        values += RULES["slice"](interpreter, of_block, [value])
    return [_some(axis, values)]


@block_rule("split")
def split(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: Sequence[Operand]
) -> list[Operand] | None:
    """Some of the blocks in each result."""
    (operand,) = operands
    if not isinstance(operand, Blocks) or operand.axis != equation.params["axis"]:
        return None
    results = []
    start = 0
    for size in equation.params["sizes"]:
        results.append(_some(operand.axis, operand.values[start : start + int(size)]))
        start += int(size)
    return results


@block_rule("unstack")
def unstack(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: Sequence[Operand]
) -> list[Value] | None:
    """Each block by itself."""
    (operand,) = operands
    if not isinstance(operand, Blocks) or operand.axis != equation.params["axis"]:
        return None
    kept = [i for i in range(len(operand.values[0].axes)) if i != operand.axis]
    return [select_axes(value, kept) for value in operand.values]


def _some(axis: int, values: Sequence[Value]) -> Operand:
    return values[0] if len(values) == 1 else Blocks(axis, tuple(values))


@block_rule("reshape")
def reshape(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: Sequence[Operand]
) -> list[Operand] | None:
    """An axis with pieces that are laid end to end is taken apart into blocks, or made of them."""
    (operand,) = operands
    (shape,) = shapes(equation)
    if equation.params.get("dimensions") is not None or 0 in shape:
        return None
    inside = _inner_blocks(interpreter, operand, shape)
    if inside is not None:
        entering, axis = inside
        return list(_apply_to_each(interpreter, equation, entering, axis))
    found = _reshaped(interpreter, operand, shape)
    if found is None:
        return None
    places, num_blocks = found
    (result,) = _block_by_block(interpreter, equation, operands, places, num_blocks)
    # blocks that are longer than 1 have been flattened with what lies in them
    return [result if shape[places.result] == num_blocks else interpreter.join(result)]


def _reshaped(
    interpreter: Interpreter, operand: Operand, shape: Sequence[int]
) -> tuple[Places, int] | None:
    """Where blocks lie before and after a reshape, and how many they are."""
    nodes = interpreter.nodes
    axes = blocks_of(operand)[0].axes
    sizes = [nodes.length(axis) for axis in axes]
    if isinstance(operand, Blocks):
        num_blocks = len(operand.values)
        axis = _outermost(shape, math.prod(sizes[: operand.axis]))
        if axis is None or shape[axis] % num_blocks:
            return None
        return Places((operand.axis,), axis), num_blocks
    if operand.uniform or not interpreter.in_blocks:
        return None
    for i, size in enumerate(sizes):
        axis = _outermost(shape, math.prod(sizes[:i]))
        if axis is None or not 1 < shape[axis] <= MOST_BLOCKS or size == shape[axis]:
            continue
        if _is_made_of(interpreter, axes[i], shape[axis]):
            return Places((i,), axis), shape[axis]
    return None


def _inner_blocks(
    interpreter: Interpreter, operand: Operand, shape: Sequence[int]
) -> tuple[list[list[Value]], int] | None:
    """What a reshape makes blocks of where they lie within each entry of a product, and its axis.

    Such as query, key and value in each head.
    """
    if isinstance(operand, Blocks) or operand.uniform or not interpreter.in_blocks:
        return None
    nodes = interpreter.nodes
    before = 1
    for i, axis in enumerate(operand.axes):
        pieces = nodes.expand(axis)
        outer = pieces[0][:-1] if len(pieces) == 1 else ()
        stretches = nodes.stretches(pieces[0][-1]) if outer else None
        if stretches is not None and _is_made_of(interpreter, stretches, len(stretches)):
            result = _outermost(shape, before * nodes.length((outer,)))
            if result is not None and shape[result] == len(stretches):
                interpreter.mix(operand, [i])
                entering = []
                for stretch in stretches:
                    axes = (*operand.axes[:i], ((*outer, *stretch),), *operand.axes[i + 1 :])
                    origins = tuple(without_run(origin, [i]) for origin in operand.origins)
                    entering.append([combine(axes, [operand], origins)])
                return entering, result
        before *= nodes.length(axis)
    return None


def _outermost(shape: Sequence[int], before: int) -> int | None:
    """The axis, longer than 1, that comes after axes of `before` entries together."""
    for axis, size in enumerate(shape):
        if size > 1 and math.prod(shape[:axis]) == before:
            return axis
    return None


def _is_made_of(interpreter: Interpreter, axis: NodeAxis, num_blocks: int) -> bool:
    """Whether an axis is made of blocks of one length, none of which ends within a piece."""
    nodes = interpreter.nodes
    length, remainder = divmod(nodes.length(axis), num_blocks)
    if remainder:
        return False
    end = 0
    ends = {0}
    for piece in nodes.expand(axis):
        end += nodes.length((piece,))
        ends.add(end)
    return all(number * length in ends for number in range(num_blocks))
