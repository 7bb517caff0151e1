"""Reading the permutation symmetries of a network off its program."""

import collections
import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import partial_eval
from jaxtyping import PyTree

import lmcjax.symmetry._rules  # noqa: F401 - registers the rules
from lmcjax.symmetry._interpreter import Interpreter, Origin, Value
from lmcjax.symmetry._kernels import Multiplication, multiplications
from lmcjax.symmetry._layout import Axis, AxisLike, Factor, Role, factors_of, fixed, map_factors
from lmcjax.symmetry._leaves import named_leaves
from lmcjax.symmetry._nodes import NodeAxis, Nodes, Piece
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
) -> "Reader":
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


def _num_neurons(reader: "Reader") -> int:
    """Of all groups together, along all that their permutations vary along."""
    return sum(math.prod(shape) for shape in reader.group_shapes.values())


@dataclasses.dataclass
class Reader:
    """Turns what interpretation found into a spec."""

    interpreter: Interpreter
    leaves: dict[str, Any]  # the parameters by name, in the order of `parameters`
    parameters: list[Value]
    # per group, the index sets along which its permutation may differ
    hosts: dict[int, list[int]] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        for i in self.unused:
            for axis in self.parameters[i].axes:
                self.nodes.pin(axis, "a leaf that nothing uses")
        # before anything else is asked: axes of values that do not fit are pinned on the way
        self.hosts = self._find_hosts()

    @property
    def nodes(self) -> Nodes:
        return self.interpreter.nodes

    @functools.cached_property
    def names(self) -> list[str]:
        return list(self.leaves)

    @functools.cached_property
    def unused(self) -> list[int]:
        """The leaves that nothing uses."""
        return [i for i in range(len(self.names)) if i not in self.interpreter.order]

    def is_counter(self, leaf: int) -> bool:
        """Whether a leaf is one of the counters that norms keep for their training."""
        dtype = jnp.result_type(self.leaves[self.names[leaf]])
        is_scalar = not self.parameters[leaf].axes
        return leaf in self.unused and is_scalar and jnp.issubdtype(dtype, jnp.integer)

    @functools.cached_property
    def order(self) -> list[int]:
        """The leaves in the order of their first use, then those that nothing uses."""
        return [*self.interpreter.order, *self.unused]

    @functools.cached_property
    def group_names(self) -> dict[int, str]:
        """The names of the groups, in the order of their first use."""
        return self._name_groups()

    @functools.cached_property
    def group_shapes(self) -> dict[str, tuple[int, ...]]:
        """`(*batch, n)` of the groups."""
        shapes = {}
        for atom, name in self.group_names.items():
            batch = [self.nodes.size(host) for host in self.hosts[atom]]
            shapes[name] = (*batch, self.nodes.size(atom))
        return shapes

    def spec(self) -> PermutationSpec:
        names = {**self.group_names, **self._name_stacks()}
        leaves = tuple((self.names[i], self._leaf_axes(i, names)) for i in self.order)
        unknown = tuple(dict.fromkeys(self.interpreter.unknown))
        kernels = tuple(dict.fromkeys(m.kernel for m in self._multiplications))
        dead = tuple(self.names[i] for i in self.unused if not self.is_counter(i))
        shapes = tuple(self.group_shapes.items())
        return PermutationSpec(leaves, shapes, kernels, unknown, dead=dead)

    def _is_group(self, atom: int) -> bool:
        return self.nodes.pinned(atom) is None and self.nodes.size(atom) > 1

    @functools.cached_property
    def axes(self) -> list[tuple[NodeAxis, ...]]:
        """Of each leaf; nothing is merged or split any more."""
        return [tuple(self.nodes.expand(axis) for axis in value.axes) for value in self.parameters]

    @functools.cached_property
    def _multiplications(self) -> list[Multiplication]:
        return multiplications(self.interpreter, self.names)

    @functools.cached_property
    def _kernel_roles(self) -> dict[tuple[str, int], set[str]]:
        """How each axis of each kernel is used."""
        roles: dict[tuple[str, int], set[str]] = {}
        for found in self._multiplications:
            kernel = found.kernel
            for i in range(len(self.interpreter.leaf_shapes[found.origin.leaf])):
                if i not in kernel.batch:
                    roles.setdefault((kernel.leaf, i), set()).add(
                        "reads" if i in kernel.inputs else "writes"
                    )
        return roles

    @functools.cached_property
    def _roles(self) -> dict[tuple[int, int], set[str]]:
        """How each leaf uses each atom."""
        roles: dict[tuple[int, int], set[str]] = {}
        for use in self.interpreter.uses:
            for atom in self.nodes.atoms(use.axis):
                for leaf in use.leaves:
                    roles.setdefault((leaf, atom), set()).add(use.role)
        return roles

    def _find_hosts(self) -> dict[int, list[int]]:
        """Per group, the index sets along which its permutation may differ.

        These are the others that stand beside it once, wherever it stands.
        """
        layouts: dict[tuple, None] = {}  # a set in a fixed order: many values have the same axes
        for value in self.interpreter.values:
            if value.leaves is not None and not value.leaves:
                continue  # a constant that is uniform where it is not pinned
            stacked = tuple(self.nodes.find(node) for node in value.stacked)
            layouts[(*map(self.nodes.multiply_out, value.axes), (stacked,))] = None
        beside: dict[int, set[int]] = {}
        for axes in layouts:
            for atom, others in _stand_beside(axes).items():
                if self._is_group(atom):
                    beside[atom] = beside.get(atom, others) & others
        # Of two groups that always stand together, either may vary along the other: the first does
        # not.
        hosts = {}
        for atom, others in beside.items():
            aligned = filter(self.nodes.is_aligned, others)
            hosts[atom] = sorted(b for b in aligned if atom not in beside.get(b, ()) or b < atom)
        return hosts

    def _name_stacks(self) -> dict[int, str]:
        """Names of what groups vary along though nothing permutes it, such as stacked layers."""
        numbered = (f"stack.{number}" for number in itertools.count(2))
        taken = set(self.group_names.values())
        free = (name for name in itertools.chain(["stack"], numbered) if name not in taken)
        names: dict[int, str] = {}
        for atom in self.group_names:
            for host in self.hosts[atom]:
                if host not in self.group_names and host not in names:
                    names[host] = next(free)
        return names

    def _name_groups(self) -> dict[int, str]:
        """Groups by the layer or the leaf that writes them first, in the order of their first use.

        Several of one layer differ in what follows: `qk`, `v`, `each`, or a number.
        """
        bases = self._bases()
        candidates = {}
        for atom, base in bases.items():
            together = [other for other in bases if bases[other] == base]
            suffix = self._suffix(atom, together)
            candidates[atom] = f"{base}/{suffix}" if suffix else base
        names = _count_off(candidates, "{name}/{number}")
        while len(set(names.values())) < len(names):  # a number is the name of a layer, too
            names = _count_off(names, "{name}.{number}")
        return names

    def _bases(self) -> dict[int, str]:
        """Per group the layer that writes it; the leaf, if a layer has kernels that do not."""
        kernels_of_layer: dict[str, set[int]] = {}
        for found in self._multiplications:
            leaf = found.origin.leaf
            kernels_of_layer.setdefault(_layer(self.names[leaf]), set()).add(leaf)
        bases = {}
        for atom, leaf in self._first_writers().items():
            name = self.names[leaf]
            layer = _layer(name)
            kernels = kernels_of_layer.get(layer, ())
            of_layer = all(self._writes(kernel, atom) for kernel in kernels)
            bases[atom] = layer if of_layer else name
        return bases

    def _writes(self, leaf: int, atom: int) -> bool:
        return "writes" in self._roles.get((leaf, atom), ())

    def _first_writers(self) -> dict[int, int]:
        """Per group the kernel that writes it first; if there is none, the leaf; or its first."""
        kernels = {found.origin.leaf for found in self._multiplications}
        firsts: dict[int, int] = {}
        writers: dict[int, int] = {}
        writing_kernels: dict[int, int] = {}
        for leaf in self.order:
            for atom in itertools.chain.from_iterable(map(self.nodes.atoms, self.axes[leaf])):
                if not self._is_group(atom):
                    continue
                firsts.setdefault(atom, leaf)
                if not self._writes(leaf, atom):
                    continue
                writers.setdefault(atom, leaf)
                if leaf in kernels:
                    writing_kernels.setdefault(atom, leaf)
        return {**firsts, **writers, **writing_kernels}

    def _suffix(self, atom: int, together: Sequence[int]) -> str:
        """What tells a group from the others of its layer, as far as it can be told."""
        hosts = self._hosts_among(atom, together)
        guests = [other for other in together if atom in self.hosts[other]]
        if len(together) == 1 or (guests and not hosts):
            return ""
        if atom in self._compared:
            return "qk"
        for other in together:
            are_alike = self._hosts_among(other, together) == hosts
            if other in self._compared and are_alike and not self._multiply(atom, other):
                return "v"
        return "each" if hosts else ""

    def _multiply(self, first: int, second: int) -> bool:
        """Whether two index sets are factors of one product, in an axis of a leaf."""
        for axis in itertools.chain.from_iterable(self.axes):
            if any(first in piece and second in piece for piece in self.nodes.multiply_out(axis)):
                return True
        return False

    def _hosts_among(self, atom: int, others: Sequence[int]) -> list[int]:
        return [host for host in self.hosts[atom] if host in others]

    @functools.cached_property
    def _compared(self) -> set[int]:
        """Index sets that meet only each other, as the channels of queries meet those of keys.

        A product of data with data contracts them, and no kernel reads them.
        """
        compared: set[int] = set()
        for axis in self.interpreter.products:
            compared.update(self.nodes.atoms(axis))
        read = {atom for (_, atom), roles in self._roles.items() if "reads" in roles}
        return compared - read

    def _leaf_axes(self, leaf: int, names: Mapping[int, str]) -> tuple[AxisLike, ...]:
        axes = self.axes[leaf]
        atoms = set(itertools.chain.from_iterable(map(self.nodes.atoms, axes)))
        groups = {atom for atom in atoms if self._is_group(atom)}
        needed = set()  # what a group of this leaf varies along
        for atom in groups:
            needed.update(self.hosts[atom])
        described = {}
        for atom in groups:
            along = tuple(names[host] for host in self.hosts[atom])
            described[atom] = Factor(names[atom], "writes", along=along)
        for atom in needed & atoms - groups:
            described[atom] = Factor(names[atom])
        return tuple(self._axis(leaf, i, axis, described) for i, axis in enumerate(axes))

    def _axis(self, leaf: int, i: int, axis: NodeAxis, described: Mapping[int, Factor]) -> AxisLike:
        """One axis of a leaf as its spec has it; stretches that nothing permutes are joined."""
        if not any(atom in described for atom in self.nodes.atoms(axis)):
            return None
        stretches: list[Axis] = []
        for piece in axis:
            stretch = self._stretch(leaf, i, piece, described)
            if stretch == fixed(0):
                continue
            if _is_unnamed(stretch) and stretches and _is_unnamed(stretches[-1]):
                stretch = fixed(_size(stretches.pop()) + _size(stretch))
            stretches.append(stretch)
        return functools.reduce(operator.or_, stretches)

    def _stretch(self, leaf: int, i: int, piece: Piece, described: Mapping[int, Factor]) -> Axis:
        """One piece of an axis of a leaf."""
        factors: list[Axis] = []
        for node in piece:
            factor = self._factor(leaf, i, node, described)
            if factors and _is_unnamed(factor) and _is_unnamed(factors[-1]):
                factor = fixed(_size(factors.pop()) * _size(factor))
            factors.append(factor)
        if not factors:
            return fixed(1)
        named = [factor for factor in factors if factor != fixed(1)]
        return functools.reduce(operator.mul, named or factors[:1])

    def _factor(self, leaf: int, i: int, node: int, described: Mapping[int, Factor]) -> Axis:
        """One factor of an axis of a leaf: an atom, or a concatenation."""
        stretches = self.nodes.stretches(node)
        if stretches is not None:
            return self._axis(leaf, i, stretches, described) or fixed(self.nodes.size(node))
        factor = described.get(node)
        if factor is None:
            return fixed(self.nodes.size(node))
        if factor.role is None:
            return factor
        return dataclasses.replace(factor, role=self.role(leaf, i, node))

    def role(self, leaf: int, i: int, atom: int) -> Role:
        """How an axis of a leaf uses a group."""
        used = self._kernel_roles.get((self.names[leaf], i)) or self._roles.get(
            (leaf, atom), {"writes"}
        )
        if len(used) == 2:
            return "both"
        return "reads" if "reads" in used else "writes"


