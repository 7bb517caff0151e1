"""Matrices in the place of permutations: they mix neurons, and may change their number."""

from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from lmcjax.symmetry._leaves import named_leaves, rebuild
from lmcjax.symmetry._permutations import Permutations, axes_in_turn
from lmcjax.symmetry._spec import Axis, PermutationSpec, Segment

Alignments: TypeAlias = Mapping[str, Float[ArrayLike, "*batch n_a n_b"]]
"""Matrices by group name.

`alignments[g][i, j]` is the share of B's neuron `j` in what takes the place of A's neuron `i`.
"""


def as_alignments(permutations: Permutations, dtype: jnp.dtype = jnp.float32) -> dict[str, Array]:
    """Write permutations `[*batch, n]` as matrices `[*batch, n, n]`, with `P[i, p[i]] = 1`."""
    alignments: dict[str, Array] = {}
    for group, permutation in permutations.items():
        size = jnp.shape(permutation)[-1]
        alignments[group] = jax.nn.one_hot(permutation, size, dtype=dtype)
    return alignments


def apply_soft(spec: PermutationSpec, alignments: Alignments, params: PyTree) -> PyTree:
    """Mix the neurons of a network by matrices; the same as `permute` if they are permutations.

    For a dense stack with kernels `W_l` of shape `[m_l, m_{l-1}]` this is
    `T_l W_l T_{l-1}^T n_b / n_a` and `T_l b_l`: what writes a group takes the matrix as it is, what
    reads it takes `n_b / n_a` times the matrix. So a network whose neurons are each split in two
    keeps its function, and the result has A's widths. Linear in every alignment.

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
    # Without the sizes that the spec may be bound to: these parameters may have others.
    spec = PermutationSpec(spec.leaves, kernels=spec.kernels).bind(params)
    _check_alignments(spec, alignments)
    leaves = named_leaves(params)
    for name, axes in spec.leaves:
        leaves[name] = mix_leaf(axes, alignments, leaves[name])
    return rebuild(params, leaves)


def _check_alignments(spec: PermutationSpec, alignments: Alignments) -> None:
    """Check that the alignments are of the spec's groups, `[*batch, n_a, n_b]` for any n_a."""
    group_shapes = spec.group_shapes()
    if in_one_only := sorted(alignments.keys() ^ group_shapes.keys()):
        raise ValueError(
            f"group {in_one_only[0]!r} is not in both: alignments have {sorted(alignments)}, "
            f"spec has {sorted(group_shapes)}"
        )
    for group, matrix in alignments.items():
        shape = jnp.shape(matrix)
        *batch, n_b = group_shapes[group]
        num_axes = len(batch) + 2
        if len(shape) != num_axes or shape[:-2] != tuple(batch) or shape[-1] != n_b:
            raise ValueError(
                f"the alignment of group {group!r} has shape {shape}, "
                f"expected {(*batch, 'n_a', n_b)}"
            )


def mix_leaf(axes: tuple[Axis, ...], alignments: Alignments, leaf: ArrayLike) -> Array:
    """Mix one leaf, as `apply_soft` does, without checks.

    Args:
        axes: of this leaf, as the spec has them.
        alignments: per group, as for `apply_soft`.
        leaf: traced.
    """
    mixed = jnp.asarray(leaf)
    for i in axes_in_turn(axes):
        mixed = _mix_axis(mixed, i, axes[i], alignments)
    return mixed


def _mix_axis(leaf: Array, i: int, axis: Axis, alignments: Alignments) -> Array:
    mixed = []
    offset = 0
    for segment in axis:
        if segment.group is None:
            length = segment.length(1)
            mixed.append(jax.lax.slice_in_dim(leaf, offset, offset + length, axis=i))
        else:
            matrix = jnp.asarray(alignments[segment.group])
            length = segment.length(matrix.shape[-1])
            entries = jax.lax.slice_in_dim(leaf, offset, offset + length, axis=i)
            mixed.append(_mix_segment(entries, i, segment, matrix))
        offset += length
    return jnp.concatenate(mixed, axis=i)


def _mix_segment(entries: Array, i: int, segment: Segment, matrix: Array) -> Array:
    """`sum_j T[i, j] entries[..., j, ...]`, with a matrix per batch entry where there are any.

    Args:
        entries: the segment's stretch of a leaf.
        i: the axis of the leaf that the segment is a part of.
        segment: says how axis `i` holds the neurons.
        matrix: T, `[*batch, n_a, n_b]`.
    """
    *_, n_a, n_b = matrix.shape
    scale = n_b / n_a if segment.role == "reads" else 1.0
    weights = (matrix * scale).astype(jnp.promote_types(entries.dtype, matrix.dtype))
    before = entries.shape[:i]
    after = entries.shape[i + 1 :]
    blocks = entries.reshape(*before, segment.outer, n_b, segment.inner, *after)

    # The labels of an einsum. The leaf's axes have their own numbers, so that the matrix's batch
    # axes meet those of the leaf; axis `i` has become three, and these have the next numbers.
    outer = entries.ndim
    neuron_b = entries.ndim + 1
    inner = entries.ndim + 2
    neuron_a = entries.ndim + 3
    labels_before = list(range(i))
    labels_after = list(range(i + 1, entries.ndim))
    matrix_labels = [*segment.batch_axes, neuron_a, neuron_b]
    block_labels = [*labels_before, outer, neuron_b, inner, *labels_after]
    mixed_labels = [*labels_before, outer, neuron_a, inner, *labels_after]
    mixed = jnp.einsum(weights, matrix_labels, blocks, block_labels, mixed_labels)

    mixed_length = segment.outer * n_a * segment.inner
    return mixed.reshape(*before, mixed_length, *after).astype(entries.dtype)
