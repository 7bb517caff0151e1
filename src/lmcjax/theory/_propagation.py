"""How far a path between two networks can leave them: Lemma 4.1 with numbers, and measurements."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax.interpolation import interpolate
from lmcjax.statistics import ActivationMoments
from lmcjax.symmetry import (
    Kernel,
    PermutationSpec,
    check_same_shapes,
    kernel_inputs,
    kernel_matrix,
    named_leaves,
)


class Propagation(NamedTuple):
    """Upper bounds by `propagate`; `vmap` prepends axes to every field.

    Layers are named by their kernels.
    """

    points: Float[Array, " num_points"]  # t, from 0 (A) to 1 (B)
    # ||W_B - W_A||_S, S what A's layer sees; the unit of the layer's outputs.
    distances: dict[str, Float[Array, ""]]
    # Bounds on e_l(t), the root mean squared distance to A's layer, and the same to B's layer.
    from_a: dict[str, Float[Array, " num_points"]]
    from_b: dict[str, Float[Array, " num_points"]]
    # Bounds on the root mean squared distance of the outputs to (1 - t) f_A + t f_B.
    chord: Float[Array, " num_points"]
    finite: Bool[Array, ""]  # False: some distance or norm is nan or inf, ignore the bounds


class PathDeviation(NamedTuple):
    """What `path_deviation` measures: the quantities that `Propagation` bounds.

    They are root mean squares over the inputs; `vmap` prepends axes to every field.
    """

    points: Float[Array, " num_points"]
    from_a: dict[str, Float[Array, " num_points"]]  # e_l(t)
    from_b: dict[str, Float[Array, " num_points"]]
    chord: Float[Array, " num_points"]
    finite: Bool[Array, ""]


class _Layer(NamedTuple):
    """A dense layer of a chain."""

    kernel: Kernel
    bias: str | None  # name of the leaf


class _LayerChange(NamedTuple):
    """How a layer differs between the two networks, on the whole path."""

    distance_a: Array  # ||W_B - W_A|| in the second moment of what A's layer sees
    distance_b: Array  # the same, of what B's layer sees
    norms: Array  # [num_points], the operator norm of the kernel


def propagate(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    moments: ActivationMoments,
    *,
    num_points: int = 25,
    lipschitz: float | Float[ArrayLike, ""] = 1.0,
) -> Propagation:
    """Bound how far a path leaves both networks, by the distances of their matched layers.

    With `e_l(t) = (mean_x ||phi_l^t - phi_l^A||^2)^(1/2)`, `e_0 = 0`, s the activation's Lipschitz
    constant,

        e_{l+1}(t) <= s (t ||W_{l+1}^B - W_{l+1}^A||_{S_l} + ||W_{l+1}^t||_op e_l(t)),
        ||M||_S^2 = tr(M S M^T),

    where S_l is the uncentred second moment of what A's layer sees, divided by N. A bias is a
    weight of a further input, equal to 1. It counts in the distance and not in the operator norm,
    because that input does not deviate. The last layer has no activation. The same from B's end
    bounds the distance to B, and `(1 - t) from_a + t from_b` that to the chord of the outputs. All
    this is proven; nothing is calibrated. Mean squares are over the inputs of the moments.

    For a loss that is L-Lipschitz in the outputs, `chord` times L bounds the loss above its chord,
    hence the barrier at these points. L is sqrt(2) for the cross-entropy of logits, which needs no
    convexity. Bounds hold up to rounding. They grow with every layer by the operator norm, so for
    deep networks they are loose.

    The networks are chains of dense layers `activation(x W + b)` with an entrywise activation. A
    spec shows what the leaves are and not how they are used, so the caller has to know that a
    vector is a bias and not a scale.

    Args:
        spec: static.
        params_a, params_b: traced; permute B first.
        moments: `activation_moments` of these two, B permuted; traced.
        num_points: static, at least 2.
        lipschitz: s, traced; 1 for ReLU, tanh and leaky ReLU, 1/4 for the sigmoid, 1.13 for GELU.

    Raises:
        ValueError: no chain of dense layers, shapes that differ, a kernel without moments, fewer
            than 2 points.

    Source: the paper, Lemma 4.1, with the constants of given networks in place of the assumptions'.
    """
    check_same_shapes(params_a, params_b)
    layers = _chain(spec, params_a)
    points = _points(num_points)
    leaves_a = named_leaves(params_a)
    leaves_b = named_leaves(params_b)
    distances_a: dict[str, Array] = {}
    distances_b: dict[str, Array] = {}
    norms: dict[str, Array] = {}
    for layer in layers:
        change = _layer_change(layer, leaves_a, leaves_b, moments, points)
        distances_a[layer.kernel.name] = change.distance_a
        distances_b[layer.kernel.name] = change.distance_b
        norms[layer.kernel.name] = change.norms

    scale = jnp.asarray(lipschitz)
    from_a = _recursion(points, distances_a, norms, scale)
    from_b = _recursion(1 - points, distances_b, norms, scale)
    last = layers[-1].kernel.name
    t = points.astype(from_a[last].dtype)
    chord = (1 - t) * from_a[last] + t * from_b[last]
    finite = _all_finite([*from_a.values(), *from_b.values()])
    return Propagation(points, distances_a, from_a, from_b, chord, finite)


def path_deviation(
    apply: Callable[[PyTree, Any], Array],
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    inputs: Array,
    *,
    num_points: int = 25,
) -> PathDeviation:
    """Measure how far layers and outputs on the path are from both networks', as in `propagate`.

    All inputs pass at once, one point after the other.

    Args:
        apply: static; `apply(params, inputs)` gives the last kernel's outputs `[num_samples, n]`.
        spec: static; of a chain of dense layers.
        params_a, params_b: traced; permute B first.
        inputs: traced, with a leading axis of samples.
        num_points: static, at least 2.

    Raises:
        ValueError: as `propagate`.
    """
    check_same_shapes(params_a, params_b)
    names = [layer.kernel.name for layer in _chain(spec, params_a)]
    last = names[-1]
    points = _points(num_points)

    def layer_outputs(params: PyTree) -> dict[str, Array]:
        """What each layer puts out: what the next kernel sees, or the network's outputs."""
        seen = kernel_inputs(apply, spec.bind(params), params, inputs)
        outputs = apply(params, inputs)
        values = [seen[name] for name in names[1:]]
        values.append(outputs.reshape(outputs.shape[0], -1))
        by_layer = {}
        for name, value in zip(names, values, strict=True):
            by_layer[name] = jnp.asarray(value, accumulation_dtype(value))
        return by_layer

    outputs_a = layer_outputs(params_a)
    outputs_b = layer_outputs(params_b)

    def deviations(t: Array) -> tuple[dict[str, Array], dict[str, Array], Array]:
        """The distances to A, to B and to the chord at one point."""
        here = layer_outputs(interpolate(params_a, params_b, t))
        from_a = {}
        from_b = {}
        for name in names:
            from_a[name] = _root_mean_square(here[name] - outputs_a[name])
            from_b[name] = _root_mean_square(here[name] - outputs_b[name])
        weight = t.astype(here[last].dtype)
        chord = (1 - weight) * outputs_a[last] + weight * outputs_b[last]
        return from_a, from_b, _root_mean_square(here[last] - chord)

    from_a, from_b, chord = jax.lax.map(deviations, points)
    finite = _all_finite([*from_a.values(), *from_b.values(), chord])
    return PathDeviation(points, from_a, from_b, chord, finite)


