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
"""Group to index vector `[*batch, n]`: `permutations[g][i]` is the neuron of B that takes the place
of A's `i`.
"""


def _shapes(spec: PermutationSpec, params: PyTree | None) -> dict[str, tuple[int, ...]]:
    return (spec if params is None else spec.bind(params)).group_shapes()


def identity_permutations(spec: PermutationSpec, params: PyTree | None = None) -> dict[str, Array]:
    """The permutations that leave everything in place: `int32[*batch, n]` per group, each `0 ..
    n-1`.

    Args:
        spec: bound to parameters (`spec.bind(params)`), or any spec together with `params`.
        params: read for shapes only.

    Raises:
        ValueError: the spec is not bound and no parameters are given.
    """
    shapes = _shapes(spec, params)
    return {
        group: jnp.broadcast_to(jnp.arange(shape[-1], dtype=jnp.int32), shape)
        for group, shape in shapes.items()
    }


def random_permutations(
    key: Key[Array, ""], spec: PermutationSpec, params: PyTree | None = None
) -> dict[str, Array]:
    """Uniformly random permutations, independent per group and per batch entry; arguments as
    `identity_permutations`.

    The draw of a group depends on the key and on the group's place in the spec, not on the other
    groups' sizes.
    """
    identity = identity_permutations(spec, params)
    return {
        group: jax.random.permutation(
            jax.random.fold_in(key, i), indices, axis=-1, independent=True
        )
        for i, (group, indices) in enumerate(identity.items())
    }


def compose(spec: PermutationSpec, p: Permutations, q: Permutations) -> dict[str, Array]:
    """First `q`, then `p`: `permute(spec, compose(spec, p, q), x) = permute(spec, p, permute(spec,
    q, x))`.

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
        if jnp.shape(p[group]) != jnp.shape(q[group]):
            raise ValueError(
                f"group {group!r} has shapes {jnp.shape(p[group])} and {jnp.shape(q[group])}"
            )
    _check_some(spec, p)
    _check_some(spec, q)
    return {
        g: jnp.take_along_axis(_follow(spec, g, p, q[g]), jnp.asarray(p[g]), axis=-1) for g in p
    }


def invert(spec: PermutationSpec, permutations: Permutations) -> dict[str, Array]:
    """What undoes the permutations: `permute(spec, invert(spec, p), permute(spec, p, x))` is `x`,
    bit for bit.

    Raises:
        ValueError: as `compose`, of the one side.
    """
    _check_some(spec, permutations)
    inverse: dict[str, Array] = {}
    for group in sorted(
        permutations, key=lambda g: jnp.ndim(permutations[g])
    ):  # hosts before their guests
        p = jnp.asarray(permutations[group])
        inverse[group] = jnp.argsort(_follow(spec, group, inverse, p), axis=-1).astype(jnp.int32)
    return inverse


def _follow(
    spec: PermutationSpec, group: str, hosts: Permutations, permutation: ArrayLike
) -> Array:
    """The permutations `[*batch, n]` of a group, their batch axes permuted by the groups that act
    on those.
    """
    return jnp.asarray(permute_leaf((*spec.frame(group), ()), hosts, permutation))


def check_permutations(spec: PermutationSpec, permutations: Permutations) -> None:
    """Check group names and shapes, and, where values are concrete, that each is a bijection.

    Raises:
        ValueError: says which group and shows what was given and what was expected.
    """
    shapes = spec.group_shapes()
    if unknown := sorted(permutations.keys() ^ shapes.keys()):
        raise ValueError(
            f"group {unknown[0]!r} is not in both: permutations have {sorted(permutations)}, spec has {sorted(shapes)}"
        )
    for group, permutation in permutations.items():
        if jnp.shape(permutation) != shapes[group]:
            raise ValueError(
                f"the permutation of group {group!r} has shape {jnp.shape(permutation)}, expected {shapes[group]}"
            )
        check_bijection(f"the permutation of group {group!r}", permutation)


def _check_some(spec: PermutationSpec, permutations: Permutations) -> None:
    """`check_permutations` of some of the groups; without their sizes where the spec is not bound."""
    shapes = dict(spec.shapes)
    for group, permutation in permutations.items():
        if group not in spec.groups:
            raise ValueError(f"the spec has no group {group!r}, only {spec.groups}")
        if shapes and jnp.shape(permutation) != shapes[group]:
            raise ValueError(
                f"the permutation of group {group!r} has shape {jnp.shape(permutation)}, expected {shapes[group]}"
            )
        check_bijection(f"the permutation of group {group!r}", permutation)


def _segment_index(segment: Segment, permutations: Permutations) -> Array:
    """Where each entry of a stretch comes from, counted from its start: `[*batch, length]`."""
    if segment.group is None:
        return jnp.arange(segment.length(1), dtype=jnp.int32)
    p = jnp.asarray(permutations[segment.group], jnp.int32)
    outer = jnp.arange(segment.outer, dtype=jnp.int32)[:, None, None] * p.shape[-1]
    index = (outer + p[..., None, :, None]) * segment.inner + jnp.arange(
        segment.inner, dtype=jnp.int32
    )
    return index.reshape(*p.shape[:-1], segment.length(p.shape[-1]))


def _permute_axis(leaf: Array, i: int, axis: Axis, permutations: Permutations) -> Array:
    """One axis of one leaf, gathered: `leaf[..., index, ...]`, with an index per batch entry where
    there are any.
    """
    batch_axes = sorted({b for segment in axis for b in segment.batch_axes})
    pieces, offset = [], 0
    for segment in axis:
        index = _segment_index(segment, permutations)
        shape = [1] * len(batch_axes) + [
            index.shape[-1]
        ]  # spread over the batch axes that the segment lacks
        for size, position in zip(index.shape, segment.batch_axes, strict=False):
            shape[batch_axes.index(position)] = size
        order = sorted(range(len(segment.batch_axes)), key=segment.batch_axes.__getitem__)
        index = jnp.transpose(index, (*order, len(order))).reshape(shape)
        whole = (*(leaf.shape[b] for b in batch_axes), index.shape[-1])
        pieces.append(offset + jnp.broadcast_to(index, whole))
        offset += index.shape[-1]
    index = jnp.concatenate(pieces, axis=-1)
    if not batch_axes:
        return jnp.take(leaf, index, axis=i)
    shape = [1] * leaf.ndim
    for size, position in zip(index.shape, (*batch_axes, i), strict=True):
        shape[position] = size
    order = sorted(range(index.ndim), key=(*batch_axes, i).__getitem__)
    return jnp.take_along_axis(leaf, jnp.transpose(index, order).reshape(shape), axis=i)


def permute_leaf(axes: tuple[Axis, ...], permutations: Permutations, leaf: ArrayLike) -> ArrayLike:
    """One leaf of `permute`, unchecked: `axes` as the spec has them for this leaf.

    Axes along which others' permutations vary go first: of heads and their channels, the heads.
    """
    for i in axes_in_turn(axes):
        leaf = _permute_axis(jnp.asarray(leaf), i, axes[i], permutations)
    return leaf


def axes_in_turn(axes: tuple[Axis, ...]) -> list[int]:
    """The axes on which something acts; those along which others' permutations vary before these
    others.
    """
    acted_on = [i for i, axis in enumerate(axes) if axis]
    return sorted(acted_on, key=lambda i: max(len(segment.batch_axes) for segment in axes[i]))


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
    return rebuild(
        params, {name: permute_leaf(axes, permutations, leaves[name]) for name, axes in spec.leaves}
    )
