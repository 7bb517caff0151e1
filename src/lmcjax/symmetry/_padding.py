"""Networks of different widths in one shape: neurons of zeros after the real ones.

A neuron whose weights, bias and outgoing weights are all zero changes no output. Its gradient is
zero as well where `sigma(0) = 0`, so that training leaves it as it is, unless a layer normalises
over the neurons.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lmcjax.symmetry._leaves import named_leaves, rebuild
from lmcjax.symmetry._spec import Axis, PermutationSpec, Segment


def pad_neurons(spec: PermutationSpec, wide: PermutationSpec, params: PyTree) -> PyTree:
    """Bring a network into the shape of a wider one: neurons of zeros follow each group's own.

    Args:
        spec: of the network, bound to its sizes, static.
        wide: the same for the wider network, static; it differs from `spec` in the groups' sizes
            alone.
        params: of the network, traced.

    Returns:
        Parameters with the wider network's shapes; `drop_padding(wide, spec, ...)` undoes it, bit
        for bit.

    Raises:
        ValueError: the two describe different programs, or a group has fewer neurons in `wide`.
    """
    _check_wider(spec, wide)
    spec.bind(params)
    sizes = _group_sizes(spec)
    wide_sizes = _group_sizes(wide)
    leaves = named_leaves(params)
    for name, axes in spec.leaves:
        leaf = jnp.asarray(leaves[name])
        for i, axis in enumerate(axes):
            if axis:
                sources = _padded_sources(axis, sizes, wide_sizes)
                leaf = jnp.take(leaf, sources, axis=i, mode="fill", fill_value=0)
        leaves[name] = leaf
    return rebuild(params, leaves)


def drop_padding(wide: PermutationSpec, spec: PermutationSpec, params: PyTree) -> PyTree:
    """Keep the real neurons of a network that `pad_neurons(spec, wide, ...)` has made.

    Args:
        wide: as for `pad_neurons`.
        spec: as for `pad_neurons`.
        params: of the padded network, traced.

    Raises:
        ValueError: as for `pad_neurons`.
    """
    _check_wider(spec, wide)
    wide.bind(params)
    sizes = _group_sizes(spec)
    wide_sizes = _group_sizes(wide)
    leaves = named_leaves(params)
    for name, axes in wide.leaves:
        for i, axis in enumerate(axes):
            if axis:
                positions = _real_positions(axis, sizes, wide_sizes)
                leaves[name] = jnp.take(leaves[name], positions, axis=i)
    return rebuild(params, leaves)


def real_entries(spec: PermutationSpec, wide: PermutationSpec, params: PyTree) -> PyTree:
    """Tell which entries of the padded parameters are real, by booleans.

    Returns:
        Booleans in the shape of `pad_neurons(spec, wide, params)`.
    """
    all_real = jax.tree.map(lambda leaf: jnp.ones(jnp.shape(leaf), bool), params)
    return pad_neurons(spec, wide, all_real)


def _group_sizes(spec: PermutationSpec) -> dict[str, int]:
    return {group: shape[-1] for group, shape in spec.group_shapes().items()}


def _check_wider(spec: PermutationSpec, wide: PermutationSpec) -> None:
    if spec.leaves != wide.leaves:
        differing = _differing_leaves(spec, wide)
        raise ValueError(f"the two specs describe different programs: they differ in {differing}")
    wide_shapes = wide.group_shapes()
    for group, shape in spec.group_shapes().items():
        wide_shape = wide_shapes[group]
        if shape[:-1] != wide_shape[:-1] or shape[-1] > wide_shape[-1]:
            raise ValueError(f"group {group!r} of shape {shape} does not fit into {wide_shape}")


def _differing_leaves(spec: PermutationSpec, wide: PermutationSpec) -> list[str]:
    """The leaves of the first spec that the second describes otherwise, or else has in addition."""
    axes = dict(spec.leaves)
    wide_axes = dict(wide.leaves)
    differing = [name for name in axes if wide_axes.get(name) != axes[name]]
    return differing or sorted(wide_axes.keys() - axes.keys())


def _padded_sources(axis: Axis, sizes: dict[str, int], wide_sizes: dict[str, int]) -> np.ndarray:
    """Where each entry of a padded axis comes from; out of range where it is padding."""
    positions = _real_positions(axis, sizes, wide_sizes)
    length = len(positions)
    wide_length = 0
    for segment in axis:
        wide_length += segment.length(_num_neurons(segment, wide_sizes))
    sources = np.full(wide_length, length)
    sources[positions] = np.arange(length)
    return sources


def _real_positions(axis: Axis, sizes: dict[str, int], wide_sizes: dict[str, int]) -> np.ndarray:
    """Where the entries of an axis lie in the padded axis."""
    positions = []
    offset = 0
    for segment in axis:
        size = _num_neurons(segment, sizes)
        wide_size = _num_neurons(segment, wide_sizes)
        wide_length = segment.length(wide_size)
        entries = np.arange(wide_length).reshape(segment.outer, wide_size, segment.inner)
        positions.append(offset + entries[:, :size].ravel())
        offset += wide_length
    return np.concatenate(positions)


def _num_neurons(segment: Segment, sizes: dict[str, int]) -> int:
    """The size of the segment's group; 1 where nothing permutes the segment."""
    return 1 if segment.group is None else sizes[segment.group]