def _points(num_points: int) -> Array:
    """Evenly spaced t from 0 to 1."""
    if num_points < 2:
        raise ValueError(f"a path has at least 2 points, not num_points={num_points}")
    return jnp.asarray(np.arange(num_points) / (num_points - 1), jnp.result_type(float))


def _all_finite(arrays: list[Array]) -> Array:
    """Whether no entry of any array is nan or inf."""
    each = [jnp.isfinite(array).all() for array in arrays]
    return jnp.stack(each).all()


def _root_mean_square(difference: Array) -> Array:
    """The root mean squared norm of vectors, `(mean_x ||d(x)||^2)^(1/2)`."""
    return jnp.sqrt(jnp.mean(jnp.sum(difference**2, axis=-1)))


def _layer_change(
    layer: _Layer,
    leaves_a: dict[str, Array],
    leaves_b: dict[str, Array],
    moments: ActivationMoments,
    points: Array,
) -> _LayerChange:
    """Compare a layer of the two networks."""
    kernel = layer.kernel
    if kernel.name not in moments.inputs:
        raise ValueError(
            f"kernel {kernel.name!r} has no moments, only {sorted(moments.inputs)} have"
        )
    seen = moments.inputs[kernel.name]
    dtype = accumulation_dtype(leaves_a[kernel.leaf], seen.mean_a)
    weights_a = jnp.asarray(kernel_matrix(kernel, leaves_a[kernel.leaf]), dtype)
    weights_b = jnp.asarray(kernel_matrix(kernel, leaves_b[kernel.leaf]), dtype)
    step = weights_b - weights_a
    shift: Array | int = 0
    if layer.bias is not None:
        bias_a = jnp.asarray(leaves_a[layer.bias], dtype)
        bias_b = jnp.asarray(leaves_b[layer.bias], dtype)
        shift = bias_b - bias_a

    # Only look-ups of tokens have no covariance, and a chain has none.
    assert seen.centred_aa is not None
    assert seen.centred_bb is not None
    covariance_a = (seen.centred_aa / seen.num_samples).astype(dtype)
    covariance_b = (seen.centred_bb / seen.num_samples).astype(dtype)
    return _LayerChange(
        distance_a=_distance(step, shift, seen.mean_a.astype(dtype), covariance_a),
        distance_b=_distance(step, shift, seen.mean_b.astype(dtype), covariance_b),
        norms=jax.lax.map(functools.partial(_operator_norm, weights_a, step), points.astype(dtype)),
    )


