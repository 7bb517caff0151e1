"""The moments of a group's own activations, from those of the kernels that see them."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PyTree

from lmcjax.statistics._activations import ActivationMoments
from lmcjax.statistics._joined_axes import join_inputs, join_outputs
from lmcjax.statistics._moments import Moments, merge_moments, over_batch
from lmcjax.symmetry import (
    AxisLike,
    Kernel,
    Permutations,
    PermutationSpec,
    Place,
    identity_permutations,
    named_leaves,
    permute_leaf,
)


def group_moments(
    spec: PermutationSpec,
    group: str,
    params: PyTree,
    moments: ActivationMoments,
    permutations: Permutations | None = None,
    *,
    params_b: PyTree | None = None,
) -> Moments:
    """The moments of a group's own activations, `[*batch, n]` and `[*batch, n, n]`.

    A group's activations are all that its readers see of it: every reader, place in a window and
    entry of another axis beside it counts as further samples. Of a group that no kernel reads
    (queries and keys; also where all its readers are convolutions with feature groups), what its
    writers put out, before biases, norms and nonlinearities.

    Args:
        spec: static.
        group: static.
        params: of either network, or of A if the two differ in width; read for shapes only.
        moments: traced.
        permutations: of the other groups, applied to B first; they matter where a kernel's features
            are a product of two groups (heads and the channels within them). Default: B as it is.
        params_b: of network B, if it differs in width; read for shapes only.

    Raises:
        ValueError: there are no moments of the group's activations, or they are of the wrong size.
    """
    bound_a = spec.bind(params)
    leaves_a = named_leaves(params)
    if params_b is None:
        return bound_group_moments(
            (bound_a, bound_a), (leaves_a, leaves_a), group, moments, permutations
        )
    bound_b = spec.with_widths_of(params_b)
    leaves_b = named_leaves(params_b)
    return bound_group_moments(
        (bound_a, bound_b), (leaves_a, leaves_b), group, moments, permutations
    )


def bound_group_moments(
    specs: tuple[PermutationSpec, PermutationSpec],
    leaves: tuple[dict[str, Any], dict[str, Any]],
    group: str,
    moments: ActivationMoments,
    permutations: Permutations | None = None,
) -> Moments:
    """`group_moments` of networks that are bound and named already.

    Args:
        specs: static; bound to A and to B.
        leaves: of A and of B; read for shapes only.
        group, moments, permutations: as for `group_moments`.
    """
    spec_a, spec_b = specs
    leaves_a, leaves_b = leaves
    all_permutations: dict[str, ArrayLike] = {}
    if permutations is not None:
        all_permutations = {**identity_permutations(spec_a), **permutations}
    sources_a = activation_sources(spec_a, group, moments)
    sources_b = activation_sources(spec_b, group, moments)
    parts = []
    for source_a, source_b in zip(sources_a, sources_b, strict=True):
        kernel = source_a.kernel
        features = _Features(
            kernel=kernel,
            side_a=_Side(source_a.place, jnp.shape(leaves_a[kernel.leaf])),
            side_b=_Side(source_b.place, jnp.shape(leaves_b[kernel.leaf])),
            features=source_a.features,
            permutations=all_permutations,
        )
        features.check(source_a.moments)
        parts.append(features.pool(source_a.moments))
    total = parts[0]
    for part in parts[1:]:
        total = over_batch(merge_moments, total.num_samples.ndim)(total, part)
    return total


class ActivationSource(NamedTuple):
    """One kernel at which a group's activations are seen."""

    kernel: Kernel
    place: Place  # of the group in the kernel's leaf
    features: tuple[int, ...]  # the leaf's axes that are the features of the moments
    moments: Moments


def activation_sources(
    spec: PermutationSpec, group: str, moments: ActivationMoments
) -> list[ActivationSource]:
    """Where a group's activations are seen: by its readers, or if there are none, at its writers.

    Of a kernel with a batch axis that a group permutes, the features are those of all entries
    together: neurons of one entry are compared with those of every other.

    Raises:
        ValueError: nowhere.
    """
    readers = []
    for kernel, place in join_inputs(spec).readers(group):
        experts_joined = kernel not in spec.kernels
        seen = (moments.across or {}) if experts_joined else moments.inputs
        if kernel.name in seen:
            source = ActivationSource(kernel, place, kernel.inputs, seen[kernel.name])
            readers.append(source)
    if readers:
        return readers
    axes = dict(spec.leaves)
    writers = []
    for kernel, place in join_outputs(spec).writers(group):
        if kernel.name in moments.outputs:
            features = kernel.outputs(len(axes[kernel.leaf]))
            source = ActivationSource(kernel, place, features, moments.outputs[kernel.name])
            writers.append(source)
    if not writers:
        measured = sorted({*moments.inputs, *moments.outputs})
        raise ValueError(
            f"there are no moments of the activations of group {group!r}, only for {measured}"
        )
    return writers


class _Side(NamedTuple):
    """What may differ between the two networks."""

    place: Place
    shape: tuple[int, ...]  # of the leaf


