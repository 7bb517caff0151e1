"""Reading the permutation symmetries of a network off its program."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import partial_eval
from jaxtyping import PyTree

import lmcjax.symmetry._rules  # noqa: F401 - registers the rules
from lmcjax.symmetry._interpreter import Interpreter, Origin, Value
from lmcjax.symmetry._layout import AxisLike, Factor, factors_of, fixed, map_factors
from lmcjax.symmetry._leaves import named_leaves
from lmcjax.symmetry._nodes import NodeAxis, Nodes
from lmcjax.symmetry._reader import Reader
from lmcjax.symmetry._spec import PermutationSpec


def discover(
    apply: Callable[[PyTree, Any], Any],
    params: PyTree,
    x: Any,
    *,
    pin: Iterable[str] = (),
    names: Mapping[str, str] | None = None,
    assume_no_ties: bool = False,
) -> PermutationSpec:
    """Which neurons of a network may be permuted, read off the program itself.

    Abstract interpretation of the jaxpr of `apply`; nothing is executed. Two axes carry the same
    neurons where an operation connects them (entry by entry, by contraction, ...); the axes of
    inputs and outputs, spatial axes, and whatever looks at the order of an axis are pinned. What
    remains and touches parameters is a group. A primitive that is not known pins all that it
    touches and is named in `spec.unknown`: a symmetry may be missed, none is made up. `explain`
    says of every axis why nothing permutes it.

    A group has the name of the layer whose kernel writes it first: `Dense_0` of `Dense_0/kernel`;
    without such a kernel, that of the leaf that writes it first. Where
    kernels of one layer write different groups, it has the leaf's name. If several groups have one
    name, it stays with heads, or whatever else other groups vary along. `layer/qk` are channels
    that only meet each other, as those of queries and keys, and beside these `layer/v` the others;
    elsewhere `layer/each` is what each head has. What is still alike is numbered in order,
    `layer/1`, `layer/2`.

    Args:
        apply: static; `apply(params, x)` gives the outputs, in any structure of arrays.
        params: any pytree of arrays or `jax.ShapeDtypeStruct`; state such as BatchNorm's statistics
            included.
        x: example inputs, a pytree of arrays or `jax.ShapeDtypeStruct`.
        pin: names of groups that are not to be permuted.
        names: new names of groups, by old name. Two groups of one shape that get the same name are
            merged: one permutation for both.
        assume_no_ties: no two entries that are compared to be sorted are equal. What is sorted by
            them then does not depend on their order. With ties it does: of two equal entries, the
            one that stood first goes first.

    Returns:
        A spec bound to the parameters' shapes; leaves and groups in the order of their first use.
        `spec.dead` names the leaves that nothing uses, but for the counters of norms.

    Raises:
        ValueError: `pin` or `names` names a group that there is not, or merges groups of different
            shapes.
    """
    spec = read_program(apply, params, x, assume_no_ties=assume_no_ties).spec()
    return _override(spec, frozenset(pin), names or {})


def read_program(
    apply: Callable[[PyTree, Any], Any], params: PyTree, x: Any, *, assume_no_ties: bool
) -> Reader:
    """What interpreting the program of `apply` has found, ready to be read."""
    program, interpreter, parameters = interpret(apply, params, x, assume_no_ties=assume_no_ties)
    leaves = named_leaves(params)
    reader = Reader(interpreter, leaves, parameters)
    in_blocks = _interpret_in_blocks(program, x, interpreter, parameters)
    if in_blocks is None:
        return reader
    finer = Reader(in_blocks[0], leaves, in_blocks[1])
    # What either has found holds. Blocks may lose what they do not fit.
    return max(reader, finer, key=_num_neurons)


def interpret(
    apply: Callable[[PyTree, Any], Any],
    params: PyTree,
    x: Any,
    *,
    assume_no_ties: bool = False,
) -> tuple[core.ClosedJaxpr, Interpreter, list[Value]]:
    """Trace `apply` and interpret its program.

    Returns:
        The program, what interpreting it has found, and the parameters' leaves as it saw them.
    """
    params, x = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), (params, x)
    )
    closed = _without_dead_code(jax.make_jaxpr(apply)(params, x))
    leaf_shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    interpreter = Interpreter(leaf_shapes=leaf_shapes, assume_no_ties=assume_no_ties)
    axes = [tuple(interpreter.nodes.axis(size) for size in shape) for shape in leaf_shapes]
    return closed, interpreter, _interpret(closed, x, interpreter, axes)


def _without_dead_code(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The same program without equations whose results nobody reads, which may tie layers.

    PyTorch's LSTM stacks the last states of its layers, whether anyone asks for them or not.
    """
    all_outputs = [True] * len(closed.jaxpr.outvars)
    alive, _ = partial_eval.dce_jaxpr(closed.jaxpr, all_outputs, instantiate=True)
    return closed.replace(jaxpr=alive)


