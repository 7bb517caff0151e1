"""Reading the permutation symmetries of a network off its program."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import PyTree

import lmcjax.symmetry._rules  # noqa: F401 - registers the rules
from lmcjax.symmetry._interpreter import Interpreter, Origin, Value
from lmcjax.symmetry._kernels import Multiplication, multiplications
from lmcjax.symmetry._leaves import named_leaves
from lmcjax.symmetry._nodes import NodeAxis, Nodes, Piece
from lmcjax.symmetry._spec import Axis, PermutationSpec, Role, Segment


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
    touches and is named in `spec.unknown`: a symmetry may be missed, none is made up.

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
        `spec.dead` names the leaves that nothing uses.

    Raises:
        ValueError: `pin` or `names` names a group that there is not, or merges groups of different
            shapes.
    """
    _, interpreter, parameters = interpret(apply, params, x, assume_no_ties=assume_no_ties)
    spec = _Reader(interpreter, list(named_leaves(params)), parameters).spec()
    return _override(spec, frozenset(pin), names or {})


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
    closed = jax.make_jaxpr(apply)(params, x)
    leaf_shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
    interpreter = Interpreter(leaf_shapes=leaf_shapes, assume_no_ties=assume_no_ties)
    nodes = interpreter.nodes
    parameters = []
    for i, shape in enumerate(interpreter.leaf_shapes):
        origin = Origin(i, tuple((axis,) for axis in range(len(shape))))
        parameters.append(
            Value(tuple(nodes.axis(size) for size in shape), frozenset([i]), origins=(origin,))
        )
    inputs = [
        Value(tuple(nodes.axis(size, "an axis of the inputs") for size in leaf.shape), None)
        for leaf in jax.tree.leaves(x)
    ]
    interpreter.values.extend(parameters)
    for result in interpreter.run_closed(closed, [*parameters, *inputs]):
        for axis in result.axes:
            nodes.pin(axis, "an axis of the outputs")
    return closed, interpreter, parameters


