"""Kernels with a batch axis that a group permutes (experts): that axis as one of the features.

Each entry of a batch axis meets data of its own. To compare different entries with each other, as
a matching of experts does, their features are laid side by side.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from lmcjax.symmetry import Kernel, PermutationSpec, groups_of


def join_inputs(spec: PermutationSpec) -> PermutationSpec:
    """The spec with every batch axis that a group permutes among the inputs of its kernel."""
    kernels = []
    for kernel in spec.kernels:
        if kernel.feature_groups == 1 and not kernel.lookup:
            permuted = _permuted_batch_axes(spec, kernel)
            inputs = tuple(sorted((*kernel.inputs, *permuted)))
            batch = _without(kernel.batch, permuted)
            kernel = kernel._replace(inputs=inputs, batch=batch)
        kernels.append(kernel)
    return dataclasses.replace(spec, kernels=tuple(kernels))


def join_outputs(spec: PermutationSpec) -> PermutationSpec:
    """The spec with every batch axis that a group permutes among the outputs of its kernel."""
    kernels = []
    for kernel in spec.kernels:
        batch = _without(kernel.batch, _permuted_batch_axes(spec, kernel))
        kernels.append(kernel._replace(batch=batch))
    return dataclasses.replace(spec, kernels=tuple(kernels))


def _permuted_batch_axes(spec: PermutationSpec, kernel: Kernel) -> tuple[int, ...]:
    """The batch axes of a kernel on which a group acts."""
    axes = dict(spec.leaves)[kernel.leaf]
    return tuple(i for i in kernel.batch if groups_of((axes[i],)))


def _without(axes: tuple[int, ...], removed: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(i for i in axes if i not in removed)


class Layout(NamedTuple):
    """Which axes of a leaf values `[*batch, num_samples, features]` are laid out along."""

    batch: tuple[int, ...]
    features: tuple[int, ...]

    def order(self) -> tuple[int | None, ...]:
        """The leaf's axes, None for the samples."""
        return (*self.batch, None, *self.features)


def input_layout(kernel: Kernel) -> Layout:
    """The layout of what a kernel sees."""
    return Layout(kernel.batch, kernel.inputs)


def output_layout(kernel: Kernel, num_axes: int) -> Layout:
    """The layout of what a kernel puts out, whose leaf has so many axes."""
    return Layout(kernel.batch, kernel.outputs(num_axes))


def change_layout(values: Array, shape: tuple[int, ...], before: Layout, after: Layout) -> Array:
    """Values `[*batch, num_samples, features]` with some of the batch axes among the features.

    Args:
        values: what a kernel sees or puts out.
        shape: of its leaf.
        before, after: layouts along the same axes of the leaf.
    """
    lengths = [shape[i] for i in before.features]
    unflattened = values.reshape(*values.shape[:-1], *lengths)
    order = before.order()
    moved = jnp.transpose(unflattened, [order.index(i) for i in after.order()])
    num_leading = len(after.batch) + 1
    return moved.reshape(*moved.shape[:num_leading], -1)