def _interpret(
    closed: core.ClosedJaxpr,
    x: Any,
    interpreter: Interpreter,
    leaf_axes: Sequence[tuple[NodeAxis, ...]],
) -> list[Value]:
    """Interpret a program whose parameters have these axes.

    Returns:
        The parameters' leaves as the interpreter saw them.
    """
    nodes = interpreter.nodes
    parameters = []
    for i, axes in enumerate(leaf_axes):
        origin = Origin(i, tuple((axis,) for axis in range(len(axes))))
        parameters.append(Value(axes, frozenset([i]), origins=(origin,)))
    inputs = [
        Value(tuple(nodes.axis(size, "an axis of the inputs") for size in jnp.shape(leaf)), None)
        for leaf in jax.tree.leaves(x)
    ]
    interpreter.values.extend(parameters)
    for result in interpreter.run_closed(closed, [*parameters, *inputs]):
        interpreter.order.update(dict.fromkeys(result.leaves or ()))
        for axis in result.axes:
            nodes.pin(axis, "an axis of the outputs")
    return parameters


def _interpret_in_blocks(
    closed: core.ClosedJaxpr, x: Any, first: Interpreter, parameters: Sequence[Value]
) -> tuple[Interpreter, list[Value]] | None:
    """Interpret a program once more, with blocks of parameters that the program tells apart.

    What is known of a product, such as 3 times heads, holds of all three alike. So an axis that
    turned out to be one whose entries along the 3 go separate ways is now, from the start, three
    axes laid end to end; where the 3 lie within each head, three axes in each head. That some
    permutations are ruled out at the start makes none up.

    Args:
        closed: the program.
        x: its inputs.
        first: what interpreting it once has found.
        parameters: the leaves as `first` saw them.

    Returns:
        What has been found, and the leaves as it saw them. None: there are no such parameters.
    """
    all_axes = itertools.chain.from_iterable(value.axes for value in parameters)
    if not any(_has_free_blocks(first.nodes, axis) for axis in all_axes):
        return None
    nodes = Nodes()
    leaf_axes = []
    for value in parameters:
        leaf_axes.append(tuple(_in_blocks(nodes, first.nodes, axis) for axis in value.axes))
    second = Interpreter(
        nodes,
        leaf_shapes=first.leaf_shapes,
        assume_no_ties=first.assume_no_ties,
        in_blocks=True,
    )
    in_blocks = _interpret(closed, x, second, leaf_axes)
    # whether the data meet a kernel at once or block by block, the program has one multiplication
    second.contacts = first.contacts
    return second, in_blocks


def _has_free_blocks(nodes: Nodes, axis: NodeAxis) -> bool:
    pins = [nodes.pinned(atom) for atom in nodes.atoms(axis)]
    return None in pins and (nodes.has_blocks(axis) or nodes.inner_blocks(axis) is not None)


def _in_blocks(nodes: Nodes, found: Nodes, axis: NodeAxis) -> NodeAxis:
    """A fresh axis, with an index set for each of the blocks that have been found in the axis."""
    if not _has_free_blocks(found, axis):
        return nodes.axis(found.length(axis))
    inner_blocks = found.inner_blocks(axis)
    if inner_blocks is not None:
        return nodes.in_inner_blocks(*inner_blocks)
    lengths = [found.length((piece,)) for piece in found.expand(axis)]
    return tuple(itertools.chain.from_iterable(map(nodes.axis, lengths)))


def _num_neurons(reader: Reader) -> int:
    """Of all groups together, along all that their permutations vary along."""
    return sum(math.prod(shape) for shape in reader.group_shapes.values())


def _override(
    spec: PermutationSpec, pin: frozenset[str], names: Mapping[str, str]
) -> PermutationSpec:
    """Groups pinned, renamed and merged as the user says."""
    if unknown := sorted((pin | names.keys()) - set(spec.groups)):
        raise ValueError(f"there is no group {unknown[0]!r}, only {spec.groups}")
    if not pin and not names:
        return spec
    shapes = dict(spec.shapes)

    def change(factor: Factor) -> Factor:
        along = tuple(names.get(host, host) for host in factor.along)
        if factor.group not in pin:
            name = names.get(factor.name or "", factor.name)
            return dataclasses.replace(factor, name=name, along=along)
        if spec.guests(factor.group):
            return fixed(factor.group)
        return fixed(shapes[factor.group][-1])

    def change_axis(axis: AxisLike) -> AxisLike:
        changed = map_factors(change, axis)
        has_names = any(factor.name is not None for factor in factors_of(changed))
        return changed if has_names else None

    leaves = tuple((name, tuple(map(change_axis, axes))) for name, axes in spec.leaves)
    kept = _merge_shapes({group: shape for group, shape in spec.shapes if group not in pin}, names)
    return dataclasses.replace(spec, leaves=leaves, shapes=tuple(kept.items()))


def _merge_shapes(
    shapes: Mapping[str, tuple[int, ...]], names: Mapping[str, str]
) -> dict[str, tuple[int, ...]]:
    """The groups' shapes by new names.

    Raises:
        ValueError: groups of different shapes get one name.
    """
    kept: dict[str, tuple[int, ...]] = {}
    for group, shape in shapes.items():
        name = names.get(group, group)
        if kept.setdefault(name, shape) != shape:
            raise ValueError(
                f"groups of shapes {kept[name]} and {shape} cannot be merged as {name!r}"
            )
    return kept
