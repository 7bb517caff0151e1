"""The parts of a leaf: its entries, with an array axis for every factor.

A part takes one strand of each axis of the leaf. The parts of a leaf share no entry, and together
they are all of it. Within a part at most one group acts on each axis, as a whole.
"""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from lmcjax.symmetry._layout import AxisLike, Factor, Role, Strand, strands_of


class PartAxis(NamedTuple):
    """One axis of a part."""

    leaf_axis: int  # the leaf's axis that it is a factor of
    factor: Factor | None  # None: all of an axis of the leaf on which nothing acts
    batch_axes: tuple[int, ...]  # axes of the part along which the group's permutation varies

    @property
    def group(self) -> str | None:
        """The group that permutes the axis, if any does."""
        return None if self.factor is None else self.factor.group


class Part(NamedTuple):
    """Some of the entries of a leaf, with an axis for every factor."""

    name: str  # that of the leaf, numbered where it has several parts
    leaf: str
    strands: tuple[Strand | None, ...]  # per axis of the leaf; None: the whole axis
    axes: tuple[PartAxis, ...]

    def cut(self, array: ArrayLike, leaf_axes: Sequence[int | None] | None = None) -> Array:
        """The part's entries of an array: axes that the leaf has become one axis per factor.

        Args:
            array: any array some of whose axes are laid out like the leaf's.
            leaf_axes: for each axis of the array, which of the leaf's it is; None: none. Default:
                the array is the leaf.
        """
        cut = jnp.asarray(array)
        axes = range(cut.ndim) if leaf_axes is None else leaf_axes
        position = 0
        for leaf_axis in axes:
            strand = None if leaf_axis is None else self.strands[leaf_axis]
            if strand is None:
                position += 1
                continue
            cut = _take_strand(cut, position, strand)
            position += len(strand.sizes)
        return cut

    def positions(self, leaf_axes: Sequence[int | None] | None = None) -> dict[int, int]:
        """Which axis of `cut(array, leaf_axes)` each axis of the part is."""
        axes = range(len(self.strands)) if leaf_axes is None else leaf_axes
        positions = {}
        position = 0
        for leaf_axis in axes:
            if leaf_axis is None:
                position += 1
                continue
            for i, axis in enumerate(self.axes):
                if axis.leaf_axis == leaf_axis:
                    positions[i] = position
                    position += 1
        return positions

    def layout(self, *, fixed: Collection[int] = ()) -> tuple[AxisLike, ...]:
        """What acts on each axis of the part; nothing on those that are fixed."""
        layout: list[AxisLike] = []
        for i, axis in enumerate(self.axes):
            factor = axis.factor
            layout.append(factor.as_fixed() if factor is not None and i in fixed else factor)
        return tuple(layout)

    def axes_in_turn(self) -> list[int]:
        """The axes in the order in which they are permuted: heads before the channels in each.

        An axis comes before those whose permutations vary along it.
        """
        return sorted(range(len(self.axes)), key=lambda i: len(self.axes[i].batch_axes))


class Place(NamedTuple):
    """Where a group acts: an axis of a part."""

    part: Part
    axis: int

    @property
    def leaf(self) -> str:
        """The leaf that the part is of."""
        return self.part.leaf

    @property
    def leaf_axis(self) -> int:
        """The leaf's axis that the neurons are a factor of."""
        return self.part.axes[self.axis].leaf_axis

    @property
    def key(self) -> tuple[str, int]:
        """The part's name and the axis of the leaf."""
        return self.part.name, self.leaf_axis

    @property
    def batch_axes(self) -> tuple[int, ...]:
        """The part's axes along which the group's permutation varies."""
        return self.part.axes[self.axis].batch_axes

    @property
    def role(self) -> Role:
        """How the group is used here."""
        factor = self.part.axes[self.axis].factor
        assert factor is not None
        assert factor.role is not None
        return factor.role

    def others(self) -> tuple[AxisLike, ...]:
        """What acts on the part's axes, but for the place's own, on which nothing does."""
        return self.part.layout(fixed=(self.axis,))

    def groups_beside(self, leaf_axes: Sequence[int] | None = None) -> set[str]:
        """The groups that act on the part's other axes, or on those among some axes of the leaf."""
        groups = set()
        for i, axis in enumerate(self.part.axes):
            counts = leaf_axes is None or axis.leaf_axis in leaf_axes
            if i != self.axis and counts and axis.group is not None:
                groups.add(axis.group)
        return groups

    def rows(self, array: ArrayLike, leaf_axes: Sequence[int | None] | None = None) -> Array:
        """One row per neuron, `[*batch, size, rest]`; arguments as of `Part.cut`."""
        return self.rows_of_cut(self.part.cut(array, leaf_axes), leaf_axes)

    def rows_of_cut(self, cut: Array, leaf_axes: Sequence[int | None] | None = None) -> Array:
        """The same, of an array that `Part.cut(array, leaf_axes)` has made."""
        positions = self.part.positions(leaf_axes)
        leading = [positions[i] for i in (*self.batch_axes, self.axis)]
        moved = jnp.moveaxis(cut, leading, range(len(leading)))
        return moved.reshape(*moved.shape[: len(leading)], -1)


