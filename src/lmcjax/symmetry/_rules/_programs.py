"""Rules of equations that call programs: they are entered."""

from collections.abc import Sequence

from jax.extend import core

from lmcjax.symmetry._interpreter import (
    Interpreter,
    Operand,
    Origin,
    Path,
    Value,
    block_rule,
    combine,
    rule,
)


@block_rule(
    "pjit",
    "jit",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "checkpoint",
    "remat2",
    "remat",
    "call",
    "composite",
    "eval_jaxpr",
)
def call(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: Sequence[Operand]
) -> list[Operand]:
    """Enter the program that is called."""
    names = ("jaxpr", "call_jaxpr", "fun_jaxpr")
    inner = next(equation.params[name] for name in names if name in equation.params)
    if isinstance(inner, core.ClosedJaxpr):
        return interpreter.call_closed(inner, operands)
    return interpreter.run(inner, [], operands)


@rule("custom_vmap_call", "custom_partitioning", "linear_call")
def call_without_taps(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Enter a program that comes with other ways to transform it; nothing is taken out of it."""
    name = "callee" if "callee" in equation.params else "call"
    with interpreter.unrepeatable():
        return interpreter.run_closed(equation.params[name], operands)


@rule("custom_linear_solve")
def linear_solve(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """The program that solves, on its own constants and the right-hand sides."""
    lengths = equation.params["const_lengths"]
    start = lengths.matvec + lengths.vecmat
    consts = operands[start : start + lengths.solve]
    right_hand_sides = operands[sum(lengths) :]
    with interpreter.unrepeatable():
        solve = equation.params["jaxprs"].solve
        return interpreter.run_closed(solve, [*consts, *right_hand_sides])


@rule("cond")
def conditional(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Whatever branch is taken, its results have the same axes."""
    with interpreter.unrepeatable():
        branches = [
            interpreter.run_closed(branch, operands[1:]) for branch in equation.params["branches"]
        ]
    results = []
    for values in zip(*branches, strict=True):
        for value in values[1:]:
            for first, axis in zip(values[0].axes, value.axes, strict=True):
                interpreter.nodes.merge(first, axis)
        results.append(combine(values[0].axes, [*values, operands[0]]))
    return results


@rule("while")
def while_loop(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """The state has the same axes before and after each turn."""
    num_cond, num_body = equation.params["cond_nconsts"], equation.params["body_nconsts"]
    state = _carried(operands[num_cond + num_body :], operands)
    cond_consts, body_consts = operands[:num_cond], operands[num_cond : num_cond + num_body]
    with interpreter.unrepeatable():
        interpreter.run_closed(equation.params["cond_jaxpr"], [*cond_consts, *state])
        after = interpreter.run_closed(equation.params["body_jaxpr"], [*body_consts, *state])
    return _close_loop(interpreter, state, after)


@rule("scan")
def scan(interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
    """The state is treated as in a loop.

    Inputs and outputs that are scanned over are pinned along that axis, which they share: a stack
    of layers, each of which may have a permutation of its own.
    """
    num_consts, num_carry = equation.params["num_consts"], equation.params["num_carry"]
    consts, scanned = operands[:num_consts], operands[num_consts + num_carry :]
    layers = interpreter.nodes.axis(equation.params["length"], "the turns of a scan")
    for value in scanned:
        interpreter.nodes.merge(layers, value.axes[0])
    stack = frozenset(layers[0])
    state = _carried(operands[num_consts : num_consts + num_carry], operands)
    entries = [
        Value(
            value.axes[1:],
            value.leaves,
            value.stacked | stack,
            _entries(value.origins, interpreter.path),
        )
        for value in scanned
    ]
    interpreter.values.extend(entries)
    results = interpreter.run_closed(equation.params["jaxpr"], [*consts, *state, *entries])
    after = _close_loop(interpreter, state, results[:num_carry])
    outputs = [
        Value((layers, *value.axes), value.leaves, value.stacked - stack)
        for value in results[num_carry:]
    ]
    return [*after, *outputs]


def _entries(origins: Sequence[Origin], path: Path) -> tuple[Origin, ...]:
    """What one entry of a stack of leaves, scanned over by the equation at `path`, carries."""
    return tuple(
        origin._replace(axes=origin.axes[1:], stack=(*origin.stack, (path, origin.axes[0][0])))
        for origin in origins
        if origin.axes[0] is not None and len(origin.axes[0]) == 1
    )


def _carried(initial: Sequence[Value], operands: Sequence[Value]) -> list[Value]:
    """The state of a loop. It is made of all that enters the loop, a state of zeros too."""
    everything = combine([], operands)
    state = []
    for value in initial:
        later = value._replace(leaves=everything.leaves, origins=(), uniform=False)
        state.append(later)
    return state


def _close_loop(
    interpreter: Interpreter, before: Sequence[Value], after: Sequence[Value]
) -> list[Value]:
    for old, new in zip(before, after, strict=True):
        for axis, other in zip(old.axes, new.axes, strict=True):
            interpreter.nodes.merge(axis, other)
    return [combine(old.axes, [old]) for old in before]
