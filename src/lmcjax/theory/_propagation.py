"""How far a path between two networks can leave them: Lemma 4.1 with numbers that can be computed,
and measured.
"""

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
    """Upper bounds by `propagate`; `vmap` prepends axes to every field. Layers are named by their
    kernels.
    """

    points: Float[Array, " num_points"]  # t, from 0 (A) to 1 (B)
    distances: dict[
        str, Float[Array, ""]
    ]  # ||W_B - W_A||_S, S what A's layer sees; the unit of its outputs
    from_a: dict[
        str, Float[Array, " num_points"]
    ]  # on e_l(t), root mean squared distance to A's layer
    from_b: dict[str, Float[Array, " num_points"]]  # the same to B's layer, from the other end
    chord: Float[Array, " num_points"]  # on that of the outputs to (1 - t) f_A + t f_B
    finite: Bool[Array, ""]  # False: some distance or norm is nan or inf, ignore the bounds


class PathDeviation(NamedTuple):
    """What `path_deviation` measures, beside the fields of `Propagation`; root means of squares
    over the inputs.
    """

    points: Float[Array, " num_points"]
    from_a: dict[str, Float[Array, " num_points"]]  # e_l(t)
    from_b: dict[str, Float[Array, " num_points"]]
    chord: Float[Array, " num_points"]
    finite: Bool[Array, ""]


class _Layer(NamedTuple):
    kernel: Kernel
    bias: str | None


def propagate(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    moments: ActivationMoments,
    *,
    num_points: int = 25,
    lipschitz: float | Float[ArrayLike, ""] = 1.0,
) -> Propagation:
    """From the distances of matched layers to a bound on how far the path leaves both networks.

    With `e_l(t) = (mean_x ||phi_l^t - phi_l^A||^2)^(1/2)`, `e_0 = 0`, s the activation's Lipschitz
    constant,

        e_{l+1}(t) <= s (t ||W_{l+1}^B - W_{l+1}^A||_{S_l} + ||W_{l+1}^t||_op e_l(t)),   ||M||_S^2 =
        tr(M S M^T),

    S_l the uncentred second moment of what A's layer sees, divided by N. Biases are weights of a
    further input, equal to 1, in the distance and absent from the operator norm (that input does
    not deviate). The last layer has no activation. The same from B's end bounds the distance to B,
    and `(1 - t) from_a + t from_b` that to the chord of the outputs. Proven; nothing is calibrated.
    Mean squares are over the inputs of the moments.

    For a loss that is L-Lipschitz in the outputs, `chord` times L bounds the loss above its chord,
    hence the barrier at these points: L is sqrt(2) for the cross-entropy of logits, which needs no
    convexity. Up to rounding; and bounds grow with every layer by the operator norm, so for deep
    networks they are loose.

    For chains of dense layers `activation(x W + b)` with an entrywise activation: what the leaves
    are shows a spec, how they are used does not, so it is for the caller to know that a vector is a
    bias and not a scale.

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
    leaves_a, leaves_b = named_leaves(params_a), named_leaves(params_b)
    distances: dict[str, Array] = {}
    distances_b: dict[str, Array] = {}
    norms = {}
    for kernel, bias in layers:
        if kernel.name not in moments.inputs:
            raise ValueError(
                f"kernel {kernel.name!r} has no moments, only {sorted(moments.inputs)} have"
            )
        seen = moments.inputs[kernel.name]
        dtype = accumulation_dtype(leaves_a[kernel.leaf], seen.mean_a)
        weights_a, weights_b = (
            jnp.asarray(kernel_matrix(kernel, x[kernel.leaf]), dtype) for x in (leaves_a, leaves_b)
        )
        step = weights_b - weights_a
        shift = (
            0
            if bias is None
            else jnp.asarray(leaves_b[bias], dtype) - jnp.asarray(leaves_a[bias], dtype)
        )
        for found, mean, centred in (
            (distances, seen.mean_a, seen.centred_aa),
            (distances_b, seen.mean_b, seen.centred_bb),
        ):
            assert centred is not None  # a chain has no look-ups
            found[kernel.name] = _distance(
                step, shift, *(x.astype(dtype) for x in (mean, centred / seen.num_samples))
            )
        norms[kernel.name] = jax.lax.map(
            functools.partial(_operator_norm, weights_a, step), points.astype(dtype)
        )
    scale = jnp.asarray(lipschitz)
    from_a = _recursion(points, distances, norms, scale)
    from_b = _recursion(1 - points, distances_b, norms, scale)
    last = layers[-1].kernel.name
    t = points.astype(from_a[last].dtype)
    chord = (1 - t) * from_a[last] + t * from_b[last]
    finite = jnp.stack([jnp.isfinite(x).all() for x in (*from_a.values(), *from_b.values())]).all()
    return Propagation(points, distances, from_a, from_b, chord, finite)


def path_deviation(
    apply: Callable[[PyTree, Any], Array],
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    inputs: Array,
    *,
    num_points: int = 25,
) -> PathDeviation:
    """How far the layers and the outputs on the path are from both networks', as measured: `e_l(t)`
    of `propagate`.

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
    points = _points(num_points)

    def activations(params: PyTree) -> dict[str, Array]:
        """What each layer puts out: what the next kernel sees."""
        seen = kernel_inputs(apply, spec.bind(params), params, inputs)
        outputs = apply(params, inputs)
        values = [*(seen[name] for name in names[1:]), outputs.reshape(outputs.shape[0], -1)]
        return {
            n: jnp.asarray(v, accumulation_dtype(v)) for n, v in zip(names, values, strict=True)
        }

    ends = activations(params_a), activations(params_b)

    def at(t: Array) -> tuple[dict[str, Array], dict[str, Array], Array]:
        here = activations(interpolate(params_a, params_b, t))
        from_a, from_b = ({n: _root_mean_square(here[n] - end[n]) for n in names} for end in ends)
        weight = t.astype(here[names[-1]].dtype)
        chord = (1 - weight) * ends[0][names[-1]] + weight * ends[1][names[-1]]
        return from_a, from_b, _root_mean_square(here[names[-1]] - chord)

    from_a, from_b, chord = jax.lax.map(at, points)
    finite = jnp.stack(
        [jnp.isfinite(x).all() for x in (*from_a.values(), *from_b.values(), chord)]
    ).all()
    return PathDeviation(points, from_a, from_b, chord, finite)


