"""What may be permuted together: the permutation spec of a network."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import PyTree

from lmcjax.symmetry._layout import (
    Axis,
    AxisLike,
    Factor,
    factors_of,
    length_of,
    map_factors,
    reads,
    writes,
)
from lmcjax.symmetry._leaves import named_leaves
from lmcjax.symmetry._parts import Part, Place, parts_of


class Kernel(NamedTuple):
    """A leaf that the data are multiplied by.

    It is `[*batch, inputs, outputs]` once its axes are put in that order.
    """

    name: str  # that of the leaf; a second kernel made of the same leaf has a number
    leaf: str
    inputs: tuple[int, ...]  # the leaf's axes that meet the data's features, ascending
    # the leaf's axes along which every entry meets data of its own (stacked layers)
    batch: tuple[int, ...] = ()
    # of a convolution: the outputs are so many blocks, each with inputs of its own
    feature_groups: int = 1
    lookup: bool = False  # the data are positions along the one input axis, as in an embedding

    def outputs(self, num_axes: int) -> tuple[int, ...]:
        """The leaf's other axes."""
        return tuple(i for i in range(num_axes) if i not in (*self.inputs, *self.batch))


@dataclasses.dataclass(frozen=True)
class PermutationSpec:
    """For every axis of every leaf of a network's parameters: which groups of neurons permute it.

    Static and hashable: close over it or pass it as a static argument under `jit`. Make one with
    `PermutationSpec.from_axes` or `mlp_spec`.

    Attributes:
        leaves: `(leaf name, axes)` in order; an axis is a `Factor`, a `Product` or a
            `Concatenation`, or None where nothing acts.
        shapes: `(group, (*batch, n))` once `bind` has read the sizes off parameters; empty before.
        kernels: the leaves that the data are multiplied by, in the order of the computation.
        unknown: primitives that `discover` did not know and where they stand; all that they touch
            is pinned.
        dead: leaves on which, as `discover` found, nothing depends.
    """

    leaves: tuple[tuple[str, tuple[AxisLike, ...]], ...]
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    kernels: tuple[Kernel, ...] = ()
    unknown: tuple[tuple[str, str], ...] = dataclasses.field(default=(), compare=False)
    dead: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @classmethod
    def from_axes(
        cls,
        axes: Mapping[str, Sequence[AxisLike]],
        *,
        inputs: Mapping[str, Sequence[int]] | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> "PermutationSpec":
        """Write a spec by hand: for each leaf one entry per axis.

        An entry is None (nothing acts), `writes("g")`, `reads("g")`, `both("g")`, or `fixed(n)`;
        `*` makes a product of them, the first outermost, and `|` a concatenation. Every leaf is
        listed, also those on which nothing acts. Groups are ordered by first appearance, so list
        the leaves in the order of the computation: `match_layerwise` follows it.

        Args:
            axes: leaf name to its axes.
            inputs: for a kernel that is laid out in an unusual way, the axes that meet the data's
                features. By default a leaf of two or more axes is a kernel, whose outputs are the
                axes that write, or else the last one, and whose inputs are the others (batch axes
                apart).
            sizes: number of neurons by group, or of entries by name, where shapes alone do not
                tell: heads times channels, say.

        >>> spec = PermutationSpec.from_axes({
        ...     "w1": (None, writes("hidden")),
        ...     "b1": (writes("hidden"),),
        ...     "w2": (reads("hidden"), None),
        ... })
        >>> spec.groups
        ('hidden',)

        The values of an attention block whose heads lie one after the other:

        >>> value = writes("heads") * writes("value", along="heads")
        >>> read = reads("heads") * reads("value", along="heads")
        >>> spec = PermutationSpec.from_axes({"v": (None, value), "o": (read, None)})
        >>> spec.groups
        ('heads', 'value')

        Raises:
            ValueError: a group that nothing writes, that varies along different things in different
                leaves, or along something that does not stand once beside it.
        """
        leaves = {name: tuple(leaf) for name, leaf in axes.items()}
        if sizes:
            leaves = _with_sizes(leaves, sizes)
        given = inputs or {}
        if unknown := sorted(given.keys() - leaves.keys()):
            raise ValueError(
                f"inputs name leaf {unknown[0]!r}, the spec names only {sorted(leaves)}"
            )
        kernels = (_kernel(name, leaf, given.get(name)) for name, leaf in leaves.items())
        spec = cls(
            tuple(leaves.items()), kernels=tuple(kernel for kernel in kernels if kernel.inputs)
        )
        _check_groups(spec)
        return spec

    @functools.cached_property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, in order of first appearance."""
        return tuple(dict.fromkeys(f.group for f in self._factors() if f.group is not None))

    def _factors(self) -> Iterator[Factor]:
        for _, axes in self.leaves:
            for axis in axes:
                yield from factors_of(axis)

    def along(self, group: str) -> tuple[str, ...]:
        """Along which factors the permutation of `group` varies: other groups, or fixed entries."""
        return next(factor.along for factor in self._factors() if factor.group == group)

    def frame(self, group: str) -> tuple[Factor, ...]:
        """What acts on each of the batch axes of `group`.

        On a stack of layers that is nothing, on heads it is the group that permutes them.
        """
        frame = []
        for host in self.along(group):
            if host in self.groups:
                frame.append(writes(host, along=self.along(host)))
            else:
                frame.append(Factor(host))
        return tuple(frame)

    def guests(self, group: str) -> tuple[str, ...]:
        """The groups with a permutation per neuron of `group`, such as channels per head."""
        return tuple(guest for guest in self.groups if group in self.along(guest))

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """The number of entries of every named factor, groups included.

        Raises:
            ValueError: the spec has not been bound to parameters yet.
        """
        sizes = {}
        for group, (*batch, size) in self.group_shapes().items():
            sizes[group] = size
            sizes.update(zip(self.along(group), batch, strict=True))
        for factor in self._factors():
            if factor.name is not None and factor.size is not None:
                sizes.setdefault(factor.name, factor.size)
        return sizes

    @functools.cached_property
    def parts(self) -> dict[str, tuple[Part, ...]]:
        """The parts of every leaf, by leaf; for a bound spec."""
        return {name: parts_of(name, axes, self.sizes) for name, axes in self.leaves}

    def places(self, group: str) -> Iterator[Place]:
        """Where `group` acts, leaf by leaf; for a bound spec."""
        for parts in self.parts.values():
            for part in parts:
                for i, axis in enumerate(part.axes):
                    if axis.group == group:
                        yield Place(part, i)

    def readers(self, group: str) -> Iterator[tuple[Kernel, Place]]:
        """The kernels that see the activations of `group`.

        A convolution with feature groups is not counted as one.
        """
        for place in self.places(group):
            for kernel in self.kernels:
                if (
                    kernel.leaf == place.leaf
                    and place.leaf_axis in kernel.inputs
                    and kernel.feature_groups == 1
                ):
                    yield kernel, place

    def writers(self, group: str) -> Iterator[tuple[Kernel, Place]]:
        """The kernels that put out the neurons of `group`."""
        for place in self.places(group):
            for kernel in self.kernels:
                not_outputs = (*kernel.inputs, *kernel.batch)
                if kernel.leaf == place.leaf and place.leaf_axis not in not_outputs:
                    yield kernel, place

    def group_shapes(self) -> dict[str, tuple[int, ...]]:
        """`(*batch, n)` of each group.

        Raises:
            ValueError: the spec has not been bound to parameters yet.
        """
        if not self.shapes and self.groups:
            raise ValueError(
                f"the spec does not know the sizes of its groups {self.groups}: use "
                "spec.bind(params), or pass params"
            )
        return dict(self.shapes)

    def bind(self, params: PyTree) -> "PermutationSpec":
        """Check the spec against parameters and read the groups' sizes off them.

        Only shapes are looked at.

        Returns:
            The same spec with `shapes` filled in.

        Raises:
            ValueError: a leaf that the spec lacks or the parameters lack, a wrong number of axes,
                an axis whose length does not fit, a group whose size differs between leaves; leaf
                and both values are named.
        """
        bound = self.with_widths_of(params)
        if self.shapes and self.shapes != bound.shapes:
            raise ValueError(
                f"the spec's groups have shapes {dict(self.shapes)}, the parameters' "
                f"{dict(bound.shapes)}"
            )
        return bound

    def with_widths_of(self, params: PyTree) -> "PermutationSpec":
        """The same spec bound to parameters whose groups may be of other sizes.

        Where shapes alone do not tell (heads times channels), groups along which others vary keep
        the sizes that the spec has.

        Raises:
            ValueError: as `bind`.
        """
        named = {name: jnp.shape(leaf) for name, leaf in named_leaves(params).items()}
        _check_leaves(dict(self.leaves), named)
        sizes = _solve_sizes(self, named)
        shapes = []
        for group in self.groups:
            batch = [sizes[host] for host in self.along(group)]
            shapes.append((group, (*batch, sizes[group])))
        bound = dataclasses.replace(self, shapes=tuple(shapes))
        assert bound.parts is not None  # hosts stand where they have to
        return bound

    def __str__(self) -> str:
        shapes = dict(self.shapes)
        rows = []
        for group in self.groups:
            size = "x".join(map(str, shapes[group])) if shapes else "not bound"
            rows.append(f"{group}  size {size}")
            for name, axes in self.leaves:
                for i, axis in enumerate(axes):
                    for role in dict.fromkeys(_roles(axis, group)):
                        layout = "" if isinstance(axis, Factor) and not axis.along else f"  {axis}"
                        rows.append(f"  {role:6s} {name} axis {i}{layout}")
        for name, source in self.unknown:
            rows.append(f"unknown primitive {name!r}, pins what it touches: {source}")
        rows += [f"dead leaf {name}" for name in self.dead]
        return "\n".join(rows)


def _roles(axis: AxisLike, group: str) -> Iterator[str]:
    """How a group is used on an axis."""
    for factor in factors_of(axis):
        if factor.group == group:
            assert factor.role is not None
            yield factor.role


def _with_sizes(
    leaves: Mapping[str, tuple[AxisLike, ...]], sizes: Mapping[str, int]
) -> dict[str, tuple[AxisLike, ...]]:
    """The leaves' axes with the sizes of named factors written into them."""

    def sized(factor: Factor) -> Factor:
        return dataclasses.replace(factor, size=sizes.get(factor.name or "", factor.size))

    return {name: tuple(map_factors(sized, axis) for axis in axes) for name, axes in leaves.items()}


def _check_groups(spec: PermutationSpec) -> None:
    """Check that every group is written, and varies along what stands beside it.

    Raises:
        ValueError: names the group.
    """
    fixed_names = {f.name for f in spec._factors() if f.name is not None and f.role is None}
    for group in spec.groups:
        used = [factor for factor in spec._factors() if factor.group == group]
        if not any(factor.role in ("writes", "both") for factor in used):
            raise ValueError(f"group {group!r} has readers but nothing writes it")
        if len({factor.along for factor in used}) > 1:
            raise ValueError(
                f"group {group!r} varies along different things in different leaves: "
                f"{[str(factor) for factor in used]}"
            )
        if group in fixed_names:
            raise ValueError(f"{group!r} names a group and entries that nothing permutes")
    one_each = {factor.name: 1 for factor in spec._factors() if factor.name is not None}
    for name, axes in spec.leaves:
        parts_of(name, axes, one_each)


def _kernel(name: str, axes: tuple[AxisLike, ...], inputs: Sequence[int] | None) -> Kernel:
    """A leaf as a kernel; one without inputs is none."""
    hosts: set[str] = set()
    for axis in axes:
        for factor in factors_of(axis):
            hosts.update(factor.along)
    batch = []
    for i, axis in enumerate(axes):
        # heads are outputs, not a batch
        if isinstance(axis, Factor) and axis.role is None and axis.name in hosts:
            batch.append(i)
    rest = [i for i in range(len(axes)) if i not in batch]
    outputs = []
    for i in rest:
        if any(factor.role in ("writes", "both") for factor in factors_of(axes[i])):
            outputs.append(i)
    outputs = outputs or rest[-1:]
    found = [i for i in rest if i not in outputs] if inputs is None else sorted(inputs)
    if not set(found) <= set(rest):
        raise ValueError(f"leaf {name!r} has axes {rest} that can be inputs, not {found}")
    return Kernel(name, name, tuple(found), tuple(batch))


def _check_leaves(
    axes: Mapping[str, tuple[AxisLike, ...]], named: Mapping[str, tuple[int, ...]]
) -> None:
    """Every leaf is known to both sides, with the same number of axes."""
    for name in axes.keys() - named.keys():
        inside = [other for other in named if other.endswith("/" + name)]
        hint = f"; did you mean {inside[0]!r} (see the prefix of mlp_spec)?" if inside else ""
        raise ValueError(f"the spec names leaf {name!r}, the parameters have {sorted(named)}{hint}")
    for name in named.keys() - axes.keys():
        raise ValueError(
            f"the parameters have leaf {name!r}, the spec names only {sorted(axes)}; list it, "
            "with None for each axis on which nothing acts"
        )
    for name, leaf_axes in axes.items():
        if len(leaf_axes) != len(named[name]):
            raise ValueError(
                f"leaf {name!r} has shape {named[name]}, {len(named[name])} axes, "
                f"but the spec describes {len(leaf_axes)} of them"
            )


class _SizedAxis(NamedTuple):
    """An axis of a leaf and its length."""

    leaf: str
    number: int
    axis: Axis
    length: int

    def names(self) -> dict[str, None]:
        """The names of its factors, in order."""
        return {factor.name: None for factor in factors_of(self.axis) if factor.name is not None}

    def check(self, sizes: Mapping[str, int]) -> None:
        """Check the length.

        Raises:
            ValueError: it is another one.
        """
        expected = length_of(self.axis, sizes)
        if expected != self.length:
            of_groups = {name: sizes[name] for name in self.names()}
            raise ValueError(
                f"axis {self.number} of leaf {self.leaf!r} has length {self.length}, "
                f"groups of sizes {of_groups} make {expected}"
            )


def _solve_sizes(spec: PermutationSpec, named: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Find the sizes of groups and named entries from the lengths of axes, and check every axis.

    Each axis with one name of unknown size settles that size.
    """
    axes = []
    for leaf, leaf_axes in spec.leaves:
        for i, axis in enumerate(leaf_axes):
            if axis is not None:
                axes.append(_SizedAxis(leaf, i, axis, named[leaf][i]))
    factors = [factor for factor in spec._factors() if factor.name is not None]
    sizes = {f.name: f.size for f in factors if f.name is not None and f.size is not None}
    _settle(axes, sizes)
    known = spec.sizes if spec.shapes else {}
    hosts = {host for factor in factors for host in factor.along}
    # what the shapes leave open stays as it was, hosts first
    for name in sorted(known, key=lambda name: name not in hosts):
        if name not in sizes:
            sizes[name] = known[name]
            _settle(axes, sizes)
    if missing := [name for name in dict.fromkeys(f.name for f in factors) if name not in sizes]:
        raise ValueError(f"the sizes of groups {missing} do not follow from the parameters' shapes")
    for sized in axes:
        sized.check(sizes)
    return sizes


def _settle(axes: Sequence[_SizedAxis], sizes: dict[str, int]) -> None:
    """Add the sizes that follow from axes with one name of unknown size."""
    progress = True
    while progress:
        progress = False
        for sized in axes:
            unknown = sized.names().keys() - sizes.keys()
            if len(unknown) != 1:
                continue
            (name,) = unknown
            without, with_one, with_two = (
                length_of(sized.axis, {**sizes, name: size}) for size in (0, 1, 2)
            )
            per_entry = with_one - without
            if per_entry == 0 or with_two - with_one != per_entry:
                continue  # the square of a size, say
            size, rest = divmod(sized.length - without, per_entry)
            if rest or size < 1:
                raise ValueError(
                    f"axis {sized.number} of leaf {sized.leaf!r} has length {sized.length}, which "
                    f"does not hold {without} fixed entries and a whole number of blocks of "
                    f"{per_entry} for group {name!r}"
                )
            sizes[name] = size
            progress = True


def mlp_spec(num_hidden_layers: int, *, prefix: str = "", use_bias: bool = True) -> PermutationSpec:
    """The spec of a Flax linen MLP with L hidden layers: `Dense_0 ... Dense_L`.

    Each hidden layer `Dense_l` has a group of that name. The spec fits `lmcjax.models.MLP` and the
    MLP checkpoints of Git Re-Basin.

    Args:
        num_hidden_layers: L, static; the output layer is `Dense_L`.
        prefix: where the layers live inside the tree, such as `"params"` for the whole dict of Flax
            variables.
        use_bias: whether the layers have biases.

    Raises:
        ValueError: fewer than one hidden layer.
    """
    if num_hidden_layers < 1:
        raise ValueError(f"an MLP has at least 1 hidden layer, not {num_hidden_layers}")
    root = f"{prefix}/" if prefix else ""
    axes: dict[str, tuple[AxisLike, ...]] = {}
    for layer in range(num_hidden_layers + 1):
        incoming = reads(f"Dense_{layer - 1}") if layer > 0 else None
        outgoing = writes(f"Dense_{layer}") if layer < num_hidden_layers else None
        axes[f"{root}Dense_{layer}/kernel"] = (incoming, outgoing)
        if use_bias:
            axes[f"{root}Dense_{layer}/bias"] = (outgoing,)
    return PermutationSpec.from_axes(axes)