def _layer(leaf: str) -> str:
    """What a leaf is of: `layer/query` of `layer/query/kernel`; a leaf at the top is its own."""
    return leaf.rpartition("/")[0] or leaf


def _count_off(names: Mapping[int, str], pattern: str) -> dict[int, str]:
    """The names, those that stand several times with a number each."""
    often = collections.Counter(names.values())
    seen: collections.Counter[str] = collections.Counter()
    numbered = {}
    for atom, name in names.items():
        seen[name] += 1
        many = often[name] > 1
        numbered[atom] = pattern.format(name=name, number=seen[name]) if many else name
    return numbered


def _is_unnamed(axis: Axis) -> bool:
    return isinstance(axis, Factor) and axis.name is None


def _size(axis: Axis) -> int:
    assert isinstance(axis, Factor)
    assert axis.size is not None
    return axis.size


def _stand_beside(axes: Sequence[NodeAxis]) -> dict[int, set[int]]:
    """Per index set of a value, the others that stand beside it exactly once, wherever it stands.

    A place of an index set is a piece of one axis, with any choice of pieces of the others.
    """
    everywhere = []  # per axis, what stands once in every piece of it
    anywhere = []  # per axis, what stands in some piece of it
    for axis in axes:
        once = [{atom for atom in piece if piece.count(atom) == 1} for piece in axis]
        everywhere.append(set.intersection(*once) if once else set())
        anywhere.append({atom for piece in axis for atom in piece})
    beside: dict[int, set[int]] = {}
    for i, axis in enumerate(axes):
        elsewhere = [atoms for j, atoms in enumerate(anywhere) if j != i]
        for piece in axis:
            for atom in set(piece):
                others = _others_once(i, piece, everywhere, elsewhere)
                if atom not in others:  # it stands twice
                    others = set()
                others = others - {atom}
                beside[atom] = beside.get(atom, others) & others
    return beside


def _others_once(
    i: int, piece: Piece, everywhere: Sequence[set[int]], elsewhere: Sequence[set[int]]
) -> set[int]:
    """What stands exactly once wherever a piece of axis `i` stands, the piece included."""
    count = collections.Counter(itertools.chain(piece, *elsewhere))
    certain = set(piece)
    for j, atoms in enumerate(everywhere):
        if j != i:
            certain |= atoms
    return {atom for atom in certain if count[atom] == 1}


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
