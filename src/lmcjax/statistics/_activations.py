"""The moments of what a network's kernels see and of its groups of neurons."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from lmcjax.statistics._moments import Moments, count_samples, merge_moments, over_batch, stream_moments
from lmcjax.symmetry import (
    Axis,
    Kernel,
    Permutations,
    PermutationSpec,
    Place,
    check_same_shapes,
    identity_permutations,
    kernel_inputs,
    kernel_outputs,
    named_leaves,
    permute_leaf,
)

_BATCH_BYTES = 2**28  # of activations, where the batch size is left open
_LARGEST_BATCH = 1000


class ActivationMoments(NamedTuple):
    """Moments of networks A and B, by kernel; `vmap` prepends axes to every field.

    Features are those of the kernel: a convolution's patches, all heads' channels. Stacked layers and the feature
    groups of a convolution are leading axes. Where one leaf makes several kernels (a tied embedding), the second is
    called by the leaf's name and a number, as in `spec.kernels`.

    A kernel with a batch axis that a group permutes (experts side by side, each of which sees data of its own) has
    in `inputs` the moments of each entry by itself. To compare different entries, `across` has those of all entries
    together: there the axis is one of the features. In `outputs` it always is.
    """

    inputs: dict[str, Moments]  # what each kernel sees
    outputs: dict[str, Moments]  # what it says; only where a group that it writes is read by no kernel
    across: dict[str, Moments] | None = None  # what it sees, all entries together; None: no group permutes any


def activation_moments(
    apply: Callable[[PyTree, Any], Any],
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    inputs: PyTree,
    *,
    apply_b: Callable[[PyTree, Any], Any] | None = None,
    batch_size: int | None = None,
) -> ActivationMoments:
    """The moments of what both networks' kernels see on the same inputs, streamed in batches.

    All patches of a convolution count as samples, but never more than a batch of them exists at a time. What is kept
    are three matrices `[fan_in, fan_in]` per kernel, however many the samples; where a group permutes E experts
    side by side, also three `[E fan_in, E fan_in]`, for the matchings by activations.

    Args:
        apply: static; `apply(params, inputs)`.
        spec: static.
        params_a, params_b: the two networks' parameters, traced.
        inputs: arrays with a leading axis of samples, traced. Under `jit` an argument, not a constant: XLA would
            compute their second moment while it compiles, for tens of seconds.
        apply_b: static; network B's, if that is of other widths. By default `apply` serves both, and shapes agree.
        batch_size: static, samples per batch; the last may be short. The result changes by rounding only. Default: as
            many as fit a quarter of a gigabyte, at most 1,000.

    Raises:
        ValueError: shapes that differ between the networks or do not fit the spec, a kernel of the spec whose inputs
            are others in the program, no samples, a batch size below 1.
    """
    if apply_b is None:
        check_same_shapes(params_a, params_b)
    else:
        PermutationSpec(spec.leaves, kernels=spec.kernels).bind(params_b)
    spec = spec.bind(params_a)
    kernels = {kernel.name: kernel for kernel in spec.kernels}
    reading, writing = _joined_inputs(spec), _joined_outputs(spec)
    unread = {k for g in spec.groups if not any(reading.readers(g)) for k, _ in writing.writers(g)}
    across = [k for k in reading.kernels if k != kernels[k.name]]

    def activations(side: dict[str, PyTree], x: PyTree) -> dict[str, Array]:
        ((name, params),) = side.items()
        program = apply if name == "a" or apply_b is None else apply_b
        leaves, seen = named_leaves(params), kernel_inputs(program, spec, params, x)
        named = {f"inputs {name}": values for name, values in seen.items()}
        for joined in unread:
            if joined.name in seen:
                kernel, leaf = kernels[joined.name], leaves[joined.leaf]
                said = kernel_outputs(kernel, leaf, seen[kernel.name])
                num_axes = jnp.ndim(leaf)
                before, after = ((*k.batch, None, *k.outputs(num_axes)) for k in (kernel, joined))
                named[f"outputs {kernel.name}"] = _rearrange(said, jnp.shape(leaf), before, after)
        for joined in across:
            if joined.name in seen:
                before, after = ((*k.batch, None, *k.inputs) for k in (kernels[joined.name], joined))
                shape = jnp.shape(leaves[joined.leaf])
                named[f"across {joined.name}"] = _rearrange(seen[joined.name], shape, before, after)
        return named

    if batch_size is None:
        num_samples = count_samples(inputs)
        sample = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *jnp.shape(x)[1:]), jnp.result_type(x)), inputs)
        arrays = jax.eval_shape(activations, {"a": params_a}, sample).values()
        per_sample = sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays)
        batch_size = max(1, min(_LARGEST_BATCH, num_samples, _BATCH_BYTES // max(per_sample, 1)))
    one_hot = {f"inputs {kernel.name}" for kernel in spec.kernels if kernel.lookup}
    sides = {"a": params_a}, {"b": params_b}
    found = stream_moments(activations, *sides, inputs, batch_size=batch_size, one_hot=one_hot)

    def of(field: str) -> dict[str, Moments]:
        return {n.removeprefix(f"{field} "): m for n, m in found.items() if n.startswith(f"{field} ")}

    return ActivationMoments(of("inputs"), of("outputs"), of("across") or None)


def _joined_inputs(spec: PermutationSpec) -> PermutationSpec:
    """The spec with every batch axis that a group permutes among the inputs of its kernel."""
    kernels = []
    for kernel in spec.kernels:
        permuted = _permuted_batch(spec, kernel)
        if kernel.feature_groups == 1 and not kernel.lookup:
            inputs = tuple(sorted((*kernel.inputs, *permuted)))
            kernel = kernel._replace(inputs=inputs, batch=_without(kernel.batch, permuted))
        kernels.append(kernel)
    return dataclasses.replace(spec, kernels=tuple(kernels))


def _joined_outputs(spec: PermutationSpec) -> PermutationSpec:
    """The spec with every batch axis that a group permutes among the outputs of its kernel."""
    kernels = (k._replace(batch=_without(k.batch, _permuted_batch(spec, k))) for k in spec.kernels)
    return dataclasses.replace(spec, kernels=tuple(kernels))


def _permuted_batch(spec: PermutationSpec, kernel: Kernel) -> tuple[int, ...]:
    """The batch axes of a kernel on which a group acts."""
    axes = dict(spec.leaves)[kernel.leaf]
    return tuple(i for i in kernel.batch if axes[i])


def _without(axes: tuple[int, ...], some: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(i for i in axes if i not in some)


def _rearrange(
    values: Array, shape: tuple[int, ...], before: Sequence[int | None], after: Sequence[int | None]
) -> Array:
    """`[*batch, num_samples, features]`, with some of the batch axes among the features.

    Args:
        values: what a kernel sees or says.
        shape: of its leaf.
        before, after: the leaf's axes in the order in which they are laid out, None for the samples; those
            that follow it are features.
    """
    num_batch, kept = before.index(None), after.index(None)
    lengths = [shape[i] for i in before[num_batch + 1 :] if i is not None]
    array = values.reshape(*values.shape[: num_batch + 1], *lengths)
    array = jnp.transpose(array, [before.index(i) for i in after])
    return array.reshape(*array.shape[: kept + 1], -1)


def group_moments(
    spec: PermutationSpec,
    group: str,
    params: PyTree,
    moments: ActivationMoments,
    permutations: Permutations | None = None,
    *,
    params_b: PyTree | None = None,
) -> Moments:
    """The moments of a group's own activations, `[*batch, n]` and `[*batch, n, n]`, from those of the kernels.

    A group's activations are all that its readers see of it: every reader, place in a window and entry of another axis
    beside it counts as further samples. Of a group that no kernel reads (queries and keys; also where all its readers
    are convolutions with feature groups), what its writers put out, before biases, norms and nonlinearities.

    Args:
        spec: static.
        group: static.
        params: of either network, or of A if the two differ in width; read for shapes only.
        moments: traced.
        permutations: of the other groups, applied to B first; they matter where a kernel's features are a product of
            two groups (heads and the channels within them). Default: B as it is.
        params_b: of network B, if it differs in width; read for shapes only.

    Raises:
        ValueError: there are no moments of the group's activations, or they are of the wrong size.
    """
    networks = (params, params if params_b is None else params_b)
    unbound = PermutationSpec(spec.leaves, kernels=spec.kernels)
    spec, spec_b = spec.bind(params), unbound.bind(networks[1])
    axes = dict(spec.leaves)
    known = {} if permutations is None else {**identity_permutations(spec), **permutations}
    parts = []
    sources = (activation_sources(bound, group, moments) for bound in (spec, spec_b))
    for (kernel, place, features, source), (_, place_b, _, _) in zip(*sources, strict=True):
        shapes = [jnp.shape(named_leaves(network)[kernel.leaf]) for network in networks]
        for shape, mean in zip(shapes, (source.mean_a, source.mean_b), strict=True):
            if mean.shape[-1] != (fan := math.prod(shape[i] for i in features)):
                raise ValueError(f"kernel {kernel.name!r} has {fan} features, its moments are of {mean.shape[-1]}")
        sides = (_Side(place, shapes[0]), _Side(place_b, shapes[1]))
        parts.append(_Features(kernel, sides, features, axes[kernel.leaf], known).pool(source))
    total = parts[0]
    for part in parts[1:]:
        total = over_batch(merge_moments, total.num_samples.ndim)(total, part)
    return total


def activation_sources(
    spec: PermutationSpec, group: str, moments: ActivationMoments
) -> list[tuple[Kernel, Place, tuple[int, ...], Moments]]:
    """Where a group's activations are seen: kernel, place, the leaf's axes that the moments' features are, and these.

    Of a kernel with a batch axis that a group permutes, the features are those of all entries together: neurons of
    one entry are compared with those of every other.

    Raises:
        ValueError: nowhere.
    """
    readers = []
    for kernel, place in _joined_inputs(spec).readers(group):
        seen = moments.inputs if kernel in spec.kernels else moments.across or {}
        if kernel.name in seen:
            readers.append((kernel, place, kernel.inputs, seen[kernel.name]))
    if readers:
        return readers
    axes = {name: len(leaf) for name, leaf in spec.leaves}
    writers = [
        (k, p, k.outputs(axes[k.leaf]), moments.outputs[k.name])
        for k, p in _joined_outputs(spec).writers(group)
        if k.name in moments.outputs
    ]
    if not writers:
        have = sorted({*moments.inputs, *moments.outputs})
        raise ValueError(f"there are no moments of the activations of group {group!r}, only for {have}")
    return writers


class _Side(NamedTuple):
    """What may differ between the networks."""

    place: Place
    shape: tuple[int, ...]  # of the leaf


class _Features(NamedTuple):
    """The features of a kernel, laid out along some axes of its leaf, one of which holds a group's neurons."""

    kernel: Kernel
    sides: tuple[_Side, _Side]  # A, B
    features: tuple[int, ...]  # axes of the leaf
    axes: tuple[Axis, ...]
    permutations: Permutations

    def pool(self, moments: Moments) -> Moments:
        """The moments of the group's neurons, all else counting as samples."""
        a, b = self.sides
        mean_a = self._rows(self._unflatten(moments.mean_a, a), a)
        mean_b = self._rows(self._align(self._unflatten(moments.mean_b, b), len(self.kernel.batch)), b)
        share = mean_a.shape[-1]
        count = jnp.full(mean_a.shape[:-2], moments.num_samples.reshape(-1)[0])
        centre_a, centre_b = mean_a.mean(-1, keepdims=True), mean_b.mean(-1, keepdims=True)

        def between(x: Array, y: Array) -> Array:
            return count[..., None, None] * jnp.matmul(x, jnp.swapaxes(y, -1, -2), precision=jax.lax.Precision.HIGHEST)

        apart_a, apart_b = mean_a - centre_a, mean_b - centre_b
        return Moments(
            share * count,
            centre_a[..., 0],
            centre_b[..., 0],
            self._within(moments.centred_aa, a, a) + between(apart_a, apart_a),
            self._within(moments.centred_bb, b, b, align=(True, True)) + between(apart_b, apart_b),
            self._within(moments.centred_ab, a, b, align=(False, True)) + between(apart_a, apart_b),
        )

    def _unflatten(self, array: Array, *sides: _Side) -> Array:
        """`[*batch, features, ...]`, each axis of features as axes of the leaf."""
        lengths = [side.shape[i] for side in sides for i in self.features]
        return array.reshape(*array.shape[: len(self.kernel.batch)], *lengths)

    def _align(self, array: Array, first: int) -> Array:
        """The other groups' permutations applied to the features that start at axis `first`."""
        if not self.permutations:
            return array
        position = {axis: first + i for i, axis in enumerate(self.features)}
        position |= {axis: i for i, axis in enumerate(self.kernel.batch)}
        axes: list[Axis] = [()] * array.ndim
        for i in self.features:
            if i != self.sides[1].place.axis:
                axes[position[i]] = tuple(
                    dataclasses.replace(segment, batch_axes=tuple(position[b] for b in segment.batch_axes))
                    for segment in self.axes[i]
                )
        return jnp.asarray(permute_leaf(tuple(axes), self.permutations, array))

    def _rows(self, mean: Array, side: _Side) -> Array:
        """`[*batch, n, rest]`"""
        return side.place.rows(mean, (*self.kernel.batch, *self.features))

    def _within(
        self, centred: Array | None, first: _Side, second: _Side, *, align: tuple[bool, bool] = (False, False)
    ) -> Array:
        """The sum over everything but the group's neurons of the diagonal blocks of `[*batch, features, features]`."""
        assert centred is not None  # one-hot vectors are no group's activations
        num_batch, num_features = len(self.kernel.batch), len(self.features)
        array = self._unflatten(centred, first, second)
        for side in (0, 1):
            if align[side]:
                array = self._align(array, num_batch + side * num_features)
        axis = first.place.axis
        position = num_batch + self.features.index(axis)
        array = second.place.split(first.place.split(array, position), position + num_features + 2)
        neuron_a, neuron_b, outer, inner = (len(first.shape) + i for i in range(4))

        def labels(neuron: int) -> list[int]:
            return [j for i in self.features for j in ((outer, neuron, inner) if i == axis else (i,))]

        kept = [*first.place.segment.batch_axes, neuron_a, neuron_b]
        return jnp.einsum(array, [*self.kernel.batch, *labels(neuron_a), *labels(neuron_b)], kept)
