"""The moments of what two networks' kernels see, by kernel."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PyTree

from lmcjax.statistics._joined_axes import (
    change_layout,
    input_layout,
    join_inputs,
    join_outputs,
    output_layout,
)
from lmcjax.statistics._moments import Moments, count_samples, stream_moments
from lmcjax.symmetry import (
    Kernel,
    KernelTap,
    PermutationSpec,
    check_same_shapes,
    kernel_outputs,
    named_leaves,
)

_BATCH_BYTES = 2**28  # of activations, where the batch size is left open
_LARGEST_BATCH = 1000


class ActivationMoments(NamedTuple):
    """Moments of networks A and B, by kernel; `vmap` prepends axes to every field.

    Features are those of the kernel: a convolution's patches, all heads' channels. Stacked layers
    and the feature groups of a convolution are leading axes. Where one leaf makes several kernels
    (a tied embedding), the second is called by the leaf's name and a number, as in `spec.kernels`.

    Experts side by side are a batch axis of a kernel that a group permutes: each of them sees data
    of its own. In `inputs` the moments are of each expert by itself. To compare different experts,
    `across` has the moments of all of them together: there that axis is one of the features. In
    `outputs` it always is.

    Attributes:
        inputs: what each kernel sees.
        outputs: what a kernel puts out, if it writes a group that no kernel reads.
        across: what a kernel sees, all experts together; None if there are no experts.
    """

    inputs: dict[str, Moments]
    outputs: dict[str, Moments]
    across: dict[str, Moments] | None = None


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

    All patches of a convolution count as samples, but never more than a batch of them exists at a
    time. What is kept are three matrices `[fan_in, fan_in]` per kernel, however many the samples;
    where a group permutes E experts side by side, also three `[E fan_in, E fan_in]`, for the
    matchings by activations.

    Args:
        apply: static; `apply(params, inputs)`.
        spec: static.
        params_a, params_b: the two networks' parameters, traced.
        inputs: arrays with a leading axis of samples, traced. Under `jit` an argument, not a
            constant: XLA would compute their second moment while it compiles, for tens of seconds.
        apply_b: static; network B's, if that is of other widths. By default `apply` serves both,
            and shapes agree.
        batch_size: static, samples per batch; the last may be short. The result changes by rounding
            only. Default: as many as fit a quarter of a gigabyte, at most 1,000.

    Raises:
        ValueError: shapes that differ between the networks or do not fit the spec, a kernel of the
            spec whose inputs are others in the program, no samples, a batch size below 1.
    """
    if apply_b is None:
        check_same_shapes(params_a, params_b)
    else:
        spec.with_widths_of(params_b)
    return bound_activation_moments(
        (apply, apply_b),
        spec.bind(params_a),
        (params_a, params_b),
        (named_leaves(params_a), named_leaves(params_b)),
        inputs,
        batch_size=batch_size,
    )


def bound_activation_moments(
    applies: tuple[Callable[[PyTree, Any], Any], Callable[[PyTree, Any], Any] | None],
    spec: PermutationSpec,
    params: tuple[PyTree, PyTree],
    leaves: tuple[dict[str, Any], dict[str, Any]],
    inputs: PyTree,
    *,
    batch_size: int | None = None,
) -> ActivationMoments:
    """`activation_moments` of networks that are checked, bound and named by leaf already.

    Args:
        applies: static; of A, and of B, or None where A's serves both.
        spec: static, bound to A.
        params: of A and of B, traced.
        leaves: those of A and of B by name, traced.
        inputs: as for `activation_moments`.
        batch_size: as for `activation_moments`.

    Raises:
        ValueError: a kernel of the spec whose inputs are others in the program, no samples, a batch
            size below 1.
    """
    apply, apply_b = applies
    params_a, params_b = params
    leaves_a, leaves_b = leaves
    measured = _measured_kernels(spec)
    tap_a = KernelTap(apply, spec, list(leaves_a))
    # networks of the same shapes share a tap, so that their program is interpreted once
    tap_b = tap_a if apply_b is None else KernelTap(apply_b, spec, list(leaves_b))
    network_a = _Network(tap_a, params_a, leaves_a)
    network_b = _Network(tap_b, params_b, leaves_b)
    if batch_size is None:
        batch_size = _largest_batch(measured, network_a, inputs)
    found = stream_moments(
        measured.activations,
        network_a,
        network_b,
        inputs,
        batch_size=batch_size,
        one_hot=measured.one_hot(),
    )
    return ActivationMoments(
        inputs=_of_field("inputs", found),
        outputs=_of_field("outputs", found),
        across=_of_field("across", found) or None,
    )