@dataclasses.dataclass
class _Reader:
    """Turns what interpretation found into a spec."""

    interpreter: Interpreter
    names: list[str]
    parameters: list[Value]

    @property
    def nodes(self) -> Nodes:
        return self.interpreter.nodes

    def spec(self) -> PermutationSpec:
        dead = [i for i in range(len(self.names)) if i not in self.interpreter.order]
        order = [*self.interpreter.order, *dead]
        for axis in (axis for i in dead for axis in self.parameters[i].axes):
            self.nodes.pin(axis, "an axis of a leaf that nothing uses")
        self._pin_doubles()
        batches = self._batch_atoms()
        group_names = self._name_groups(order)
        leaves = tuple((self.names[i], self._leaf_axes(i, group_names, batches)) for i in order)
        shapes = tuple(
            (name, (*(self.nodes.size(b) for b in batches[atom]), self.nodes.size(atom)))
            for atom, name in group_names.items()
        )
        unknown = tuple(dict.fromkeys(self.interpreter.unknown))
        kernels = tuple(dict.fromkeys(m.kernel for m in self._multiplications))
        return PermutationSpec(
            leaves, shapes, kernels, unknown, dead=tuple(self.names[i] for i in dead)
        )

    def _is_group(self, atom: int) -> bool:
        return self.nodes.pinned(atom) is None and self.nodes.size(atom) > 1

    @functools.cached_property
    def _axes(self) -> list[tuple[NodeAxis, ...]]:
        """Of each leaf; nothing is merged or split any more."""
        return [tuple(self.nodes.expand(axis) for axis in value.axes) for value in self.parameters]

    @functools.cached_property
    def _carriers(self) -> dict[int, list[tuple[NodeAxis, ...]]]:
        """The leaves in which each atom occurs, by their axes."""
        carriers: dict[int, list[tuple[NodeAxis, ...]]] = {}
        for axes in self._axes:
            for atom in {atom for axis in axes for piece in axis for atom in piece}:
                carriers.setdefault(atom, []).append(axes)
        return carriers

    def _pin_doubles(self) -> None:
        """A piece of a leaf's axis carries one group at most: of several, the largest stays."""
        for piece in (piece for axes in self._axes for axis in axes for piece in axis):
            groups = sorted(filter(self._is_group, piece), key=self.nodes.size)
            for atom in groups[:-1]:
                self.nodes.pin(((atom,),), "a second group within one axis")

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
            for piece in self.nodes.expand(use.axis):
                for atom in piece:
                    for leaf in use.leaves:
                        roles.setdefault((leaf, atom), set()).add(use.role)
        return roles

    def _batch_atoms(self) -> dict[int, list[int]]:
        """Per group, the index sets along which its permutation may differ.

        These are the other index sets beside which it always stands.
        """
        together: dict[int, set[int]] = {}
        for value in self.interpreter.values:
            if value.leaves is not None and not value.leaves:
                continue  # a constant that is uniform where it is not pinned
            pieces = [piece for axis in value.axes for piece in self.nodes.expand(axis)]
            atoms = [atom for piece in pieces for atom in piece] + [
                self.nodes.find(node) for node in value.stacked
            ]
            single = {atom for atom in atoms if atoms.count(atom) == 1}
            for atom in filter(self._is_group, set(atoms)):
                others = single - {atom} if atom in single else set()
                together[atom] = together.get(atom, others) & others
        # Of two groups that always stand together, either may vary along the other: the first does
        # not.
        hosts = {
            atom: {b for b in others if atom not in together.get(b, ()) or b < atom}
            for atom, others in together.items()
        }
        return {
            atom: [b for b in sorted(others) if self._is_batch(atom, b)]
            for atom, others in hosts.items()
        }

    def _is_batch(self, atom: int, batch: int) -> bool:
        """A batch axis is a whole axis of every leaf that carries the group."""
        return all(((batch,),) in axes for axes in self._carriers.get(atom, ()))

    def _name_groups(self, order: list[int]) -> dict[int, str]:
        """Groups by the leaf that writes them first, in the order of their first use."""
        found: dict[int, list[tuple[bool, str, int]]] = {}
        for leaf in order:
            for i, axis in enumerate(self._axes[leaf]):
                for atom in (atom for piece in axis for atom in piece if self._is_group(atom)):
                    writes = "writes" in self._roles.get((leaf, atom), ())
                    found.setdefault(atom, []).append((writes, self.names[leaf], i))
        candidates = {}
        for atom, places in found.items():
            _, leaf_name, i = max(places, key=lambda place: place[0])
            candidates[atom] = (leaf_name.rpartition("/")[0] or leaf_name, f"{leaf_name}[{i}]")
        bases = [base for base, _ in candidates.values()]
        names = {
            a: base if bases.count(base) == 1 else precise
            for a, (base, precise) in candidates.items()
        }
        taken: dict[str, int] = {}
        for atom, name in names.items():
            taken[name] = taken.get(name, 0) + 1
            names[atom] = name if taken[name] == 1 else f"{name}.{taken[name]}"
        return names

    def _leaf_axes(
        self, leaf: int, names: Mapping[int, str], batches: Mapping[int, list[int]]
    ) -> tuple[Axis, ...]:
        axes = self._axes[leaf]
        return tuple(self._segments(leaf, i, axes, names, batches) for i in range(len(axes)))

    def _segments(
        self,
        leaf: int,
        i: int,
        axes: tuple[NodeAxis, ...],
        names: Mapping[int, str],
        batches: Mapping[int, list[int]],
    ) -> Axis:
        """One axis of a leaf as segments.

        Stretches that nothing permutes are joined; an axis of such stretches only is empty.
        """
        segments: list[Segment] = []
        for piece in axes[i]:
            position = next((j for j, atom in enumerate(piece) if atom in names), None)
            if position is None:
                if (length := self._length(piece)) == 0:
                    continue
                if segments and segments[-1].group is None:
                    length += segments.pop().outer
                segments.append(Segment(None, outer=length))
                continue
            atom = piece[position]
            used = self._kernel_roles.get((self.names[leaf], i)) or self._roles.get(
                (leaf, atom), {"writes"}
            )
            role: Role = "both" if len(used) == 2 else "reads" if "reads" in used else "writes"
            batch_axes = tuple(axes.index(((b,),)) for b in batches[atom])
            outer, inner = self._length(piece[:position]), self._length(piece[position + 1 :])
            segments.append(Segment(names[atom], role, outer, inner, batch_axes))
        return tuple(segments) if any(segment.group for segment in segments) else ()

    def _length(self, piece: Piece) -> int:
        return math.prod(self.nodes.size(atom) for atom in piece)


def _override(
    spec: PermutationSpec, pin: frozenset[str], names: Mapping[str, str]
) -> PermutationSpec:
    """Groups pinned, renamed and merged as the user says."""
    if unknown := sorted((pin | names.keys()) - set(spec.groups)):
        raise ValueError(f"there is no group {unknown[0]!r}, only {spec.groups}")
    shapes = dict(spec.shapes)

    def change(segment: Segment) -> Segment:
        if segment.group in pin:
            return Segment(None, outer=segment.length(shapes[segment.group][-1]))
        return dataclasses.replace(segment, group=names.get(segment.group or "", segment.group))

    def change_axis(axis: Axis) -> Axis:
        changed = tuple(map(change, axis))
        return changed if any(segment.group for segment in changed) else ()

    leaves = tuple((name, tuple(map(change_axis, axes))) for name, axes in spec.leaves)
    kept: dict[str, tuple[int, ...]] = {}
    for group, shape in spec.shapes:
        name = names.get(group, group)
        if group in pin:
            continue
        if kept.setdefault(name, shape) != shape:
            raise ValueError(
                f"groups of shapes {kept[name]} and {shape} cannot be merged as {name!r}"
            )
    return dataclasses.replace(spec, leaves=leaves, shapes=tuple(kept.items()))
