"""Permutations of a network's neurons: making them, composing them, acting with them."""

from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int, Key, PyTree

from lmcjax._bijections import check_bijection
from lmcjax.symmetry._layout import Axis, AxisLike, Factor, factors_of, groups_of
from lmcjax.symmetry._leaves import named_leaves, rebuild
from lmcjax.symmetry._parts import Part, pack, parts_of, strand_positions
from lmcjax.symmetry._spec import PermutationSpec

Permutations: TypeAlias = Mapping[str, Int[ArrayLike, "..."]]
"""Index vectors `[*batch, n]` by group name.

`permutations[g][i]` is the neuron of B that takes the place of A's neuron `i`.
"""


def identity_permutations(spec: PermutationSpec, params: PyTree | None = None) -> dict[str, Array]:
    """The permutations that leave all neurons in place: `int32[*batch, n]`, each `0 .. n-1`.

    Args:
        spec: bound to parameters (`spec.bind(params)`), or any spec together with `params`.
        params: read for shapes only.

    Raises:
        ValueError: the spec is not bound and no parameters are given.
    """
    bound = spec if params is None else spec.bind(params)
    permutations: dict[str, Array] = {}
    for group, shape in bound.group_shapes().items():
        indices = jnp.arange(shape[-1], dtype=jnp.int32)
        permutations[group] = jnp.broadcast_to(indices, shape)
    return permutations


def random_permutations(
    key: Key[Array, ""], spec: PermutationSpec, params: PyTree | None = None
) -> dict[str, Array]:
    """Draw uniformly random permutations, independent per group and per batch entry.

    The draw of a group depends on the key and on the group's place in the spec, not on the other
    groups' sizes.

    Args:
        key: of the draw.
        spec: as for `identity_permutations`.
        params: as for `identity_permutations`.

    Raises:
        ValueError: the spec is not bound and no parameters are given.
    """
    permutations: dict[str, Array] = {}
    for i, (group, indices) in enumerate(identity_permutations(spec, params).items()):
        group_key = jax.random.fold_in(key, i)
        permutations[group] = jax.random.permutation(group_key, indices, axis=-1, independent=True)
    return permutations


def compose(spec: PermutationSpec, p: Permutations, q: Permutations) -> dict[str, Array]:
    """The permutations that act as first `q`, then `p`.

    `permute(spec, compose(spec, p, q), x) = permute(spec, p, permute(spec, q, x))`.

    `compose(spec, p, q)[g] = q[g][p[g]]`; where a group has a permutation per entry of an axis that
    another group permutes (channels per head), `q[g]` follows that permutation first.

    Raises:
        ValueError: the two do not name the same groups or differ in a shape, the spec has no such
            group or (where it is bound) has it in another shape, a permutation is not of integers,
            or a concrete one is no bijection.
    """
    if p.keys() != q.keys():
        raise ValueError(f"the permutations name different groups: {sorted(p)} and {sorted(q)}")
    for group in p:
        shape_p = jnp.shape(p[group])
        shape_q = jnp.shape(q[group])
        if shape_p != shape_q:
            raise ValueError(f"group {group!r} has shapes {shape_p} and {shape_q}")
    _check_some_permutations(spec, p)
    _check_some_permutations(spec, q)
    composed: dict[str, Array] = {}
    for group in p:
        moved = _move_batch_entries(spec, group, p, q[group])
        composed[group] = jnp.take_along_axis(moved, jnp.asarray(p[group]), axis=-1)
    return composed


def invert(spec: PermutationSpec, permutations: Permutations) -> dict[str, Array]:
    """The permutations that undo the given ones.

    `permute(spec, invert(spec, p), permute(spec, p, x))` is `x`, bit for bit.

    Raises:
        ValueError: the spec has no such group or (where it is bound) has it in another shape, a
            permutation is not of integers, or a concrete one is no bijection.
    """
    _check_some_permutations(spec, permutations)

    def num_axes(group: str) -> int:
        return jnp.ndim(permutations[group])

    inverse: dict[str, Array] = {}
    # The group that permutes a batch axis has fewer axes than the groups that vary along it. Its
    # inverse is needed first.
    for group in sorted(permutations, key=num_axes):
        moved = _move_batch_entries(spec, group, inverse, permutations[group])
        inverse[group] = jnp.argsort(moved, axis=-1).astype(jnp.int32)
    return inverse


def _move_batch_entries(
    spec: PermutationSpec, group: str, permutations: Permutations, indices: ArrayLike
) -> Array:
    """Permute the batch axes of a group's index vectors `[*batch, n]` by the groups that act there.

    With channels per head, say, the channels' index vectors go where their heads go.
    """
    axes = (*spec.frame(group), None)  # nothing acts on the last axis, that of the indices
    return jnp.asarray(permute_leaf(axes, permutations, indices))


def check_permutations(spec: PermutationSpec, permutations: Permutations) -> None:
    """Check group names and shapes, and, where values are concrete, that each is a bijection.

    Raises:
        ValueError: says which group and shows what was given and what was expected.
    """
    shapes = spec.group_shapes()
    if in_one_only := sorted(permutations.keys() ^ shapes.keys()):
        raise ValueError(
            f"group {in_one_only[0]!r} is not in both: permutations have {sorted(permutations)}, "
            f"spec has {sorted(shapes)}"
        )
    for group, permutation in permutations.items():
        _check_permutation(group, permutation, shapes[group])


