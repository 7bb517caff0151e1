"""What may be permuted together: the permutation spec of a network."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from lmcjax.symmetry._leaves import named_leaves

Role: TypeAlias = Literal["writes", "reads", "both"]


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of one axis of one leaf, in which a group permutes blocks of entries.

    It is `outer * n * inner` entries long, and the group permutes the middle factor.

    Attributes:
        group: name of the group that acts; None for a stretch that nothing permutes, `outer *
            inner` long.
        role: `"writes"` the group's neurons (incoming weights, biases, scales), `"reads"` them
            (outgoing weights), or `"both"` (residual streams).
        outer: number of blocks of neurons (a flatten that keeps neurons inside pixels has one block
            per pixel).
        inner: entries per neuron (a flatten that keeps pixels inside neurons, or the channels of a
            head).
        batch_axes: the leaf's axes along which the permutation itself varies (layers stacked by
            `scan`, heads). Where a group permutes such an axis, that comes first.
    """

    group: str | None
    role: Role = "writes"
    outer: int = 1
    inner: int = 1
    batch_axes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in ("writes", "reads", "both"):
            raise ValueError(f"a segment's role is 'writes', 'reads' or 'both', not {self.role!r}")
        if self.outer < 1 or self.inner < 1:
            raise ValueError(
                f"a segment's outer and inner are at least 1, not {self.outer} and {self.inner}"
            )

    def length(self, size: int) -> int:
        """Entries that the segment covers when its group has `size` neurons."""
        return self.outer * (size if self.group is not None else 1) * self.inner


class Place(NamedTuple):
    """A stretch of a leaf on which a group acts."""

    leaf: str
    axis: int
    offset: int  # of the stretch within the axis
    size: int  # of the group
    segment: Segment

    def split(self, array: Array, position: int) -> Array:
        """Cut the place out of an array and split its axis into `[outer, size, inner]`.

        Axis `position` of the array is laid out like the leaf's axis.
        """
        stop = self.offset + self.segment.length(self.size)
        part = jax.lax.slice_in_dim(array, self.offset, stop, axis=position)
        before, after = array.shape[:position], array.shape[position + 1 :]
        return part.reshape(*before, self.segment.outer, self.size, self.segment.inner, *after)

    def others(self, axes: tuple["Axis", ...]) -> tuple["Axis", ...]:
        """What acts on the leaf's axes, but for the place's own, on which nothing does."""
        return tuple(() if i == self.axis else axis for i, axis in enumerate(axes))

    def rows(self, array: Array, axes: Sequence[int | None]) -> Array:
        """One row per neuron, `[*batch, size, rest]`.

        Args:
            array: any array some of whose axes are laid out like the leaf's.
            axes: for each axis of the array, which of the leaf's it is; None: none.
        """
        position = axes.index(self.axis)
        batch = [i + 2 * (i > position) for i in (axes.index(b) for b in self.segment.batch_axes)]
        rows = jnp.moveaxis(
            self.split(array, position), (*batch, position + 1), range(len(batch) + 1)
        )
        return rows.reshape(*rows.shape[: len(batch) + 1], -1)


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


Axis: TypeAlias = tuple[Segment, ...]
AxisLike: TypeAlias = Segment | Sequence[Segment] | None


def writes(
    group: str, *, outer: int = 1, inner: int = 1, batch_axes: tuple[int, ...] = ()
) -> Segment:
    """An axis that writes the neurons of `group`: incoming weights, biases, scales."""
    return Segment(group, "writes", outer, inner, batch_axes)


def reads(
    group: str, *, outer: int = 1, inner: int = 1, batch_axes: tuple[int, ...] = ()
) -> Segment:
    """An axis that reads the neurons of `group`: outgoing weights."""
    return Segment(group, "reads", outer, inner, batch_axes)


def both(
    group: str, *, outer: int = 1, inner: int = 1, batch_axes: tuple[int, ...] = ()
) -> Segment:
    """An axis that reads and writes the neurons of `group`, as on a residual stream."""
    return Segment(group, "both", outer, inner, batch_axes)


def fixed(length: int) -> Segment:
    """A stretch of `length` entries that nothing permutes, for use in concatenations."""
    return Segment(None, outer=length)


def _as_axis(axis: AxisLike) -> Axis:
    if axis is None:
        return ()
    return (axis,) if isinstance(axis, Segment) else tuple(axis)


