"""Matrices in the place of permutations: they mix neurons, and may change their number."""

from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from lmcjax.symmetry._layout import AxisLike, groups_of
from lmcjax.symmetry._leaves import named_leaves, rebuild
from lmcjax.symmetry._parts import Part, pack, parts_of
from lmcjax.symmetry._permutations import Permutations, sizes_of
from lmcjax.symmetry._spec import PermutationSpec

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
    spec = spec.with_widths_of(params)
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


def mix_leaf(axes: tuple[AxisLike, ...], alignments: Alignments, leaf: ArrayLike) -> Array:
    """Mix one leaf, as `apply_soft` does, without checks.

    Args:
        axes: of this leaf, as the spec has them.
        alignments: per group, as for `apply_soft`.
        leaf: traced.
    """
    array = jnp.asarray(leaf)
    if not groups_of(axes):
        return array
    shapes_b = {}
    for group, matrix in alignments.items():
        *batch, _, n_b = jnp.shape(matrix)
        shapes_b[group] = (*batch, n_b)
    sizes_b = sizes_of(axes, shapes_b, array.shape)
    sizes_a = dict(sizes_b)
    for group in groups_of(axes):
        sizes_a[group] = jnp.shape(alignments[group])[-2]
    mixed = []
    for part in parts_of("", axes, sizes_b):
        mixed.append(_mix_part(part, alignments, part.cut(array)))
    return pack(parts_of("", axes, sizes_a), mixed)


def _mix_part(part: Part, alignments: Alignments, entries: Array) -> Array:
    """`sum_j T[i, j] entries[..., j, ...]` on every axis, with a matrix per batch entry if any."""
    for i in part.axes_in_turn():
        factor = part.axes[i].factor
        if factor is None or factor.group is None:
            continue
        matrix = jnp.asarray(alignments[factor.group])
        *_, n_a, n_b = matrix.shape
        scale = n_b / n_a if factor.role == "reads" else 1.0
        weights = (matrix * scale).astype(jnp.promote_types(entries.dtype, matrix.dtype))
        # The labels of an einsum. The part's axes have their own numbers, so that the matrix's
        # batch axes meet those of the part; A's neurons have the next number.
        labels = list(range(entries.ndim))
        neuron_a = entries.ndim
        matrix_labels = [*part.axes[i].batch_axes, neuron_a, i]
        mixed_labels = [neuron_a if label == i else label for label in labels]
        mixed = jnp.einsum(weights, matrix_labels, entries, labels, mixed_labels)
        entries = mixed.astype(entries.dtype)
    return entries
