"""Rules of what works entry by entry, along an axis, or makes entries."""

from collections.abc import Sequence

from jax.extend import core

from lmcjax.symmetry._interpreter import Interpreter, Value, combine, pin_everything, rule, shapes
from lmcjax.symmetry._nodes import NodeAxis
from lmcjax.symmetry._rules._common import replace_axes

_ENTRY_BY_ENTRY = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
    clz complex conj convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp
    exp2 expm1 floor ge gt igamma igammac imag integer_pow is_finite le lgamma log log1p logistic lt
    max min mul name ne neg nextafter not or population_count pow pvary real reduce_precision
    regularized_incomplete_beta rem round rsqrt select_n sharding_constraint shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh
    xor
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


@rule(*_ENTRY_BY_ENTRY.split())
def entry_by_entry(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Operands of equal shape up to axes of length 1, or scalars."""
    interpreter.meet(operands)
    long = [value for value in operands if value.axes]
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


def _common(interpreter: Interpreter, axes: Sequence[NodeAxis]) -> NodeAxis:
    """Axes that are one: merged, but for those of length 1, which are spread along the others."""
    long = [axis for axis in axes if interpreter.nodes.length(axis) != 1]
    for axis in long[1:]:
        interpreter.nodes.merge(long[0], axis)
    return long[0] if long else ((),)


@rule("bitcast_convert_type")
def bitcast(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Entry by entry between types of one size; otherwise an axis of bytes comes or goes."""
    rule_ = entry_by_entry if len(shapes(equation)[0]) == len(operands[0].axes) else pin_everything
    return rule_(interpreter, equation, operands)


@rule("optimization_barrier")
def identity(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Each operand comes out as it went in."""
    return operands


@rule(
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor"
)
def reduction(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Symmetric in the reduced axes."""
    axes = [axis for i, axis in enumerate(operands[0].axes) if i not in equation.params["axes"]]
    return [combine(axes, operands)]


@rule("argmax", "argmin")
def arg_reduction(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Positions along the reduced axis are looked at."""
    replace_axes(interpreter, equation, operands[0], equation.params["axes"])
    return reduction(interpreter, equation, operands)


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


@rule("sort")
def sorting(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """The order along one axis, after sorting, is by value.

    The other axes are those of the operands together.
    """
    for value in operands:
        replace_axes(interpreter, equation, value, [equation.params["dimension"]])
    together = entry_by_entry(interpreter, equation, operands)
    return [
        replace_axes(interpreter, equation, value, [equation.params["dimension"]])
        for value in together
    ]


@rule("top_k")
def top_k(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """As sorting, and cut."""
    axis = equation.params.get("axis", len(operands[0].axes) - 1)
    return [
        replace_axes(interpreter, equation, operands[0], [axis], shape)
        for shape in shapes(equation)
    ]


@rule("iota")
def iota(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """0, 1, 2, ... along one axis, uniform along the others."""
    (shape,) = shapes(equation)
    pins = [
        "a ramp (iota)" if i == equation.params["dimension"] else None for i in range(len(shape))
    ]
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


@rule(
    *(
        f"random_{name}"
        for name in ("seed", "split", "bits", "wrap", "unwrap", "fold_in", "clone", "gamma")
    ),
    "threefry2x32",
)
def randomness(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Random values belong to their places."""
    return pin_everything(interpreter, equation, operands)