@dataclasses.dataclass(frozen=True)
class PermutationSpec:
    """For every axis of every leaf of a network's parameters: which groups of neurons permute it.

    Static and hashable: close over it or pass it as a static argument under `jit`. Make one with
    `PermutationSpec.from_axes` or `mlp_spec`.

    Attributes:
        leaves: `(leaf name, axes)` in order; each axis is a tuple of segments, empty where nothing
            acts.
        shapes: `(group, (*batch, n))` once `bind` has read the sizes off parameters; empty before.
        kernels: the leaves that the data are multiplied by, in the order of the computation.
        unknown: primitives that `discover` did not know and where they stand; all that they touch
            is pinned.
        dead: leaves on which, as `discover` found, nothing depends.
    """

    leaves: tuple[tuple[str, tuple[Axis, ...]], ...]
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
    ) -> "PermutationSpec":
        """Write a spec by hand: for each leaf one entry per axis.

        An entry is None (nothing acts), a `Segment` (`writes("g")`, `reads("g")`, `both("g")`) or a
        sequence of segments (a concatenation). Every leaf is listed, also those on which nothing
        acts. Groups are ordered by first appearance, so list the leaves in the order of the
        computation: `match_layerwise` follows it.

        Args:
            axes: leaf name to its axes.
            inputs: for a kernel that is laid out in an unusual way, the axes that meet the data's
                features. By default a leaf of two or more axes is a kernel, whose outputs are the
                axes that write, or else the last one, and whose inputs are the others (batch axes
                apart).

        >>> spec = PermutationSpec.from_axes({
        ...     "w1": (None, writes("hidden")),
        ...     "b1": (writes("hidden"),),
        ...     "w2": (reads("hidden"), None),
        ... })
        >>> spec.groups
        ('hidden',)

        Raises:
            ValueError: a group that nothing writes or whose batch axes differ in number between
                leaves.
        """
        leaves = {name: tuple(_as_axis(axis) for axis in leaf) for name, leaf in axes.items()}
        given = inputs or {}
        if unknown := sorted(given.keys() - leaves.keys()):
            raise ValueError(
                f"inputs name leaf {unknown[0]!r}, the spec names only {sorted(leaves)}"
            )
        kernels = (_kernel(name, leaf, given.get(name)) for name, leaf in leaves.items())
        spec = cls(
            tuple(leaves.items()), kernels=tuple(kernel for kernel in kernels if kernel.inputs)
        )
        for group in spec.groups:
            used = [segment for _, _, segment in spec.segments(group)]
            if not any(segment.role in ("writes", "both") for segment in used):
                raise ValueError(f"group {group!r} has readers but nothing writes it")
            if len({len(segment.batch_axes) for segment in used}) > 1:
                raise ValueError(
                    f"group {group!r} has different numbers of batch axes in different leaves: "
                    f"{used}"
                )
        return spec

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, in order of first appearance."""
        names = (
            s.group for _, axes in self.leaves for axis in axes for s in axis if s.group is not None
        )
        return tuple(dict.fromkeys(names))

    def segments(self, group: str) -> Iterator[tuple[str, int, Segment]]:
        """Where `group` acts: `(leaf name, axis, segment)`, leaf by leaf."""
        for name, axes in self.leaves:
            for i, axis in enumerate(axes):
                yield from ((name, i, segment) for segment in axis if segment.group == group)

    def places(self, group: str) -> Iterator[Place]:
        """Where `group` acts, entry by entry, leaf by leaf; for a bound spec."""
        sizes = {name: shape[-1] for name, shape in self.group_shapes().items()}
        for name, axes in self.leaves:
            for i, axis in enumerate(axes):
                offset = 0
                for segment in axis:
                    if segment.group == group:
                        yield Place(name, i, offset, sizes[group], segment)
                    offset += segment.length(sizes.get(segment.group or "", 1))

    def readers(self, group: str) -> Iterator[tuple[Kernel, Place]]:
        """The kernels that see the activations of `group`.

        A convolution with feature groups is not counted as one.
        """
        for place in self.places(group):
            for kernel in self.kernels:
                if (
                    kernel.leaf == place.leaf
                    and place.axis in kernel.inputs
                    and kernel.feature_groups == 1
                ):
                    yield kernel, place

    def writers(self, group: str) -> Iterator[tuple[Kernel, Place]]:
        """The kernels that put out the neurons of `group`."""
        for place in self.places(group):
            for kernel in self.kernels:
                if kernel.leaf == place.leaf and place.axis not in (*kernel.inputs, *kernel.batch):
                    yield kernel, place

    def frame(self, group: str) -> tuple[Axis, ...]:
        """What acts on each of the batch axes of `group`.

        On a stack of layers that is nothing, on heads it is the group that permutes them.

        Raises:
            ValueError: the axis is not permuted as a whole by one group, or that group's own batch
                axes are others.
        """
        name, _, segment = next(self.segments(group))
        axes = dict(self.leaves)[name]
        frame: list[Axis] = []
        for b in segment.batch_axes:
            hosts = axes[b]
            if not hosts:
                frame.append(())
                continue
            whole = len(hosts) == 1 and hosts[0].outer * hosts[0].inner == 1
            if not whole or not {*hosts[0].batch_axes} <= {*segment.batch_axes}:
                raise ValueError(
                    f"group {group!r} varies along axis {b} of leaf {name!r}, on which {hosts} act"
                )
            inside = tuple(segment.batch_axes.index(position) for position in hosts[0].batch_axes)
            frame.append((dataclasses.replace(hosts[0], batch_axes=inside),))
        return tuple(frame)

    def guests(self, group: str) -> tuple[str, ...]:
        """The groups with a permutation per neuron of `group`, such as channels per head."""
        return tuple(
            g for g in self.groups if any(s.group == group for axis in self.frame(g) for s in axis)
        )

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
                an axis whose length does not fit its segments, a group whose size differs between
                leaves; leaf and both values are named.
        """
        named = {name: jnp.shape(leaf) for name, leaf in named_leaves(params).items()}
        _check_leaves(dict(self.leaves), named)
        sizes = _solve_sizes(self, named)
        shapes = []
        for group in self.groups:
            for name, _, segment in self.segments(group):
                if any(not 0 <= b < len(named[name]) for b in segment.batch_axes):
                    raise ValueError(
                        f"leaf {name!r} has shape {named[name]}, which lacks the batch axes "
                        f"{segment.batch_axes} of group {group!r}"
                    )
            batches = {
                tuple(named[name][b] for b in s.batch_axes): name
                for name, _, s in self.segments(group)
            }
            if len(batches) > 1:
                raise ValueError(
                    f"group {group!r} has different batch shapes in different leaves: {batches}"
                )
            shapes.append((group, (*next(iter(batches)), sizes[group])))
        bound = dataclasses.replace(self, shapes=tuple(shapes))
        if self.shapes and self.shapes != bound.shapes:
            raise ValueError(
                f"the spec's groups have shapes {dict(self.shapes)}, the parameters' "
                f"{dict(bound.shapes)}"
            )
        return bound

    def __str__(self) -> str:
        sizes = dict(self.shapes)
        rows = []
        for group in self.groups:
            rows.append(
                f"{group}  size {'x'.join(map(str, sizes[group])) if sizes else 'not bound'}"
            )
            for name, axis, s in self.segments(group):
                block = f"  block [{s.outer}, n, {s.inner}]" if s.outer * s.inner > 1 else ""
                rows.append(f"  {s.role:6s} {name} axis {axis}{block}")
        rows += [
            f"unknown primitive {name!r}, pins what it touches: {source}"
            for name, source in self.unknown
        ]
        rows += [f"dead leaf {name}" for name in self.dead]
        return "\n".join(rows)