def parts_of(name: str, axes: tuple[AxisLike, ...], sizes: Mapping[str, int]) -> tuple[Part, ...]:
    """The parts of a leaf: one for every choice of a strand of each axis.

    Args:
        name: of the leaf.
        axes: of the leaf.
        sizes: of the named factors.

    Raises:
        ValueError: a group varies along something that does not stand once beside it.
    """
    choices: list[list[Strand | None]] = []
    for axis in axes:
        choices.append([None] if axis is None else [*strands_of(axis, sizes)])
    combinations = list(itertools.product(*choices))
    parts = []
    for number, strands in enumerate(combinations):
        part_name = name if len(combinations) == 1 else f"{name}[{number}]"
        parts.append(Part(part_name, name, strands, _part_axes(name, strands)))
    return tuple(parts)


def _part_axes(leaf: str, strands: Sequence[Strand | None]) -> tuple[PartAxis, ...]:
    axes = []
    for leaf_axis, strand in enumerate(strands):
        factors = (None,) if strand is None else strand.factors
        for factor in factors:
            axes.append(PartAxis(leaf_axis, factor, ()))
    names = [None if axis.factor is None else axis.factor.name for axis in axes]
    for i, axis in enumerate(axes):
        if axis.factor is None:
            continue
        batch_axes = []
        for host in axis.factor.along:
            if names.count(host) != 1:
                raise ValueError(
                    f"group {axis.factor.name!r} varies along {host!r}, which does not stand "
                    f"once beside it in leaf {leaf!r}"
                )
            batch_axes.append(names.index(host))
        axes[i] = axis._replace(batch_axes=tuple(batch_axes))
    return tuple(axes)


def strand_positions(strand: Strand) -> np.ndarray:
    """Where the entries of a strand stand along the axis, one array axis per factor."""
    positions = np.full((1,) * len(strand.sizes), strand.start)
    for i, (size, stride) in enumerate(zip(strand.sizes, strand.strides, strict=True)):
        shape = [1] * len(strand.sizes)
        shape[i] = size
        positions = positions + stride * np.arange(size).reshape(shape)
    return positions


def _take_strand(array: Array, axis: int, strand: Strand) -> Array:
    """A strand of an axis, with one axis for each of its factors in the place of the axis."""
    positions = strand_positions(strand).ravel()
    is_contiguous = bool((np.diff(positions) == 1).all())
    if is_contiguous:  # a slice costs less than a gather
        stop = strand.start + len(positions)
        taken = jax.lax.slice_in_dim(array, strand.start, stop, axis=axis)
    else:
        taken = jnp.take(array, positions, axis=axis)
    before = array.shape[:axis]
    after = array.shape[axis + 1 :]
    return taken.reshape(*before, *strand.sizes, *after)


def pack(parts: Sequence[Part], arrays: Sequence[Array]) -> Array:
    """The leaf of which these are the parts: undoes `Part.cut` of each.

    Args:
        parts: all of a leaf's, in order.
        arrays: one per part.
    """
    joined = list(arrays)
    strands = [part.strands for part in parts]
    for leaf_axis in reversed(range(len(parts[0].strands))):
        rows = []
        row_strands = []
        # parts that differ in this axis and in no earlier one stand side by side
        together = itertools.groupby(
            zip(strands, joined, strict=True), key=lambda item: item[0][:leaf_axis]
        )
        for _, members in together:
            one_row = list(members)
            rows.append(_join_strands(leaf_axis, one_row))
            row_strands.append(one_row[0][0])
        joined = rows
        strands = row_strands
    return joined[0]


def _join_strands(
    leaf_axis: int, members: Sequence[tuple[tuple[Strand | None, ...], Array]]
) -> Array:
    """Arrays that differ in one axis of the leaf, laid out along it again."""
    flat = []
    positions = []
    for strands, array in members:
        strand = strands[leaf_axis]
        if strand is None:
            return array
        first = sum(1 if before is None else len(before.sizes) for before in strands[:leaf_axis])
        before = array.shape[:first]
        after = array.shape[first + len(strand.sizes) :]
        flat.append(array.reshape(*before, math.prod(strand.sizes), *after))
        positions.append(strand_positions(strand).ravel())
    joined = flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=first)
    order = np.concatenate(positions)
    if (np.diff(order) == 1).all():
        return joined
    return jnp.take(joined, np.argsort(order), axis=first)