def _points(num_points: int) -> Array:
    if num_points < 2:
        raise ValueError(f"a path has at least 2 points, not num_points={num_points}")
    return jnp.asarray(np.arange(num_points) / (num_points - 1), jnp.result_type(float))


def _root_mean_square(difference: Array) -> Array:
    """Of vectors: `(mean_x ||d(x)||^2)^(1/2)`."""
    return jnp.sqrt(jnp.mean(jnp.sum(difference**2, axis=-1)))


def _distance(step: Array, shift: Array | int, mean: Array, covariance: Array) -> Array:
    """`||[W, b]||` in the second moment of `[phi, 1]`: `tr(W^T C W) + ||W^T mean + b||^2`, under
    the root.
    """
    exact = jax.lax.Precision.HIGHEST
    spread = jnp.sum(step * jnp.matmul(covariance, step, precision=exact))
    offset = jnp.matmul(mean, step, precision=exact) + shift
    return jnp.sqrt(jnp.maximum(spread, 0) + jnp.sum(offset**2))


def _operator_norm(weights: Array, step: Array, t: Array) -> Array:
    """The largest singular value on the path, by the smaller Gram matrix."""
    here = weights + t * step
    here = here if here.shape[0] <= here.shape[1] else here.T
    gram = jnp.matmul(here, here.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(gram)[-1], 0))


def _recursion(
    points: Array, distances: dict[str, Array], norms: dict[str, Array], scale: Array
) -> dict[str, Array]:
    bounds: dict[str, Array] = {}
    before: Array | None = None
    for number, (name, distance) in enumerate(distances.items(), 1):
        bound = points.astype(distance.dtype) * distance
        if before is not None:
            bound = bound + norms[name] * before
        bounds[name] = before = (
            bound if number == len(distances) else bound * scale.astype(bound.dtype)
        )
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
        if jnp.ndim(leaves[kernel.leaf]) != 2 or kernel.lookup or kernel.batch:
            raise ValueError(
                f"leaf {kernel.leaf!r} of shape {jnp.shape(leaves[kernel.leaf])} is no dense kernel"
            )
    links = [
        ([k for k, _ in spec.writers(g)], [k for k, _ in spec.readers(g)]) for g in spec.groups
    ]
    if links != [([first], [second]) for first, second in itertools.pairwise(kernels)]:
        shown = {
            g: ([k.name for k in w], [k.name for k in r])
            for g, (w, r) in zip(spec.groups, links, strict=True)
        }
        raise ValueError(
            f"the kernels {[k.name for k in kernels]} are no chain: groups are written and read by {shown}"
        )
    used = {kernel.leaf for kernel in kernels}
    owner = {p.leaf: g for g in spec.groups for p in spec.places(g) if p.leaf not in used}
    layers = []
    for kernel, group in zip(kernels, (*spec.groups, None), strict=True):
        biases = [name for name in leaves if name not in used and owner.get(name) == group]
        width = jnp.shape(kernel_matrix(kernel, leaves[kernel.leaf]))[-1]
        if len(biases) > 1 or any(jnp.shape(leaves[name]) != (width,) for name in biases):
            shapes = {name: jnp.shape(leaves[name]) for name in biases}
            raise ValueError(
                f"kernel {kernel.name!r} has at most one bias of shape {(width,)}, not {shapes}"
            )
        layers.append(_Layer(kernel, biases[0] if biases else None))
    return layers
