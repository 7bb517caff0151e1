"""What interpreting a program has found, put as a spec: groups, their names, every leaf's axes."""

import collections
import dataclasses
import functools
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from lmcjax.symmetry._interpreter import Interpreter, Value
from lmcjax.symmetry._kernels import Multiplication, multiplications
from lmcjax.symmetry._layout import Axis, AxisLike, Factor, Role, fixed
from lmcjax.symmetry._nodes import NodeAxis, Nodes, Piece
from lmcjax.symmetry._spec import PermutationSpec


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