def _check_some_permutations(spec: PermutationSpec, permutations: Permutations) -> None:
    """Check permutations of some of the groups; sizes only where the spec is bound."""
    shapes = dict(spec.shapes)
    for group, permutation in permutations.items():
        if group not in spec.groups:
            raise ValueError(f"the spec has no group {group!r}, only {spec.groups}")
        _check_permutation(group, permutation, shapes.get(group))


def _check_permutation(group: str, permutation: ArrayLike, shape: tuple[int, ...] | None) -> None:
    """Check the permutation of one group; its shape too, unless that is None."""
    if shape is not None and jnp.shape(permutation) != shape:
        raise ValueError(
            f"the permutation of group {group!r} has shape {jnp.shape(permutation)}, "
            f"expected {shape}"
        )
    check_bijection(f"the permutation of group {group!r}", permutation)


def permute(spec: PermutationSpec, permutations: Permutations, params: PyTree) -> PyTree:
    """Reorder the neurons of a network; for a correct spec its function stays the same.

    For a dense stack with kernels `W_l` of shape `[m_l, m_{l-1}]` this is `P_l W_l P_{l-1}^T` and
    `P_l b_l`, with `(P W)[i] = W[p[i]]` (the paper's Section 2). A gather only: `permute` followed
    by its inverse gives the same bits.

    Args:
        spec: static.
        permutations: per group `int32[*batch, n]`, traced or not.
        params: any pytree of arrays that fits the spec.

    Raises:
        ValueError: spec, permutations and parameters do not fit together, or a concrete permutation
            is no bijection.
    """
    check_permutations(spec.bind(params), permutations)
    leaves = named_leaves(params)
    for name, axes in spec.leaves:
        leaves[name] = permute_leaf(axes, permutations, leaves[name])
    return rebuild(params, leaves)


def permute_leaf(
    axes: tuple[AxisLike, ...], permutations: Permutations, leaf: ArrayLike
) -> ArrayLike:
    """Permute one leaf, as `permute` does, without checks.

    Args:
        axes: of this leaf, as the spec has them.
        permutations: per group, as for `permute`.
        leaf: traced or not.
    """
    if not groups_of(axes):
        return leaf
    array = jnp.asarray(leaf)
    group_shapes = {group: jnp.shape(permutation) for group, permutation in permutations.items()}
    sizes = sizes_of(axes, group_shapes, array.shape)
    if any(_varies_along_another(axis) for axis in axes):
        parts = parts_of("", axes, sizes)
        return pack(parts, [_permute_part(part, permutations, part.cut(array)) for part in parts])
    for i, axis in enumerate(axes):
        if axis is not None and groups_of((axis,)):
            index = _axis_index(axis, permutations, sizes)
            array = jnp.take(array, index, axis=i)
    return array


def sizes_of(
    axes: tuple[AxisLike, ...],
    group_shapes: Mapping[str, tuple[int, ...]],
    shape: tuple[int, ...],
) -> dict[str, int]:
    """The sizes of the named factors of a leaf's axes.

    Args:
        axes: of a leaf.
        group_shapes: `(*batch, n)` of the groups that act on it.
        shape: of the leaf.
    """
    sizes = {}
    for axis, length in zip(axes, shape, strict=True):
        for factor in factors_of(axis):
            if factor.name is None:
                continue
            if factor is axis:
                sizes[factor.name] = length
            elif factor.group is not None:
                *batch, size = group_shapes[factor.group]
                sizes[factor.name] = size
                sizes.update(zip(factor.along, batch, strict=True))
            elif factor.size is not None:
                sizes[factor.name] = factor.size
    return sizes


def _varies_along_another(axis: AxisLike) -> bool:
    """Whether a permutation of this axis varies along another axis of the leaf."""
    factors = list(factors_of(axis))
    own = {factor.name for factor in factors}
    return any(not own.issuperset(factor.along) for factor in factors)


def _axis_index(
    axis: Axis, permutations: Permutations, sizes: Mapping[str, int]
) -> Int[Array, " length"]:
    """Where each entry of an axis comes from."""
    if isinstance(axis, Factor):
        return jnp.asarray(permutations[axis.name or ""], jnp.int32)
    parts = parts_of("", (axis,), sizes)
    indices = []
    for part in parts:
        (strand,) = part.strands
        assert strand is not None
        positions = jnp.asarray(strand_positions(strand), jnp.int32)
        indices.append(_permute_part(part, permutations, positions))
    return pack(parts, indices)


def _permute_part(part: Part, permutations: Permutations, array: Array) -> Array:
    """Gather the entries of a part, which is cut out already."""
    for i in part.axes_in_turn():
        group = part.axes[i].group
        if group is None:
            continue
        index = jnp.asarray(permutations[group], jnp.int32)
        if part.axes[i].batch_axes:
            index = _spread(index, (*part.axes[i].batch_axes, i), array.ndim)
            array = jnp.take_along_axis(array, index, axis=i)
        else:
            array = jnp.take(array, index, axis=i)
    return array


def _spread(array: Array, positions: tuple[int, ...], num_axes: int) -> Array:
    """Put axis `j` of an array at `positions[j]` of `num_axes` axes; the others have length 1."""
    shape = [1] * num_axes
    for length, position in zip(array.shape, positions, strict=True):
        shape[position] = length
    order = sorted(range(array.ndim), key=positions.__getitem__)
    return jnp.transpose(array, order).reshape(shape)