class _Network(NamedTuple):
    """One network, ready to be run on batch after batch."""

    tap: KernelTap
    params: PyTree
    leaves: dict[str, Any]  # the parameters by name


@dataclasses.dataclass(frozen=True)
class _MeasuredKernels:
    """Which activations are measured, as flat names `"field kernel"` that `stream_moments` takes.

    Attributes:
        kernels: those of the spec, by name.
        unread: those that write a group that no kernel reads; experts among the outputs.
        across: those with experts; these among the inputs.
    """

    kernels: dict[str, Kernel]
    unread: list[Kernel]
    across: list[Kernel]

    def one_hot(self) -> set[str]:
        """Which of the activations are one-hot vectors."""
        names = set()
        for kernel in self.kernels.values():
            if kernel.lookup:
                names.add(f"inputs {kernel.name}")
        return names

    def activations(self, network: _Network, inputs: PyTree) -> dict[str, Array]:
        """What is measured of one network on one batch, `[*batch, num_samples, features]`."""
        seen = network.tap(network.params, inputs)
        named = {f"inputs {name}": values for name, values in seen.items()}
        for joined in self.unread:
            if joined.name in seen:
                leaf = network.leaves[joined.leaf]
                named[f"outputs {joined.name}"] = self._outputs(joined, leaf, seen[joined.name])
        for joined in self.across:
            if joined.name in seen:
                before = input_layout(self.kernels[joined.name])
                after = input_layout(joined)
                shape = jnp.shape(network.leaves[joined.leaf])
                values = change_layout(seen[joined.name], shape, before, after)
                named[f"across {joined.name}"] = values
        return named

    def _outputs(self, joined: Kernel, leaf: ArrayLike, seen: Array) -> Array:
        """What a kernel puts out, its experts side by side."""
        kernel = self.kernels[joined.name]
        shape = jnp.shape(leaf)
        before = output_layout(kernel, len(shape))
        after = output_layout(joined, len(shape))
        outputs = kernel_outputs(kernel, jnp.asarray(leaf), seen)
        return change_layout(outputs, shape, before, after)


def _measured_kernels(spec: PermutationSpec) -> _MeasuredKernels:
    kernels = {kernel.name: kernel for kernel in spec.kernels}
    joined_inputs = join_inputs(spec)
    joined_outputs = join_outputs(spec)
    unread: dict[Kernel, None] = {}  # a set in a fixed order
    for group in spec.groups:
        if not any(joined_inputs.readers(group)):
            for kernel, _ in joined_outputs.writers(group):
                unread[kernel] = None
    across = []
    for kernel in joined_inputs.kernels:
        if kernel != kernels[kernel.name]:
            across.append(kernel)
    return _MeasuredKernels(kernels, list(unread), across)


def _largest_batch(measured: _MeasuredKernels, network: _Network, inputs: PyTree) -> int:
    """How many samples' activations fit `_BATCH_BYTES`, at most `_LARGEST_BATCH`."""
    num_samples = count_samples(inputs)

    def one_sample(array: ArrayLike) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *jnp.shape(array)[1:]), jnp.result_type(array))

    # one sample, since that is what stream_moments runs first: the program is interpreted already
    sample = jax.tree.map(one_sample, inputs)
    activations = jax.eval_shape(functools.partial(measured.activations, network), sample)
    bytes_per_sample = 0
    for array in activations.values():
        bytes_per_sample += math.prod(array.shape) * array.dtype.itemsize
    fitting = _BATCH_BYTES // max(bytes_per_sample, 1)
    return max(1, min(_LARGEST_BATCH, num_samples, fitting))


def _of_field(field: str, found: dict[str, Moments]) -> dict[str, Moments]:
    """The moments of one field of the result, by kernel."""
    prefix = f"{field} "
    moments = {}
    for name, value in found.items():
        if name.startswith(prefix):
            moments[name.removeprefix(prefix)] = value
    return moments
