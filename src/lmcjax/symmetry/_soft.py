"""Acting on a network with matrices instead of permutations: mixing neurons, or changing their
number.
"""

import math
from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from lmcjax.symmetry._leaves import named_leaves, rebuild
from lmcjax.symmetry._permutations import Permutations, axes_in_turn
from lmcjax.symmetry._spec import Axis, PermutationSpec, Segment

Alignments: TypeAlias = Mapping[str, Float[ArrayLike, "*batch n_a n_b"]]
"""Group to matrices; `alignments[g][i, j]` is the share of B's neuron `j` in what takes the place
of A's neuron `i`.
"""


def as_alignments(permutations: Permutations, dtype: jnp.dtype = jnp.float32) -> dict[str, Array]:
    """Permutations as matrices with one 1 per row: `P[i, p[i]] = 1`, `[*batch, n]` to `[*batch, n,
    n]`.
    """
    return {g: jax.nn.one_hot(p, jnp.shape(p)[-1], dtype=dtype) for g, p in permutations.items()}


def apply_soft(spec: PermutationSpec, alignments: Alignments, params: PyTree) -> PyTree:
    """Mix the neurons of a network: linear in every alignment, and `permute` where they are
    permutations.

    For a dense stack with kernels `W_l` of shape `[m_l, m_{l-1}]` this is `T_l W_l T_{l-1}^T n_b /
    n_a` and `T_l b_l`: what writes a group takes the matrix as it is, what reads it takes `n_b /
    n_a` times the matrix. So a network whose neurons are each split in two keeps its function, and
    the result has A's widths.

    Args:
        spec: static; of the parameters that are given, or of any network of the same architecture.
        alignments: per group `[*batch, n_a, n_b]`, rows summing to 1 and columns to `n_a / n_b`;
            traced.
        params: B's, traced; any pytree of arrays that fits the spec.

    Returns:
        Parameters in A's widths.

    Raises:
        ValueError: the alignments do not name the spec's groups, or a matrix does not fit its
            group.

    Source: Singh and Jaggi (2020), with the scales of readers so that functions are kept.
    """
    spec = PermutationSpec(spec.leaves, kernels=spec.kernels).bind(params)
    shapes = spec.group_shapes()
    if unknown := sorted(alignments.keys() ^ shapes.keys()):
        raise ValueError(
            f"group {unknown[0]!r} is not in both: alignments have {sorted(alignments)}, spec has {sorted(shapes)}"
        )
    for group, matrix in alignments.items():
        shape, (*batch, size) = jnp.shape(matrix), shapes[group]
        if len(shape) != len(batch) + 2 or (*shape[:-2], shape[-1]) != (*batch, size):
            raise ValueError(
                f"the alignment of group {group!r} has shape {shape}, expected {(*batch, 'n_a', size)}"
            )
    leaves = named_leaves(params)
    return rebuild(
        params, {name: mix_leaf(axes, alignments, leaves[name]) for name, axes in spec.leaves}
    )


def mix_leaf(axes: tuple[Axis, ...], alignments: Alignments, leaf: ArrayLike) -> Array:
    """One leaf of `apply_soft`, unchecked: `axes` as the spec has them for this leaf.

    Axes along which others' alignments vary go first, as in `permute_leaf`.
    """
    mixed = jnp.asarray(leaf)
    for i in axes_in_turn(axes):
        mixed = _mix_axis(mixed, i, axes[i], alignments)
    return mixed


def _mix_axis(leaf: Array, i: int, axis: Axis, alignments: Alignments) -> Array:
    parts, offset = [], 0
    for segment in axis:
        matrix = None if segment.group is None else jnp.asarray(alignments[segment.group])
        length = segment.length(1 if matrix is None else matrix.shape[-1])
        part = jax.lax.slice_in_dim(leaf, offset, offset + length, axis=i)
        parts.append(part if matrix is None else _mix_stretch(part, i, segment, matrix))
        offset += length
    return jnp.concatenate(parts, axis=i)


def _mix_stretch(part: Array, i: int, segment: Segment, matrix: Array) -> Array:
    """`sum_j T[i, j] part[..., j, ...]`, with a matrix per batch entry where there are any."""
    *_, n_a, n_b = matrix.shape
    scale = n_b / n_a if segment.role == "reads" else 1.0
    before, after = part.shape[:i], part.shape[i + 1 :]
    blocks = part.reshape(*before, segment.outer, n_b, segment.inner, *after)
    axes = [
        *range(i),
        part.ndim,
        part.ndim + 1,
        part.ndim + 2,
        *range(i + 1, part.ndim),
    ]  # one number per index
    result = [part.ndim + 3 if axis == part.ndim + 1 else axis for axis in axes]
    weights = (matrix * scale).astype(jnp.promote_types(part.dtype, matrix.dtype))
    mixed = jnp.einsum(
        weights, [*segment.batch_axes, part.ndim + 3, part.ndim + 1], blocks, axes, result
    )
    return mixed.reshape(*before, math.prod((segment.outer, n_a, segment.inner)), *after).astype(
        part.dtype
    )
