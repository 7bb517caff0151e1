"""Rules of what moves entries about: axes change places, are cut, joined, reshaped."""

import math
from collections.abc import Sequence

from jax.extend import core

from lmcjax.symmetry._interpreter import Interpreter, Value, combine, pin_everything, rule, shapes
from lmcjax.symmetry._nodes import NodeAxis, Piece
from lmcjax.symmetry._rules._common import replace_axes, without_run


@rule("transpose", passes_positions=True)
def transpose(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Axes change places."""
    return [select_axes(operands[0], [int(i) for i in equation.params["permutation"]])]


@rule("squeeze", passes_positions=True)
def squeeze(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Axes of length 1 go."""
    return [
        select_axes(
            operands[0],
            [i for i in range(len(operands[0].axes)) if i not in equation.params["dimensions"]],
        )
    ]


def select_axes(value: Value, kept: Sequence[int]) -> Value:
    """Some axes of a value, in some order; those that are left out have length 1."""
    origins = (
        origin._replace(axes=tuple(origin.axes[i] for i in kept)) for origin in value.origins
    )
    return value._replace(axes=tuple(value.axes[i] for i in kept), origins=tuple(origins))


@rule("expand_dims", passes_positions=True)
def expand_dims(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Axes of length 1 come."""
    (shape,) = shapes(equation)
    kept = [i for i in range(len(shape)) if i not in equation.params["dimensions"]]
    return [_spread(interpreter, operands[0], kept, shape)]


@rule("broadcast_in_dim", passes_positions=True)
def broadcast(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """New axes are uniform, hence free."""
    (shape,) = shapes(equation)
    return [
        _spread(
            interpreter,
            operands[0],
            [int(i) for i in equation.params["broadcast_dimensions"]],
            shape,
        )
    ]


def _spread(
    interpreter: Interpreter, value: Value, positions: Sequence[int], shape: Sequence[int]
) -> Value:
    """A value whose axes go to some positions of a larger shape; along the others it is uniform."""
    axes = [interpreter.nodes.axis(size) for size in shape]
    whole = [
        interpreter.nodes.length(axis) == shape[i]
        for axis, i in zip(value.axes, positions, strict=True)
    ]
    for axis, i, stays in zip(value.axes, positions, whole, strict=True):
        if stays:
            axes[i] = axis
    origins = []
    for origin in value.origins:
        runs: list[tuple[int, ...] | None] = [() if size == 1 else None for size in shape]
        for run, i, stays in zip(origin.axes, positions, whole, strict=True):
            runs[i] = run if stays else None
        origins.append(origin._replace(axes=tuple(runs)))
    return value._replace(axes=tuple(axes), origins=tuple(origins))


@rule("reshape")
def reshape(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Products of axes are taken apart and put together; what does not fit is pinned."""
    (shape,) = shapes(equation)
    if 0 in shape:
        return pin_everything(interpreter, equation, operands)
    order = equation.params.get("dimensions")
    if order is not None:  # transposed before
        operands = [select_axes(operands[0], [int(i) for i in order])]
    old, new = list(operands[0].axes), list(shape)
    result: list[NodeAxis] = []
    runs: list[list[tuple[int, ...] | None]] = [[] for _ in operands[0].origins]
    while old or new:
        first = len(operands[0].axes) - len(old)
        taken, sizes = _take_equal(interpreter, old, new)
        same = len(taken) == len(sizes) == 1
        result.extend(taken if same else _regroup(interpreter, taken, sizes))
        for run, origin in zip(runs, operands[0].origins, strict=True):
            before = origin.axes[first : first + len(taken)]
            run.extend(
                before if same else _cut_run(interpreter.leaf_shapes[origin.leaf], before, sizes)
            )
    origins = (
        o._replace(axes=tuple(run)) for o, run in zip(operands[0].origins, runs, strict=True)
    )
    return [combine(result, operands, tuple(origins))]


def _cut_run(
    leaf_shape: Sequence[int], runs: Sequence[tuple[int, ...] | None], sizes: Sequence[int]
) -> list[tuple[int, ...] | None]:
    """The leaf's axes in these runs, dealt out to axes of the given sizes; None: no fit."""
    if any(run is None for run in runs):
        return [None] * len(sizes)
    left = [axis for run in runs if run for axis in run if leaf_shape[axis] > 1]
    result: list[tuple[int, ...] | None] = []
    for size in sizes:
        taken: list[int] = []
        while left and math.prod(leaf_shape[axis] for axis in taken) < size:
            taken.append(left.pop(0))
        if math.prod(leaf_shape[axis] for axis in taken) != size:
            return [None] * len(sizes)
        result.append(tuple(taken))
    return result


def _take_equal(
    interpreter: Interpreter, old: list[NodeAxis], new: list[int]
) -> tuple[list[NodeAxis], list[int]]:
    """The fewest leading old axes and new sizes with equal products, taken off both lists."""
    taken, sizes = [], []
    before = after = 1
    while True:
        if (before < after or not new) and old:
            taken.append(old.pop(0))
            before *= interpreter.nodes.length(taken[-1])
        elif (after < before or not old) and new:
            sizes.append(new.pop(0))
            after *= sizes[-1]
        elif not taken and not sizes:
            taken.append(old.pop(0))
            before *= interpreter.nodes.length(taken[-1])
        else:
            return taken, sizes


def _regroup(interpreter: Interpreter, taken: list[NodeAxis], sizes: list[int]) -> list[NodeAxis]:
    """Axes made into one product and cut into axes of the given sizes."""
    nodes = interpreter.nodes
    taken = [_one_stretch(interpreter, axis) for axis in taken]
    expanded = [nodes.expand(axis) for axis in taken]
    whole = nodes.axis(math.prod(sizes))
    if all(len(axis) == 1 for axis in expanded):
        factors = tuple(node for axis in expanded for node in axis[0])
        nodes.merge(whole, (factors,))
        parts = [nodes.axis(size) for size in sizes]
        nodes.merge(whole, (tuple(node for part in parts for node in part[0]),))
        return parts
    long = [axis for axis in taken if nodes.length(axis) > 1]
    if len(long) == 1 and sum(size > 1 for size in sizes) == 1:  # only axes of length 1 come and go
        return [long[0] if size > 1 else ((),) for size in sizes]
    # flattened with the concatenation outermost
    if len(sizes) == 1 and all(len(axis) == 1 for axis in expanded[1:]):
        inner = tuple(node for axis in expanded[1:] for node in axis[0])
        return [tuple((*piece, *inner) for piece in expanded[0])]
    if len(taken) == 1:
        regrouped = _regroup_pieces(interpreter, expanded[0], sizes)
        if regrouped is not None:
            return regrouped
    # Which old entries the new ones are is not told. So nothing varies along the old ones, nor
    # along new ones that are merged with them elsewhere.
    reason = "a concatenation that is reshaped into what does not fit it"
    for axis in taken:
        nodes.misalign(axis, reason)
    return [nodes.axis(size, reason) for size in sizes]


def _regroup_pieces(
    interpreter: Interpreter, axis: NodeAxis, sizes: list[int]
) -> list[NodeAxis] | None:
    """A concatenation cut into axes of the given sizes, with the concatenation outermost.

    None where a piece ends within an entry of the outermost axis.
    """
    nodes = interpreter.nodes
    inner = math.prod(sizes[1:])
    lengths = [nodes.length((piece,)) for piece in axis]
    if any(length % inner for length in lengths):
        return None
    parts = [nodes.axis(size) for size in sizes[1:]]
    factors = tuple(node for part in parts for node in part[0])
    outermost: list[Piece] = []
    for piece, length in zip(axis, lengths, strict=True):
        (outer,) = nodes.axis(length // inner)
        nodes.merge((piece,), ((*outer, *factors),))
        outermost.append(outer)
    return [tuple(outermost), *parts]


def _one_stretch(interpreter: Interpreter, axis: NodeAxis) -> NodeAxis:
    """A concatenation in which nothing can be permuted need not be told in pieces."""
    nodes = interpreter.nodes
    pins = [nodes.pinned(node) for node in nodes.atoms(axis)]
    if len(nodes.expand(axis)) == 1 or None in pins:
        return axis
    known = [pin for pin in pins if pin is not None]
    reason = known[0] if known else "single entries side by side"
    nodes.misalign(axis, reason)  # which entries of the new axis its own are is not told
    return nodes.axis(nodes.length(axis), reason)


@rule("concatenate")
def concatenate(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """One axis is laid end to end, the others are the same."""
    return _concatenate(interpreter, operands, int(equation.params["dimension"]))


def _concatenate(interpreter: Interpreter, operands: list[Value], dimension: int) -> list[Value]:
    interpreter.meet(operands)
    for value in operands[1:]:
        for i, axis in enumerate(value.axes):
            if i != dimension:
                interpreter.nodes.merge(operands[0].axes[i], axis)
    axes = list(operands[0].axes)
    axes[dimension] = tuple(piece for value in operands for piece in value.axes[dimension])
    origins = tuple(
        without_run(origin, [dimension]) for value in operands for origin in value.origins
    )
    return [combine(axes, operands, origins)]


@rule("stack")
def stack(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Concatenation along a new axis."""
    (shape,) = shapes(equation)
    axis = int(equation.params["axis"])
    kept = [i for i in range(len(shape)) if i != axis]
    single = tuple(1 if i == axis else size for i, size in enumerate(shape))
    entries = [_spread(interpreter, value, kept, single) for value in operands]
    return _concatenate(interpreter, entries, axis)


@rule("tile")
def tile(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """An axis is laid end to end with itself."""
    value = operands[0]
    repeats = equation.params["reps"]
    axes = [axis * repeat for axis, repeat in zip(value.axes, repeats, strict=True)]
    repeated = [i for i, repeat in enumerate(repeats) if repeat != 1]
    return [
        combine(axes, operands, tuple(without_run(origin, repeated) for origin in value.origins))
    ]


@rule("split")
def split(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """One axis is cut into several."""
    axis, start, results = equation.params["axis"], 0, []
    for size in equation.params["sizes"]:
        results.append(cut_axes(interpreter, operands[0], {axis: (int(start), int(start + size))}))
        start += size
    return results


@rule("unstack")
def unstack(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """One axis is cut into its entries."""
    (value,) = operands
    axis = int(equation.params["axis"])
    kept = [i for i in range(len(value.axes)) if i != axis]
    results = []
    for i in range(len(equation.outvars)):
        entry = cut_axes(interpreter, value, {axis: (i, i + 1)})
        results.append(select_axes(entry, kept))
    return results


@rule("slice")
def slicing(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """A cut between pieces keeps them; one with a stride pins."""
    (shape,) = shapes(equation)
    strides = equation.params["strides"] or (1,) * len(shape)
    strided = [i for i, stride in enumerate(strides) if stride != 1]
    value = replace_axes(interpreter, equation, operands[0], strided, shape)
    bounds = zip(equation.params["start_indices"], equation.params["limit_indices"], strict=True)
    kept = {
        i: (int(start), int(stop)) for i, (start, stop) in enumerate(bounds) if i not in strided
    }
    return [cut_axes(interpreter, value, kept)]


def cut_axes(interpreter: Interpreter, value: Value, bounds: dict[int, tuple[int, int]]) -> Value:
    """The part of a value within bounds; single entries are pinned out of their axis."""
    axes, cut = list(value.axes), []
    for i, (start, stop) in bounds.items():
        if stop - start == interpreter.nodes.length(axes[i]):
            continue
        cut.append(i)
        part = interpreter.nodes.cut(axes[i], start, stop)
        interpreter.mix(value, [i])
        if part is None:
            reason = "cut between entries that belong together (slice)"
            interpreter.nodes.pin(axes[i], reason)
            part = interpreter.nodes.axis(stop - start, reason)
        axes[i] = part
    return combine(axes, [value], tuple(without_run(origin, cut) for origin in value.origins))


@rule("dynamic_slice")
def dynamic_slice(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Axes that are taken whole stay; the others are pinned."""
    (shape,) = shapes(equation)
    part = [
        i for i, axis in enumerate(operands[0].axes) if interpreter.nodes.length(axis) != shape[i]
    ]
    return [combine(replace_axes(interpreter, equation, operands[0], part, shape).axes, operands)]


@rule("dynamic_update_slice")
def dynamic_update_slice(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Axes that are written whole are the same; the others are pinned."""
    interpreter.meet(operands[:2])
    nodes = interpreter.nodes
    whole, update = operands[:2]
    shifted = []
    for i, (axis, of_update) in enumerate(zip(whole.axes, update.axes, strict=True)):
        if nodes.length(axis) == nodes.length(of_update):
            nodes.merge(axis, of_update)
        else:
            shifted.append(i)
    reason = "overwritten from a position that is computed (dynamic_update_slice)"
    for value in (whole, update):
        interpreter.mix(value, shifted)
        for i in shifted:
            nodes.pin(value.axes[i], reason)
    return [combine(whole.axes, operands)]


@rule("pad")
def padding(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Axes that are padded are pinned."""
    (shape,) = shapes(equation)
    padded = [i for i, config in enumerate(equation.params["padding_config"]) if any(config)]
    return [combine(replace_axes(interpreter, equation, operands[0], padded, shape).axes, operands)]
