"""A rule per primitive: which index sets of its operands and results are the same, and which are pinned."""

import math
from collections.abc import Sequence
from typing import SupportsIndex

from jax.extend import core

from lmcjax.symmetry._interpreter import Interpreter, Origin, Path, Value, combine, pin_everything, rule, shapes
from lmcjax.symmetry._nodes import NodeAxis

_ENTRY_BY_ENTRY = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex
    conj convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma
    igammac imag integer_pow is_finite le lgamma log log1p logistic lt max min mul name ne neg nextafter not or
    population_count pow pvary real reduce_precision regularized_incomplete_beta rem round rsqrt select_n
    sharding_constraint shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
    stop_gradient sub tan tanh xor
"""

_KEEPS_ENTRIES = {"convert_element_type", "copy", "copy_p", "div", "mul", "neg", "reduce_precision", "stop_gradient"}
"""Of these, what matters is that one operand has axes, the first: the others scale it as a whole."""


@rule(*_ENTRY_BY_ENTRY.split())
def entry_by_entry(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Operands of equal shape up to axes of length 1, or scalars."""
    interpreter.meet(operands)
    long = [value for value in operands if value.axes]
    axes = [_common(interpreter, axes) for axes in zip(*(value.axes for value in long), strict=True)]
    keeps = equation.primitive.name in _KEEPS_ENTRIES and len(long) == 1 and operands[0].axes == long[0].axes
    origins = long[0].origins if keeps else ()
    return [combine(axes, operands, origins) for _ in equation.outvars]


def _common(interpreter: Interpreter, axes: Sequence[NodeAxis]) -> NodeAxis:
    """Axes that are one: merged, but for those of length 1, which are spread along the others."""
    long = [axis for axis in axes if interpreter.nodes.length(axis) != 1]
    for axis in long[1:]:
        interpreter.nodes.merge(long[0], axis)
    return long[0] if long else ((),)


