"""Permutations of a network's neurons: making them, composing them, acting with them."""

from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Int, Key, PyTree

from lmcjax.symmetry._leaves import named_leaves, rebuild
from lmcjax.symmetry._spec import Axis, PermutationSpec

Permutations: TypeAlias = Mapping[str, Int[ArrayLike, "..."]]
"""Group to index vector `[*batch, n]`: `permutations[g][i]` is the neuron of B that takes the place of A's `i`."""


def _shapes(spec: PermutationSpec, params: PyTree | None) -> dict[str, tuple[int, ...]]:
    return (spec if params is None else spec.bind(params)).group_shapes()


def identity_permutations(spec: PermutationSpec, params: PyTree | None = None) -> dict[str, Array]:
    """The permutations that leave everything in place: `int32[*batch, n]` per group, each `0 .. n-1`.

    Args:
        spec: bound to parameters (`spec.bind(params)`), or any spec together with `params`.
        params: read for shapes only.

    Raises:
        ValueError: the spec is not bound and no parameters are given.
    """
    shapes = _shapes(spec, params)
    return {group: jnp.broadcast_to(jnp.arange(shape[-1], dtype=jnp.int32), shape) for group, shape in shapes.items()}


def random_permutations(key: Key[Array, ""], spec: PermutationSpec, params: PyTree | None = None) -> dict[str, Array]:
    """Uniformly random permutations, independent per group and per batch entry; arguments as `identity_permutations`.

    The draw of a group depends on the key and on the group's place in the spec, not on the other groups' sizes.
    """
    identity = identity_permutations(spec, params)
    return {
        group: jax.random.permutation(jax.random.fold_in(key, i), indices, axis=-1, independent=True)
        for i, (group, indices) in enumerate(identity.items())
    }


def compose(p: Permutations, q: Permutations) -> dict[str, Array]:
    """First `q`, then `p`: `compose(p, q)[g] = q[g][p[g]]`, so `permute(compose(p, q), x) = permute(p, permute(q, x))`.

    Raises:
        ValueError: the two do not name the same groups or differ in a shape.
    """
    if p.keys() != q.keys():
        raise ValueError(f"the permutations name different groups: {sorted(p)} and {sorted(q)}")
    for group in p:
        if jnp.shape(p[group]) != jnp.shape(q[group]):
            raise ValueError(f"group {group!r} has shapes {jnp.shape(p[group])} and {jnp.shape(q[group])}")
    return {g: jnp.take_along_axis(jnp.asarray(q[g]), jnp.asarray(p[g]), axis=-1) for g in p}


def invert(permutations: Permutations) -> dict[str, Array]:
    """The permutations that undo these: `permute(spec, invert(p), permute(spec, p, x))` is `x`, bit for bit."""
    return {g: jnp.argsort(jnp.asarray(p), axis=-1).astype(jnp.int32) for g, p in permutations.items()}


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
        if not jnp.issubdtype(jnp.result_type(permutation), jnp.integer):
            raise ValueError(
                f"the permutation of group {group!r} has dtype {jnp.result_type(permutation)}, expected integers"
            )
        if not isinstance(permutation, jax.core.Tracer):
            values = np.asarray(permutation)
            if not np.array_equal(np.sort(values, axis=-1), np.broadcast_to(np.arange(values.shape[-1]), values.shape)):
                raise ValueError(
                    f"the permutation of group {group!r} is not a bijection of 0..{values.shape[-1] - 1}: {values}"
                )


def _axis_index(axis: Axis, permutations: Permutations) -> Array:
    """Where each entry of the permuted axis comes from: `[*batch, length]`, all segments laid end to end."""
    pieces: list[Array] = []
    offset = 0
    for segment in axis:
        p = (
            jnp.arange(1, dtype=jnp.int32)
            if segment.group is None
            else jnp.asarray(permutations[segment.group], jnp.int32)
        )
        outer = jnp.arange(segment.outer, dtype=jnp.int32)[:, None, None] * p.shape[-1]
        index = (outer + p[..., None, :, None]) * segment.inner + jnp.arange(segment.inner, dtype=jnp.int32)
        length = segment.length(p.shape[-1])
        pieces.append(offset + index.reshape(*p.shape[:-1], length))
        offset += length
    if len({piece.ndim for piece in pieces}) > 1:
        raise ValueError("segments with and without batch axes cannot share one axis")
    return jnp.concatenate(pieces, axis=-1)


def _permute_axis(leaf: ArrayLike, i: int, axis: Axis, permutations: Permutations) -> Array:
    """One axis of one leaf, gathered: `leaf[..., index, ...]`, with an index per batch entry where there are any."""
    index = _axis_index(axis, permutations)
    batch_axes = axis[0].batch_axes
    if not batch_axes:
        return jnp.take(jnp.asarray(leaf), index, axis=i)
    if any(segment.batch_axes != batch_axes for segment in axis):
        raise ValueError(f"the segments of one axis have different batch axes: {axis}")
    shape = [1] * jnp.ndim(leaf)
    for size, position in zip(index.shape, (*batch_axes, i), strict=True):
        shape[position] = size
    order = sorted(range(index.ndim), key=(*batch_axes, i).__getitem__)
    return jnp.take_along_axis(jnp.asarray(leaf), jnp.transpose(index, order).reshape(shape), axis=i)


def permute_leaf(axes: tuple[Axis, ...], permutations: Permutations, leaf: ArrayLike) -> ArrayLike:
    """One leaf of `permute`, unchecked: `axes` as the spec has them for this leaf."""
    for i, axis in enumerate(axes):
        if axis:
            leaf = _permute_axis(leaf, i, axis, permutations)
    return leaf


def permute(spec: PermutationSpec, permutations: Permutations, params: PyTree) -> PyTree:
    """Reorder the neurons of a network; for a correct spec its function stays the same.

    For a dense stack with kernels `W_l` of shape `[m_l, m_{l-1}]` this is `P_l W_l P_{l-1}^T` and `P_l b_l`, with
    `(P W)[i] = W[p[i]]` (the paper's Section 2). A gather only: `permute` followed by its inverse gives the same bits.

    Args:
        spec: static.
        permutations: per group `int32[*batch, n]`, traced or not.
        params: any pytree of arrays that fits the spec.

    Raises:
        ValueError: spec, permutations and parameters do not fit together, or a concrete permutation is no bijection.
    """
    check_permutations(spec.bind(params), permutations)
    leaves = named_leaves(params)
    return rebuild(params, {name: permute_leaf(axes, permutations, leaves[name]) for name, axes in spec.leaves})
