"""Rules of decompositions and solvers: each matrix of a batch is treated by itself."""

from jax.extend import core

from lmcjax.symmetry._interpreter import Interpreter, Value, combine, rule, shapes
from lmcjax.symmetry._nodes import NodeAxis
from lmcjax.symmetry._rules._common import reason_of, replace_axes

_FIRST_OPERAND = {
    "cholesky": 2,
    "cholesky_update": 2,
    "eig": 2,
    "eigh": 2,
    "geqp3": 2,
    "geqrf": 2,
    "hessenberg": 2,
    "householder_product": 2,
    "lu": 2,
    "lu_pivots_to_permutation": 1,
    "ormqr": 2,
    "qr": 2,
    "schur": 2,
    "svd": 2,
    "symmetric_product": 2,
    "tridiagonal": 2,
    "tridiagonal_solve": 1,
}
"""Axes of the first operand that are not batch axes."""


@rule(*_FIRST_OPERAND)
def decomposition(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Leading axes are batches, which all operands and results have; the others are pinned."""
    num_batches = len(operands[0].axes) - _FIRST_OPERAND[equation.primitive.name]
    batches = _merge_leading(interpreter, operands, num_batches)
    for value in operands:
        replace_axes(interpreter, equation, value, range(num_batches, len(value.axes)))
    results = []
    for shape in shapes(equation):
        rest = interpreter.fresh(shape[num_batches:], operands, reason_of(equation))
        results.append(combine([*batches, *rest.axes], operands))
    return results


@rule("triangular_solve")
def triangular_solve(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """`A x = b`, or `x A = b`: every column (row) of `b` is solved for by itself."""
    matrix, right_hand_side = operands
    num_batches = len(matrix.axes) - 2
    _merge_leading(interpreter, operands, num_batches)
    solved = num_batches if equation.params["left_side"] else num_batches + 1
    replace_axes(interpreter, equation, matrix, range(num_batches, num_batches + 2))
    result = replace_axes(interpreter, equation, right_hand_side, [solved])
    return [combine(result.axes, operands)]


def _merge_leading(
    interpreter: Interpreter, operands: list[Value], num_axes: int
) -> tuple[NodeAxis, ...]:
    first = operands[0].axes[:num_axes]
    for value in operands[1:]:
        for axis, other in zip(first, value.axes, strict=False):
            interpreter.nodes.merge(axis, other)
    return first
