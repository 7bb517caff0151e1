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
from lmcjax.symmetry._spec import Axis, PermutationSpec


def pad_neurons(spec: PermutationSpec, wide: PermutationSpec, params: PyTree) -> PyTree:
    """A network in the shape of a wider one: each group's neurons, then neurons of zeros.

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
    sizes, wide_sizes = _sizes(spec), _sizes(wide)

    def pad(name: str, leaf: jax.Array) -> jax.Array:
        for i, axis in enumerate(dict(spec.leaves)[name]):
            if not axis:
                continue
            positions = _positions(axis, sizes, wide_sizes)
            source = np.full(
                sum(s.length(wide_sizes.get(s.group or "", 1)) for s in axis), leaf.shape[i]
            )
            source[positions] = np.arange(len(positions))
            leaf = jnp.take(leaf, source, axis=i, mode="fill", fill_value=0)
        return leaf

    spec.bind(params)
    return rebuild(
        params, {name: pad(name, jnp.asarray(leaf)) for name, leaf in named_leaves(params).items()}
    )


def drop_padding(wide: PermutationSpec, spec: PermutationSpec, params: PyTree) -> PyTree:
    """The real neurons of a network that `pad_neurons(spec, wide, ...)` has made; arguments and
    errors as there.
    """
    _check_wider(spec, wide)
    wide.bind(params)
    leaves = named_leaves(params)
    for name, axes in wide.leaves:
        for i, axis in enumerate(axes):
            if axis:
                leaves[name] = jnp.take(
                    leaves[name], _positions(axis, _sizes(spec), _sizes(wide)), axis=i
                )
    return rebuild(params, leaves)


def real_entries(spec: PermutationSpec, wide: PermutationSpec, params: PyTree) -> PyTree:
    """Which entries of the padded parameters are real: booleans in the shape of `pad_neurons(spec,
    wide, params)`.
    """
    return pad_neurons(
        spec, wide, jax.tree.map(lambda leaf: jnp.ones(jnp.shape(leaf), bool), params)
    )


def _sizes(spec: PermutationSpec) -> dict[str, int]:
    return {group: shape[-1] for group, shape in spec.group_shapes().items()}


def _check_wider(spec: PermutationSpec, wide: PermutationSpec) -> None:
    if spec.leaves != wide.leaves:
        differing = [
            name for name, axes in dict(spec.leaves).items() if dict(wide.leaves).get(name) != axes
        ] or sorted(dict(wide.leaves).keys() - dict(spec.leaves).keys())
        raise ValueError(f"the two specs describe different programs: they differ in {differing}")
    for group, shape in spec.group_shapes().items():
        other = wide.group_shapes()[group]
        if shape[:-1] != other[:-1] or shape[-1] > other[-1]:
            raise ValueError(f"group {group!r} of shape {shape} does not fit into {other}")


def _positions(axis: Axis, sizes: dict[str, int], wide_sizes: dict[str, int]) -> np.ndarray:
    """Where the entries of an axis lie in the wide one."""
    pieces, offset = [], 0
    for segment in axis:
        size, wide_size = (
            (1, 1) if segment.group is None else (sizes[segment.group], wide_sizes[segment.group])
        )
        length = segment.length(wide_size)
        block = np.arange(length).reshape(segment.outer, wide_size, segment.inner)
        pieces.append(offset + block[:, :size].ravel())
        offset += length
    return np.concatenate(pieces)
