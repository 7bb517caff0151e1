"""Permutations of a network's neurons: making them, composing them, acting with them."""

from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int, Key, PyTree

from lmcjax._bijections import check_bijection
from lmcjax.symmetry._leaves import named_leaves, rebuild
from lmcjax.symmetry._spec import Axis, PermutationSpec, Segment

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
    axes = (*spec.frame(group), ())  # nothing acts on the last axis, that of the indices
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


def permute_leaf(axes: tuple[Axis, ...], permutations: Permutations, leaf: ArrayLike) -> ArrayLike:
    """Permute one leaf, as `permute` does, without checks.

    Args:
        axes: of this leaf, as the spec has them.
        permutations: per group, as for `permute`.
        leaf: traced or not.
    """
    for i in axes_in_turn(axes):
        leaf = _permute_axis(jnp.asarray(leaf), i, axes[i], permutations)
    return leaf


def axes_in_turn(axes: tuple[Axis, ...]) -> list[int]:
    """The axes on which something acts, in the order in which they must be permuted.

    An axis goes before those whose permutations vary along it: heads before the channels in each.
    """

    def num_batch_axes(i: int) -> int:
        return max(len(segment.batch_axes) for segment in axes[i])

    acted_on = [i for i, axis in enumerate(axes) if axis]
    return sorted(acted_on, key=num_batch_axes)


def _permute_axis(leaf: Array, i: int, axis: Axis, permutations: Permutations) -> Array:
    """Gather the entries of axis `i` of a leaf: one index vector, or one per batch entry."""
    batch_axes = {b for segment in axis for b in segment.batch_axes}
    shape = [leaf.shape[j] if j in batch_axes else 1 for j in range(leaf.ndim)]
    indices = []
    offset = 0
    for segment in axis:
        index = offset + _segment_index(segment, permutations)
        shape[i] = index.shape[-1]
        offset += index.shape[-1]
        index = _spread(index, (*segment.batch_axes, i), leaf.ndim)
        # A segment may lack a batch axis that another segment of the axis has.
        indices.append(jnp.broadcast_to(index, shape))
    index = jnp.concatenate(indices, axis=i)
    if batch_axes:
        return jnp.take_along_axis(leaf, index, axis=i)
    return jnp.take(leaf, index.ravel(), axis=i)


def _segment_index(segment: Segment, permutations: Permutations) -> Array:
    """Where each entry of a segment comes from, counted from its start: `[*batch, length]`."""
    if segment.group is None:
        return jnp.arange(segment.length(1), dtype=jnp.int32)
    permutation = jnp.asarray(permutations[segment.group], jnp.int32)
    *batch, size = permutation.shape
    # Entry [block, neuron, k] of the segment lies at (block * size + neuron) * inner + k.
    block = jnp.arange(segment.outer, dtype=jnp.int32)[:, None, None]
    neuron = permutation[..., None, :, None]
    k = jnp.arange(segment.inner, dtype=jnp.int32)
    index = (block * size + neuron) * segment.inner + k
    return index.reshape(*batch, segment.length(size))


def _spread(array: Array, positions: tuple[int, ...], num_axes: int) -> Array:
    """Put axis `j` of an array at `positions[j]` of `num_axes` axes; the others have length 1."""
    shape = [1] * num_axes
    for length, position in zip(array.shape, positions, strict=True):
        shape[position] = length
    order = sorted(range(array.ndim), key=positions.__getitem__)
    return jnp.transpose(array, order).reshape(shape)
