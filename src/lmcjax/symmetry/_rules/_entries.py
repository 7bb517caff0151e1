"""Rules of what works entry by entry, along an axis, or makes entries."""

from collections.abc import Sequence

from jax.extend import core

from lmcjax.symmetry._interpreter import Interpreter, Value, combine, pin_everything, rule, shapes
from lmcjax.symmetry._nodes import NodeAxis
from lmcjax.symmetry._rules._common import meet_constant, replace_axes

ENTRY_BY_ENTRY = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
    clz complex conj convert_element_type copy copy_p cos cosh digamma div eq_to erf erf_inv erfc
    exp exp2 expm1 floor from_edtype ge gt igamma igamma_grad_a igammac imag integer_pow is_finite
    layout_constraint le le_to lgamma log log1p logistic lt lt_to max min mul mulhi name ne neg
    nextafter not or polygamma population_count pow preduced pvary real reduce_precision
    reduced_vary_cast_p regularized_incomplete_beta rem reshard round rsqrt select_n
    sharding_constraint shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt
    square stop_gradient sub tan tanh to_edtype vary_unreduced_cast_p with_memory_space_constraint
    xor zeros_like zeta
"""

_KEEPS_ENTRIES = {
    "convert_element_type",
    "copy",
    "copy_p",
    "div",
    "mul",
    "neg",
    "reduce_precision",
    "stop_gradient",
}
"""Keep the entries of the first operand, if it alone has axes: the others scale it as a whole."""


@rule(*ENTRY_BY_ENTRY.split())
def entry_by_entry(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Operands of equal shape up to axes of length 1, or scalars."""
    interpreter.meet(operands)
    long = [value for value in operands if value.axes]
    _meet_constants(interpreter, long)
    axes = [
        _common(interpreter, axes) for axes in zip(*(value.axes for value in long), strict=True)
    ]
    keeps = (
        equation.primitive.name in _KEEPS_ENTRIES
        and len(long) == 1
        and operands[0].axes == long[0].axes
    )
    origins = long[0].origins if keeps else ()
    return [combine(axes, operands, origins) for _ in equation.outvars]


def _meet_constants(interpreter: Interpreter, operands: Sequence[Value]) -> None:
    """Where constants and other values meet entry by entry, say so."""
    constants = [value for value in operands if value.leaves == frozenset()]
    others = [value for value in operands if value.leaves != frozenset()]
    for constant in constants:
        for other in others:
            for i in range(len(other.axes)):
                meet_constant(interpreter, constant, i, other, i)


def _common(interpreter: Interpreter, axes: Sequence[NodeAxis]) -> NodeAxis:
    """Axes that are one: merged, but for those of length 1, which are spread along the others."""
    long = [axis for axis in axes if interpreter.nodes.length(axis) != 1]
    for axis in long[1:]:
        interpreter.nodes.merge(long[0], axis)
    return long[0] if long else ((),)