class _Features(NamedTuple):
    """The features of a kernel, along some axes of its leaf, one of which holds the neurons."""

    kernel: Kernel
    side_a: _Side
    side_b: _Side
    features: tuple[int, ...]  # axes of the leaf
    permutations: Permutations  # of all groups, applied to B; empty: B as it is

    def check(self, moments: Moments) -> None:
        """Check that the moments have as many features as the leaf.

        Raises:
            ValueError: names the kernel and both numbers.
        """
        measured = (moments.mean_a.shape[-1], moments.mean_b.shape[-1])
        for side, num_measured in zip((self.side_a, self.side_b), measured, strict=True):
            num_features = math.prod(side.shape[i] for i in self.features)
            if num_measured != num_features:
                raise ValueError(
                    f"kernel {self.kernel.name!r} has {num_features} features, "
                    f"its moments are of {num_measured}"
                )

    def pool(self, moments: Moments) -> Moments:
        """The moments of the group's neurons, all else counting as samples."""
        a = self.side_a
        b = self.side_b
        means_a = self._rows(moments.mean_a, a)
        means_b = self._rows(moments.mean_b, b, align=True)
        num_places = means_a.shape[-1]  # features that belong to one neuron
        # every kernel and every batch entry has seen the same number of samples
        count = jnp.full(means_a.shape[:-2], moments.num_samples.reshape(-1)[0])
        mean_a = means_a.mean(-1, keepdims=True)
        mean_b = means_b.mean(-1, keepdims=True)
        apart_a = means_a - mean_a
        apart_b = means_b - mean_b

        def total(within: Array, x: Array, y: Array) -> Array:
            """The spread within places, and between their means: `C = sum C_i + N_i d_i d_i^T`."""
            between = jnp.matmul(x, jnp.swapaxes(y, -1, -2), precision=jax.lax.Precision.HIGHEST)
            return within + count[..., None, None] * between

        within_aa = self._within(moments.centred_aa, a, a)
        within_bb = self._within(moments.centred_bb, b, b, align=(True, True))
        within_ab = self._within(moments.centred_ab, a, b, align=(False, True))
        return Moments(
            num_samples=num_places * count,
            mean_a=mean_a[..., 0],
            mean_b=mean_b[..., 0],
            centred_aa=total(within_aa, apart_a, apart_a),
            centred_bb=total(within_bb, apart_b, apart_b),
            centred_ab=total(within_ab, apart_a, apart_b),
        )

    def _rows(self, mean: Array, side: _Side, *, align: bool = False) -> Array:
        """One row per neuron, `[*batch, n, rest]`, of `[*batch, features]`."""
        entries = self._cut(mean, side, len(self.kernel.batch))
        if align:
            entries = self._align(entries, side, len(self.kernel.batch))
        return side.place.rows_of_cut(entries, (*self.kernel.batch, *self.features))

    def _cut(self, array: Array, side: _Side, position: int) -> Array:
        """Axis `position` of an array, which holds features, as one axis per factor."""
        lengths = [side.shape[i] for i in self.features]
        before = array.shape[:position]
        after = array.shape[position + 1 :]
        unflattened = array.reshape(*before, *lengths, *after)
        leaf_axes = [None] * len(before) + [*self.features] + [None] * len(after)
        return side.place.part.cut(unflattened, leaf_axes)

    def _feature_axes(self, side: _Side) -> list[int]:
        """The part's axes that are features, in the order of `_cut`."""
        return list(side.place.part.positions(self.features))

    def _align(self, array: Array, side: _Side, position: int) -> Array:
        """The other groups' permutations applied to the features that start at axis `position`."""
        if not self.permutations:
            return array
        batch_axes = side.place.part.positions(self.kernel.batch)
        layout = side.place.part.layout(fixed=(side.place.axis, *batch_axes))
        axes: list[AxisLike] = [None] * array.ndim
        for part_axis, i in batch_axes.items():
            axes[i] = layout[part_axis]
        for i, part_axis in enumerate(self._feature_axes(side)):
            axes[position + i] = layout[part_axis]
        return jnp.asarray(permute_leaf(tuple(axes), self.permutations, array))

    def _within(
        self,
        centred: Array | None,
        first: _Side,
        second: _Side,
        *,
        align: tuple[bool, bool] = (False, False),
    ) -> Array:
        """The neurons' blocks of `[*batch, features, features]`, summed over all else.

        Two features are paired only if they agree in everything but the neuron: the sum runs over
        the diagonal of the others.

        Args:
            centred: the sums of products of all features.
            first, second: whose features the rows and the columns are.
            align: whether B's permutations apply to the rows, and to the columns.
        """
        assert centred is not None  # one-hot vectors are no group's activations
        rows = len(self.kernel.batch)  # the axis at which the rows start
        array = self._cut(centred, first, rows)
        columns = rows + len(self._feature_axes(first))
        array = self._cut(array, second, columns)
        if align[0]:
            array = self._align(array, first, rows)
        if align[1]:
            array = self._align(array, second, columns)
        # einsum's labels: the part's axes have their own numbers, the columns' neurons the next
        neuron = first.place.axis
        neuron_b = len(first.place.part.axes)
        batch_labels = list(first.place.part.positions(self.kernel.batch))
        row_labels = self._feature_axes(first)
        column_labels = [neuron_b if label == neuron else label for label in row_labels]
        kept = [*first.place.batch_axes, neuron, neuron_b]
        return jnp.einsum(array, [*batch_labels, *row_labels, *column_labels], kept)