def _kernel(name: str, axes: tuple[Axis, ...], inputs: Sequence[int] | None) -> Kernel:
    """A leaf as a kernel; one without inputs is none."""
    batch_axes = {b for axis in axes for segment in axis for b in segment.batch_axes}
    # heads are outputs, not a batch
    batch = tuple(sorted(b for b in batch_axes if not any(axes[b : b + 1])))
    rest = [i for i in range(len(axes)) if i not in batch]
    outputs = [i for i in rest if any(s.group and s.role != "reads" for s in axes[i])] or rest[-1:]
    found = [i for i in rest if i not in outputs] if inputs is None else sorted(inputs)
    if not set(found) <= set(rest):
        raise ValueError(f"leaf {name!r} has axes {rest} that can be inputs, not {found}")
    return Kernel(name, name, tuple(found), batch)


def _check_leaves(
    axes: Mapping[str, tuple[Axis, ...]], named: Mapping[str, tuple[int, ...]]
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


def _solve_sizes(spec: PermutationSpec, named: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Find the groups' sizes from the lengths of axes, and check every axis.

    Each axis with one group of unknown size settles that size.
    """
    constraints = [
        (name, i, axis) for name, axes in spec.leaves for i, axis in enumerate(axes) if axis
    ]
    sizes: dict[str, int] = {}
    progress = True
    while progress:
        progress = False
        for name, i, axis in constraints:
            unknown = {s.group for s in axis if s.group is not None and s.group not in sizes}
            if len(unknown) != 1:
                continue
            (group,) = unknown
            known = sum(
                s.length(sizes[s.group] if s.group else 1) for s in axis if s.group != group
            )
            per_neuron = sum(s.length(1) for s in axis if s.group == group)
            size, rest = divmod(named[name][i] - known, per_neuron)
            if rest or size < 1:
                raise ValueError(
                    f"axis {i} of leaf {name!r} has length {named[name][i]}, which does not hold "
                    f"{known} fixed entries and a whole number of blocks of {per_neuron} for group "
                    f"{group!r}"
                )
            sizes[group] = size
            progress = True
    sizes |= {group: shape[-1] for group, shape in spec.shapes if group not in sizes}
    if missing := [group for group in spec.groups if group not in sizes]:
        raise ValueError(f"the sizes of groups {missing} do not follow from the parameters' shapes")
    for name, i, axis in constraints:
        expected = sum(s.length(sizes[s.group] if s.group else 1) for s in axis)
        if expected != named[name][i]:
            groups = {s.group: sizes[s.group] for s in axis if s.group}
            raise ValueError(
                f"axis {i} of leaf {name!r} has length {named[name][i]}, "
                f"groups of sizes {groups} make {expected}"
            )
    return sizes


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
