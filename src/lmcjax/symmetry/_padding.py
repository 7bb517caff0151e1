"""Networks of different widths in one shape: neurons of zeros after the real ones.

A neuron whose weights, bias and outgoing weights are all zero changes no output. Its gradient is
zero as well where `sigma(0) = 0`, so that training leaves it as it is, unless a layer normalises
over the neurons.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from lmcjax.symmetry._layout import groups_of
from lmcjax.symmetry._leaves import named_leaves, rebuild
from lmcjax.symmetry._parts import Part, pack
from lmcjax.symmetry._spec import PermutationSpec


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
    wide_sizes = _group_sizes(wide)
    leaves = named_leaves(params)
    for name, axes in spec.leaves:
        if groups_of(axes):
            padded = []
            for part in spec.parts[name]:
                padded.append(_pad_part(part, wide_sizes, part.cut(leaves[name])))
            leaves[name] = pack(wide.parts[name], padded)
    return rebuild(params, leaves)


def _pad_part(part: Part, wide_sizes: dict[str, int], array: Array) -> Array:
    """Zeros after the entries of every axis on which a group acts."""
    widths = [(0, 0)] * array.ndim
    for i, axis in enumerate(part.axes):
        if axis.group is not None:
            widths[i] = (0, wide_sizes[axis.group] - array.shape[i])
    return jnp.pad(array, widths)


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
    leaves = named_leaves(params)
    for name, axes in wide.leaves:
        if groups_of(axes):
            real = []
            for part in wide.parts[name]:
                real.append(_real_part(part, sizes, part.cut(leaves[name])))
            leaves[name] = pack(spec.parts[name], real)
    return rebuild(params, leaves)


def _real_part(part: Part, sizes: dict[str, int], array: Array) -> Array:
    """The first entries of every axis on which a group acts."""
    for i, axis in enumerate(part.axes):
        if axis.group is not None:
            array = jax.lax.slice_in_dim(array, 0, sizes[axis.group], axis=i)
    return array


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