@rule("bitcast_convert_type")
def bitcast(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Entry by entry between types of one size; otherwise an axis of bytes comes or goes."""
    rule_ = entry_by_entry if len(shapes(equation)[0]) == len(operands[0].axes) else pin_everything
    return rule_(interpreter, equation, operands)


@rule("optimization_barrier")
def identity(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Each operand comes out as it went in."""
    return operands


@rule("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor")
def reduction(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Symmetric in the reduced axes."""
    axes = [axis for i, axis in enumerate(operands[0].axes) if i not in equation.params["axes"]]
    return [combine(axes, operands)]


@rule("argmax", "argmin")
def arg_reduction(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Positions along the reduced axis are looked at."""
    _replace(interpreter, equation, operands[0], equation.params["axes"])
    return reduction(interpreter, equation, operands)


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def cumulative(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """The order along one axis counts."""
    return [_replace(interpreter, equation, operands[0], [equation.params["axis"]])]


@rule("rev")
def reversal(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """The order along some axes counts."""
    return [_replace(interpreter, equation, operands[0], equation.params["dimensions"])]


@rule("sort")
def sorting(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """The order along one axis, after sorting, is by value; the other axes are those of the operands together."""
    for value in operands:
        _replace(interpreter, equation, value, [equation.params["dimension"]])
    together = entry_by_entry(interpreter, equation, operands)
    return [_replace(interpreter, equation, value, [equation.params["dimension"]]) for value in together]


@rule("top_k")
def top_k(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """As sorting, and cut."""
    axis = equation.params.get("axis", len(operands[0].axes) - 1)
    return [_replace(interpreter, equation, operands[0], [axis], shape) for shape in shapes(equation)]


@rule("iota")
def iota(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """0, 1, 2, ... along one axis, uniform along the others."""
    (shape,) = shapes(equation)
    pins = ["a ramp (iota)" if i == equation.params["dimension"] else None for i in range(len(shape))]
    axes = [interpreter.nodes.axis(size, pin) for size, pin in zip(shape, pins, strict=True)]
    return [combine(axes, operands)]


@rule("transpose")
def transpose(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Axes change places."""
    return [_select(operands[0], [int(i) for i in equation.params["permutation"]])]


@rule("squeeze")
def squeeze(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Axes of length 1 go."""
    return [_select(operands[0], [i for i in range(len(operands[0].axes)) if i not in equation.params["dimensions"]])]


def _select(value: Value, kept: Sequence[int]) -> Value:
    """Some axes of a value, in some order; those that are left out have length 1."""
    origins = (origin._replace(axes=tuple(origin.axes[i] for i in kept)) for origin in value.origins)
    return value._replace(axes=tuple(value.axes[i] for i in kept), origins=tuple(origins))


@rule("expand_dims")
def expand_dims(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Axes of length 1 come."""
    (shape,) = shapes(equation)
    kept = [i for i in range(len(shape)) if i not in equation.params["dimensions"]]
    return [_spread(interpreter, operands[0], kept, shape)]


@rule("broadcast_in_dim")
def broadcast(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """New axes are uniform, hence free."""
    (shape,) = shapes(equation)
    return [_spread(interpreter, operands[0], [int(i) for i in equation.params["broadcast_dimensions"]], shape)]


def _spread(interpreter: Interpreter, value: Value, positions: Sequence[int], shape: Sequence[int]) -> Value:
    """A value whose axes go to some positions of a larger shape; along the others it is uniform."""
    axes = [interpreter.nodes.axis(size) for size in shape]
    whole = [interpreter.nodes.length(axis) == shape[i] for axis, i in zip(value.axes, positions, strict=True)]
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
def reshape(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Products of axes are taken apart and put together; what does not fit is pinned."""
    (shape,) = shapes(equation)
    if 0 in shape or equation.params.get("dimensions") is not None:
        return pin_everything(interpreter, equation, operands)
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
            run.extend(before if same else _cut_run(interpreter.leaf_shapes[origin.leaf], before, sizes))
    origins = (o._replace(axes=tuple(run)) for o, run in zip(operands[0].origins, runs, strict=True))
    return [combine(result, operands, tuple(origins))]


def _cut_run(
    leaf_shape: Sequence[int], runs: Sequence[tuple[int, ...] | None], sizes: Sequence[int]
) -> list[tuple[int, ...] | None]:
    """The leaf's axes in these runs, dealt out to axes of the given sizes; None where they do not fit."""
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


def _take_equal(interpreter: Interpreter, old: list[NodeAxis], new: list[int]) -> tuple[list[NodeAxis], list[int]]:
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
    if len(sizes) == 1 and all(len(axis) == 1 for axis in expanded[1:]):  # flattened with the concatenation outermost
        inner = tuple(node for axis in expanded[1:] for node in axis[0])
        return [tuple((*piece, *inner) for piece in expanded[0])]
    for axis in taken:
        nodes.pin(axis, "a concatenation that is reshaped")
    return [nodes.axis(size, "a concatenation that is reshaped") for size in sizes]


@rule("concatenate")
def concatenate(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
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
    origins = tuple(_without_run(origin, [dimension]) for value in operands for origin in value.origins)
    return [combine(axes, operands, origins)]


def _without_run(origin: Origin, axes: Sequence[int]) -> Origin:
    """An origin that no longer knows what some axes of the value run over."""
    return origin._replace(axes=tuple(None if i in axes else run for i, run in enumerate(origin.axes)))


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
    return [combine(axes, operands, tuple(_without_run(origin, repeated) for origin in value.origins))]


@rule("split")
def split(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """One axis is cut into several."""
    axis, start, results = equation.params["axis"], 0, []
    for size in equation.params["sizes"]:
        results.append(_cut(interpreter, operands[0], {axis: (int(start), int(start + size))}, operands))
        start += size
    return results


@rule("slice")
def slicing(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """A cut between pieces keeps them; one with a stride pins."""
    (shape,) = shapes(equation)
    strides = equation.params["strides"] or (1,) * len(shape)
    strided = [i for i, stride in enumerate(strides) if stride != 1]
    value = _replace(interpreter, equation, operands[0], strided, shape)
    bounds = zip(equation.params["start_indices"], equation.params["limit_indices"], strict=True)
    kept = {i: (int(start), int(stop)) for i, (start, stop) in enumerate(bounds) if i not in strided}
    return [_cut(interpreter, value, kept, operands)]


def _cut(
    interpreter: Interpreter, value: Value, bounds: dict[int, tuple[int, int]], operands: Sequence[Value]
) -> Value:
    """The part of a value within bounds; single entries are pinned out of their axis."""
    axes, cut = list(value.axes), []
    for i, (start, stop) in bounds.items():
        if stop - start == interpreter.nodes.length(axes[i]):
            continue
        cut.append(i)
        part = interpreter.nodes.cut(axes[i], start, stop)
        interpreter.mix(value, [i])
        if part is None:
            interpreter.nodes.pin(axes[i], "a slice")
            part = interpreter.nodes.axis(stop - start, "a slice")
        axes[i] = part
    return combine(axes, operands, tuple(_without_run(origin, cut) for origin in value.origins))


@rule("dynamic_slice")
def dynamic_slice(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Axes that are taken whole stay; the others are pinned."""
    (shape,) = shapes(equation)
    part = [i for i, axis in enumerate(operands[0].axes) if interpreter.nodes.length(axis) != shape[i]]
    return [combine(_replace(interpreter, equation, operands[0], part, shape).axes, operands)]


@rule("dynamic_update_slice")
def dynamic_update_slice(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Axes that are written whole are the same; the others are pinned."""
    interpreter.meet(operands[:2])
    for axis, update in zip(operands[0].axes, operands[1].axes, strict=True):
        if interpreter.nodes.length(axis) == interpreter.nodes.length(update):
            interpreter.nodes.merge(axis, update)
        else:
            interpreter.nodes.pin(axis, "a dynamic update")
            interpreter.nodes.pin(update, "a dynamic update")
    return [combine(operands[0].axes, operands)]


@rule("pad")
def padding(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Axes that are padded are pinned."""
    (shape,) = shapes(equation)
    padded = [i for i, config in enumerate(equation.params["padding_config"]) if any(config)]
    return [combine(_replace(interpreter, equation, operands[0], padded, shape).axes, operands)]


@rule("gather")
def gather(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Axes that are taken whole come through (an embedding's features); those that are indexed are pinned."""
    operand, indices = operands
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    if getattr(numbers, "operand_batching_dims", ()):
        return pin_everything(interpreter, equation, operands)
    interpreter.nodes.pin(indices.axes[-1], "indices")
    (shape,) = shapes(equation)
    kept = [i for i in range(len(operand.axes)) if i not in numbers.collapsed_slice_dims]
    axes: list[NodeAxis | None] = [None] * len(shape)
    for position, i in zip(numbers.offset_dims, kept, strict=True):
        whole = sizes[i] == interpreter.nodes.length(operand.axes[i])
        axes[position] = operand.axes[i] if whole else interpreter.nodes.axis(sizes[i], "gathered")
    whole_axes = [i for i in kept if sizes[i] == interpreter.nodes.length(operand.axes[i])]
    looked_up = [i for i in range(len(operand.axes)) if i not in whole_axes]
    interpreter.mix(operand, looked_up)
    for i in looked_up:
        interpreter.nodes.pin(operand.axes[i], "looked up by index")
    rest = iter(indices.axes[:-1])
    if indices.leaves is None:
        interpreter.use(operand, whole_axes, "writes")
        if tuple(numbers.start_index_map) == tuple(numbers.collapsed_slice_dims) == tuple(looked_up):
            interpreter.multiply(1, operand, looked_up, lookup=True)
    return [combine([next(rest) if axis is None else axis for axis in axes], operands)]


@rule("dot_general")
def dot_general(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Contracted axes are the same, so are batch axes."""
    (contracting, batch) = equation.params["dimension_numbers"]
    left, right = operands
    for pairs in (contracting, batch):
        for i, j in zip(*pairs, strict=True):
            interpreter.nodes.merge(left.axes[i], right.axes[j])
    free = []
    for i, (value, other, contracted, batched) in enumerate(
        zip(operands, (right, left), contracting, batch, strict=True)
    ):
        free += [axis for j, axis in enumerate(value.axes) if j not in (*contracted, *batched)]
        interpreter.mix(value, contracted)
        interpreter.mix(value, [j for j in range(len(value.axes)) if j not in (*contracted, *batched)])
        if other.leaves is None and value.leaves is not None:
            interpreter.use(value, contracted, "reads")
            interpreter.use(value, [j for j in range(len(value.axes)) if j not in contracted], "writes")
            interpreter.multiply(1 - i, value, contracted, batched)
    if left.leaves and right.leaves:  # a product of parameters: a factorised kernel
        interpreter.use(left, contracting[0], "writes")
        interpreter.use(right, contracting[1], "reads")
    return [combine([*(left.axes[i] for i in batch[0]), *free], operands)]


@rule("conv_general_dilated")
def convolution(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Feature axes connect; spatial axes are pinned. Feature groups are products on both sides."""
    nodes, numbers = interpreter.nodes, equation.params["dimension_numbers"]
    image, kernel = operands
    (shape,) = shapes(equation)
    if equation.params["batch_group_count"] != 1:
        return pin_everything(interpreter, equation, operands)
    for value, spec in ((image, numbers.lhs_spec), (kernel, numbers.rhs_spec)):
        for i in spec[2:]:
            nodes.pin(value.axes[i], "a spatial axis of a convolution")
        interpreter.mix(value, spec[2:])
        interpreter.mix(value, spec[:1])
    groups = equation.params["feature_group_count"]
    features, incoming = image.axes[numbers.lhs_spec[1]], kernel.axes[numbers.rhs_spec[1]]
    outgoing = kernel.axes[numbers.rhs_spec[0]]
    if groups == 1:
        nodes.merge(features, incoming)
    else:
        (group,) = nodes.axis(groups)
        (each,) = nodes.axis(nodes.length(outgoing) // groups)
        nodes.merge(outgoing, ((*group, *each),))
        inside = nodes.expand(incoming)
        if len(inside) > 1:
            nodes.pin(incoming, "a concatenation inside feature groups")
            (single,) = nodes.axis(nodes.length(incoming), "a concatenation inside feature groups")
            inside = (single,)
        nodes.merge(features, ((*group, *inside[0]),))
    if image.leaves is None and kernel.leaves is not None:
        interpreter.use(kernel, [numbers.rhs_spec[1]], "reads")
        interpreter.use(kernel, [numbers.rhs_spec[0]], "writes")
        interpreter.multiply(0, kernel, numbers.rhs_spec[1:], feature_groups=groups)
    axes: list[NodeAxis] = [nodes.axis(size, "a spatial axis of a convolution") for size in shape]
    axes[numbers.out_spec[0]], axes[numbers.out_spec[1]] = image.axes[numbers.lhs_spec[0]], outgoing
    return [combine(axes, operands)]


@rule("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min", "cumred_reduce_window_impl")
def pooling(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Axes with a window of 1 come through, the others are pinned."""
    if len(equation.outvars) > 1:
        return pin_everything(interpreter, equation, operands)
    (shape,) = shapes(equation)
    windows, paddings = equation.params["window_dimensions"], equation.params["padding"]
    lengths = [interpreter.nodes.length(axis) for axis in operands[0].axes]
    pooled = [i for i, size in enumerate(shape) if windows[i] != 1 or lengths[i] != size or any(paddings[i])]
    return [_replace(interpreter, equation, operands[0], pooled, shape)]


@rule("pjit", "jit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2", "remat")
def call(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Enter the program that is called."""
    names = ("jaxpr", "call_jaxpr", "fun_jaxpr")
    inner = next(equation.params[name] for name in names if name in equation.params)
    if isinstance(inner, core.ClosedJaxpr):
        return interpreter.run_closed(inner, operands)
    return interpreter.run(inner, [], operands)


@rule("cond")
def conditional(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Whatever branch is taken, its results have the same axes."""
    repeatable, interpreter.repeatable = interpreter.repeatable, False
    branches = [interpreter.run_closed(branch, operands[1:]) for branch in equation.params["branches"]]
    interpreter.repeatable = repeatable
    results = []
    for values in zip(*branches, strict=True):
        for value in values[1:]:
            for first, axis in zip(values[0].axes, value.axes, strict=True):
                interpreter.nodes.merge(first, axis)
        results.append(combine(values[0].axes, [*values, operands[0]]))
    return results


@rule("while")
def while_loop(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """The state has the same axes before and after each turn."""
    num_cond, num_body = equation.params["cond_nconsts"], equation.params["body_nconsts"]
    state = _carried(operands[num_cond + num_body :], operands)
    repeatable, interpreter.repeatable = interpreter.repeatable, False
    interpreter.run_closed(equation.params["cond_jaxpr"], [*operands[:num_cond], *state])
    after = interpreter.run_closed(equation.params["body_jaxpr"], [*operands[num_cond : num_cond + num_body], *state])
    interpreter.repeatable = repeatable
    return _close_loop(interpreter, state, after)


@rule("scan")
def scan(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """The state as in a loop; inputs and outputs that are scanned over are pinned along that axis, which they share: a
    stack of layers, each of which may have a permutation of its own."""
    num_consts, num_carry = equation.params["num_consts"], equation.params["num_carry"]
    consts, scanned = operands[:num_consts], operands[num_consts + num_carry :]
    layers = interpreter.nodes.axis(equation.params["length"], "scanned over")
    for value in scanned:
        interpreter.nodes.merge(layers, value.axes[0])
    stack = frozenset(layers[0])
    state = _carried(operands[num_consts : num_consts + num_carry], operands)
    entries = [
        Value(value.axes[1:], value.leaves, value.stacked | stack, _entries(value.origins, interpreter.path))
        for value in scanned
    ]
    interpreter.values.extend(entries)
    results = interpreter.run_closed(equation.params["jaxpr"], [*consts, *state, *entries])
    after = _close_loop(interpreter, state, results[:num_carry])
    outputs = [Value((layers, *value.axes), value.leaves, value.stacked - stack) for value in results[num_carry:]]
    return [*after, *outputs]


def _entries(origins: Sequence[Origin], path: Path) -> tuple[Origin, ...]:
    """What one entry of a stack of leaves, scanned over by the equation at `path`, carries."""
    return tuple(
        origin._replace(axes=origin.axes[1:], stack=(*origin.stack, (path, origin.axes[0][0])))
        for origin in origins
        if origin.axes[0] is not None and len(origin.axes[0]) == 1
    )


def _carried(initial: Sequence[Value], operands: Sequence[Value]) -> list[Value]:
    """The state of a loop. It counts as data if anything in the loop is."""
    leaves = None if any(value.leaves is None for value in operands) else frozenset[int]()
    return [value._replace(leaves=value.leaves if leaves is not None else None, origins=()) for value in initial]


def _close_loop(interpreter: Interpreter, before: Sequence[Value], after: Sequence[Value]) -> list[Value]:
    for old, new in zip(before, after, strict=True):
        for axis, other in zip(old.axes, new.axes, strict=True):
            interpreter.nodes.merge(axis, other)
    return [combine(old.axes, [old]) for old in before]


def _replace(
    interpreter: Interpreter,
    equation: core.JaxprEqn,
    value: Value,
    touched: Sequence[SupportsIndex],  # NumPy's integers, as some equations have them, or Python's
    shape: Sequence[int] | None = None,
) -> Value:
    """A value some of whose axes an equation has reordered, mixed or cut: these are pinned and new in the result.

    Args:
        touched: the axes.
        shape: of the result; default: that of the value.
    """
    axes, reason = list(value.axes), f"{equation.primitive.name} at {interpreter.source}"
    positions = [int(i) for i in touched]
    interpreter.mix(value, positions)
    for i in positions:
        interpreter.nodes.pin(axes[i], reason)
        axes[i] = interpreter.nodes.axis(interpreter.nodes.length(axes[i]) if shape is None else shape[i], reason)
    origins = tuple(_without_run(origin, positions) for origin in value.origins)
    return value._replace(axes=tuple(axes), origins=origins)


@rule(
    *(f"random_{name}" for name in ("seed", "split", "bits", "wrap", "unwrap", "fold_in", "clone", "gamma")),
    "threefry2x32",
)
def randomness(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """Random values belong to their places."""
    return pin_everything(interpreter, equation, operands)