@rule("eq", passes_positions=True)
def equality(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Entry by entry. Positions may be compared with positions along the same axis.

    A one-hot vector is such a comparison: where the largest entry is moved, its one is moved.
    """
    first, second = operands
    known = first.positions is not None and second.positions is not None
    if not (known and interpreter.assume_no_ties):
        return entry_by_entry(interpreter, equation, interpreter.read_positions(operands))
    assert first.positions is not None
    assert second.positions is not None
    interpreter.nodes.merge(first.positions, second.positions)
    (result,) = entry_by_entry(interpreter, equation, operands)
    nodes = interpreter.nodes
    along = nodes.expand(first.positions)
    if along not in [nodes.expand(axis) for axis in result.axes]:
        # the permutation of the axis is the same for all that are compared with each other
        interpreter.values.append(result._replace(axes=(*result.axes, along)))
    return [result]


@rule("bitcast_convert_type")
def bitcast(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Entry by entry between types of one size; otherwise an axis of bytes comes or goes."""
    rule_ = entry_by_entry if len(shapes(equation)[0]) == len(operands[0].axes) else pin_everything
    return rule_(interpreter, equation, operands)


@rule("optimization_barrier", "device_put", "shard_alike")
def identity(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Each operand comes out as it went in."""
    return operands


@rule("tie")
def tie(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """The second of two operands; it only waits for the first."""
    return [operands[1]]


@rule("debug_callback", "debug_print", "inspect_sharding", "dce_sink")
def no_result(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Looks at values, but no output depends on it."""
    return []


@rule("platform_index")
def platform(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """A number that says which branch belongs to the machine at hand."""
    return [combine([], operands)]


@rule(
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor"
)
def reduction(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Symmetric in the reduced axes."""
    axes = [axis for i, axis in enumerate(operands[0].axes) if i not in equation.params["axes"]]
    return [combine(axes, operands)]


@rule("psum", "pmax", "pmin")
def collective(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Symmetric in the axes of a `vmap` that has a name, of every operand by itself.

    Other names are axes of a mesh of devices, whose entries are not seen here: pinned.
    """
    reduced = equation.params["axes"]
    if not all(isinstance(axis, int) for axis in reduced):
        return pin_everything(interpreter, equation, operands)
    results = []
    for value in operands:
        axes = [axis for i, axis in enumerate(value.axes) if i not in reduced]
        results.append(combine(axes, [value]))
    return results


@rule("argmax", "argmin")
def arg_reduction(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """A position along the reduced axis; of several largest entries, it is the first one's."""
    (operand,) = operands
    (axis,) = equation.params["axes"]
    if not interpreter.assume_no_ties:
        replace_axes(interpreter, equation, operand, [axis])
        return reduction(interpreter, equation, operands)
    interpreter.mix(operand, [axis])
    (result,) = reduction(interpreter, equation, operands)
    return [result._replace(positions=operand.axes[axis])]


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def cumulative(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """The order along one axis counts."""
    return [replace_axes(interpreter, equation, operands[0], [equation.params["axis"]])]


@rule("rev")
def reversal(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """The order along some axes counts."""
    return [replace_axes(interpreter, equation, operands[0], equation.params["dimensions"])]


@rule("reduce")
def general_reduction(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """By a function of one's own, which may look at the order. The operands have one shape."""
    arrays = operands[: len(operands) // 2]  # the others are scalars to start from
    reduced = [int(i) for i in equation.params["dimensions"]]
    for value in arrays:
        replace_axes(interpreter, equation, value, reduced)
    together = entry_by_entry(interpreter, equation, arrays)[0]
    axes = [axis for i, axis in enumerate(together.axes) if i not in reduced]
    return [combine(axes, operands) for _ in equation.outvars]


@rule("sort")
def sorting(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """The order along one axis, after sorting, is by value.

    The order before does not matter where entries that compare equal are equal, as they are if all
    operands are compared. Other operands are taken along, and show which of two equal entries came
    first. The other axes are those of the operands together.
    """
    dimension = int(equation.params["dimension"])
    forgets_order = equation.params["num_keys"] == len(operands) or interpreter.assume_no_ties
    for value in operands:
        if forgets_order:
            interpreter.mix(value, [dimension])
        else:
            replace_axes(interpreter, equation, value, [dimension])
    together = entry_by_entry(interpreter, equation, operands)
    reason = "sorted by value (sort)"
    results = []
    for value in together:
        axes = list(value.axes)
        axes[dimension] = interpreter.nodes.axis(interpreter.nodes.length(axes[dimension]), reason)
        results.append(value._replace(axes=tuple(axes), origins=()))
    return results


@rule("top_k")
def top_k(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """The largest values do not depend on the order, with ties too; their positions do."""
    (operand,) = operands
    axis = int(equation.params.get("axis", len(operand.axes) - 1))
    interpreter.mix(operand, [axis])
    results = []
    for shape in shapes(equation):
        axes = list(operand.axes)
        axes[axis] = interpreter.nodes.axis(shape[axis], "the largest entries by value (top_k)")
        results.append(combine(axes, operands))
    values, positions = results
    return [values, positions._replace(positions=operand.axes[axis])]


@rule("approx_top_k")
def approximate_top_k(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Which values are missed depends on where they are."""
    axis = equation.params["reduction_dimension"] % len(operands[0].axes)
    return [
        replace_axes(interpreter, equation, operands[0], [axis], shape)
        for shape in shapes(equation)
    ]


@rule("fft")
def fourier(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """The last axes are transformed."""
    (shape,) = shapes(equation)
    transformed = range(len(shape) - len(equation.params["fft_lengths"]), len(shape))
    return [replace_axes(interpreter, equation, operands[0], transformed, shape)]


@rule("iota")
def iota(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """0, 1, 2, ... along one axis, uniform along the others."""
    (shape,) = shapes(equation)
    dimension = int(equation.params["dimension"])
    if interpreter.assume_no_ties:
        free = [interpreter.nodes.axis(size) for size in shape]
        result = combine(free, operands)
        # pinned as soon as the entries are used as anything but positions
        return [result._replace(positions=free[dimension], uniform=False)]
    pin = interpreter.constant_pin("numbers that count along it (iota)")
    pins = [pin if i == dimension else None for i in range(len(shape))]
    axes = [interpreter.nodes.axis(size, pin) for size, pin in zip(shape, pins, strict=True)]
    return [combine(axes, operands)]


@rule(
    "reduce_window",
    "reduce_window_sum",
    "reduce_window_max",
    "reduce_window_min",
    "cumred_reduce_window_impl",
)
def pooling(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Axes with a window of 1 come through, the others are pinned."""
    if len(equation.outvars) > 1:
        return pin_everything(interpreter, equation, operands)
    (shape,) = shapes(equation)
    windows, paddings = equation.params["window_dimensions"], equation.params["padding"]
    lengths = [interpreter.nodes.length(axis) for axis in operands[0].axes]
    pooled = [
        i
        for i, size in enumerate(shape)
        if windows[i] != 1 or lengths[i] != size or any(paddings[i])
    ]
    return [replace_axes(interpreter, equation, operands[0], pooled, shape)]


@rule("select_and_scatter_add", "select_and_gather_add")
def windows_of_two(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Derivatives of a maximum over windows. Axes with a window of 1 are those of both operands."""
    (shape,) = shapes(equation)
    first, second = operands
    windows, paddings = equation.params["window_dimensions"], equation.params["padding"]
    strides = equation.params["window_strides"]
    pooled: list[int] = []
    whole: list[int] = []
    for i, size in enumerate(shape):
        single = windows[i] == strides[i] == 1 and not any(paddings[i])
        lengths = {interpreter.nodes.length(value.axes[i]) for value in operands}
        (whole if single and lengths == {size} else pooled).append(i)
    for i in whole:
        interpreter.nodes.merge(first.axes[i], second.axes[i])
    replace_axes(interpreter, equation, first, pooled)
    result = replace_axes(interpreter, equation, second, pooled, shape)
    return [combine(result.axes, operands)]


@rule(
    *(
        f"random_{name}"
        for name in ("seed", "split", "bits", "wrap", "unwrap", "fold_in", "clone", "gamma")
    ),
    "threefry2x32",
    "threefry4x32",
    "philox2x32",
    "philox4x32",
    "iota_2x32_shape",
    "rng_bit_generator",
    "rng_uniform",
)
def randomness(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Random values belong to their places."""
    return pin_everything(interpreter, equation, operands)