def _distance(step: Array, shift: Array | int, mean: Array, covariance: Array) -> Array:
    """The norm of `[W, b]` in the second moment of `[phi, 1]`.

    It is the root of `tr(W^T C W) + ||W^T mean + b||^2`.
    """
    exact = jax.lax.Precision.HIGHEST
    spread = jnp.sum(step * jnp.matmul(covariance, step, precision=exact))
    offset = jnp.matmul(mean, step, precision=exact) + shift
    return jnp.sqrt(jnp.maximum(spread, 0) + jnp.sum(offset**2))


def _operator_norm(weights: Array, step: Array, t: Array) -> Array:
    """The largest singular value of a kernel on the path."""
    here = weights + t * step
    if here.shape[0] > here.shape[1]:
        here = here.T  # for the smaller of the two Gram matrices
    gram = jnp.matmul(here, here.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(gram)[-1], 0))


def _recursion(
    points: Array, distances: dict[str, Array], norms: dict[str, Array], scale: Array
) -> dict[str, Array]:
    """The bound on every layer's deviation from one end, `points` away from it."""
    last = list(distances)[-1]
    bounds: dict[str, Array] = {}
    before: Array | None = None
    for name, distance in distances.items():
        bound = points.astype(distance.dtype) * distance
        if before is not None:
            bound = bound + norms[name] * before
        if name != last:  # the last layer has no activation
            bound = bound * scale.astype(bound.dtype)
        bounds[name] = bound
        before = bound
    return bounds


def _chain(spec: PermutationSpec, params: PyTree) -> list[_Layer]:
    """The layers of a chain of dense kernels, each with its bias.

    Raises:
        ValueError: says what is in the way.
    """
    spec = spec.bind(params)
    leaves = named_leaves(params)
    kernels = list(spec.kernels)
    for kernel in kernels:
        shape = jnp.shape(leaves[kernel.leaf])
        if len(shape) != 2 or kernel.lookup or kernel.batch:
            raise ValueError(f"leaf {kernel.leaf!r} of shape {shape} is no dense kernel")
    _check_links(spec, kernels)

    # Leaves that are no kernels, by the group that permutes them: candidates for biases.
    group_of_leaf: dict[str, str | None] = dict.fromkeys(leaves)
    for group in spec.groups:
        for place in spec.places(group):
            group_of_leaf[place.leaf] = group
    for kernel in kernels:
        group_of_leaf.pop(kernel.leaf, None)  # two kernels may be made of one leaf

    layers = []
    # A hidden layer writes the group between it and the next; nothing permutes the outputs.
    written_groups = (*spec.groups, None)
    for kernel, written_group in zip(kernels, written_groups, strict=True):
        names = [name for name, group in group_of_leaf.items() if group == written_group]
        candidates = {name: leaves[name] for name in names}
        layers.append(_Layer(kernel, _find_bias(kernel, leaves[kernel.leaf], candidates)))
    return layers


def _find_bias(kernel: Kernel, leaf: Array, candidates: dict[str, Array]) -> str | None:
    """The name of a kernel's bias among the leaves that its neurons have, if there is any.

    Raises:
        ValueError: there are several, or one of another shape.
    """
    width = jnp.shape(kernel_matrix(kernel, leaf))[-1]
    shapes = {name: jnp.shape(candidate) for name, candidate in candidates.items()}
    if len(shapes) > 1 or set(shapes.values()) - {(width,)}:
        raise ValueError(
            f"kernel {kernel.name!r} has at most one bias of shape {(width,)}, not {shapes}"
        )
    return next(iter(candidates), None)


def _check_links(spec: PermutationSpec, kernels: list[Kernel]) -> None:
    """Check that each group is written by one kernel and read by the next.

    Raises:
        ValueError: shows which kernels write and read each group.
    """
    links = {}
    for group in spec.groups:
        writers = [kernel.name for kernel, _ in spec.writers(group)]
        readers = [kernel.name for kernel, _ in spec.readers(group)]
        links[group] = (writers, readers)
    expected = []
    for first, second in itertools.pairwise(kernels):
        expected.append(([first.name], [second.name]))
    if list(links.values()) != expected:
        names = [kernel.name for kernel in kernels]
        raise ValueError(
            f"the kernels {names} are no chain: groups are written and read by {links}"
        )
