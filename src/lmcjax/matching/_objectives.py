"""What a learned or searched matching makes small: functions of A, of B in A's place, and of a key."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax.interpolation import interpolate
from lmcjax.matching._real import check_real_leaves
from lmcjax.matching._similarity import in_metric, input_moments
from lmcjax.statistics import ActivationMoments
from lmcjax.symmetry import PermutationSpec, check_same_shapes, named_leaves

Objective: TypeAlias = Callable[[PyTree, PyTree, Key[Array, ""]], Float[Array, ""]]
"""`objective(params_a, aligned_b, key)`, smaller is better; any function of that kind will do."""


def weight_distance(params_a: PyTree, params_b: PyTree, key: Key[Array, ""] | None = None) -> Float[Array, ""]:
    """The squared distance `sum ||A - B||^2` over all leaves of floating point, accumulated in float32 at least.

    Args:
        params_a, params_b: traced, of the same structure and shapes.
        key: not used.

    Raises:
        ValueError: the trees differ, or a leaf is complex; the leaf is named.
    """
    del key
    check_same_shapes(params_a, params_b)
    return _sum([jnp.sum(d**2) for d in _differences(params_a, params_b).values()])


def covariance_distance(spec: PermutationSpec, moments: ActivationMoments) -> Objective:
    """The objective `sum ||W_A - W_B||_S^2`, the distance of weights in the metric of the covariance matching.

    `||D||_S^2 = tr(D S D^T)`, S the uncentred second moment of what A's kernel sees, divided by N - 1: but for that
    divisor the mean squared change of `W phi` when B's kernel stands in A's network. Other leaves (biases, scales)
    count by their squared distance. For every matching that takes an objective; those by inner products have `metric`.

    Args:
        spec: static; its kernels are compared in the metric.
        moments: what `activation_moments` returns, traced; network A's are read.

    Raises:
        ValueError: there are no moments of a kernel that the spec acts on, they are of another size, or a leaf is
            complex.

    Source: the paper, Section 6.
    """

    def objective(params_a: PyTree, params_b: PyTree, key: Key[Array, ""] | None = None) -> Float[Array, ""]:
        del key
        check_same_shapes(params_a, params_b)
        differences = _differences(params_a, params_b)
        terms = []
        for name, difference in differences.items():
            kernels = [k for k in spec.kernels if k.leaf == name and k.inputs and name in dict(spec.leaves)]
            for kernel in kernels:
                moved = in_metric(kernel, difference, input_moments(kernel, difference, moments))
                terms.append(jnp.sum(difference.astype(moved.dtype) * moved))
            if not kernels:
                terms.append(jnp.sum(difference**2))
        return _sum(terms)

    return objective


def _differences(params_a: PyTree, params_b: PyTree) -> dict[str, Array]:
    """A less B by leaf, of leaves of floating point, in float32 at least."""
    check_real_leaves(params_a, params_b)
    leaves_b, found = named_leaves(params_b), {}
    for name, a in named_leaves(params_a).items():
        if jnp.issubdtype(jnp.result_type(a), jnp.inexact):
            dtype = accumulation_dtype(a, leaves_b[name])
            found[name] = jnp.asarray(a, dtype) - jnp.asarray(leaves_b[name], dtype)
    return found


def _sum(terms: list[Array]) -> Array:
    dtype = accumulation_dtype(*terms)
    return sum((term.astype(dtype) for term in terms), jnp.zeros((), dtype))


def midpoint_loss(
    apply: Callable[[PyTree, Array], Array],
    loss: Callable[[Array, Array], Array],
    data: tuple[ArrayLike, ArrayLike],
    *,
    batch_size: int | None = None,
) -> Objective:
    """The objective `loss((A + B) / 2)`: the height of the middle of the straight line.

    Args:
        apply: static; `apply(params, inputs)` gives the outputs.
        loss: static; `loss(outputs, labels)` is the mean over the samples, a scalar.
        data: `(inputs, labels)`, traced or not.
        batch_size: static; so many samples are drawn with the key, with replacement. None: all of them, at once.

    Raises:
        ValueError: no samples, inputs and labels that differ in number, a batch size below 1.

    Source: Pena et al. (2023), Section 3.3.
    """
    return _along_the_line(apply, loss, data, batch_size, lambda key: 0.5)


def random_point_loss(
    apply: Callable[[PyTree, Array], Array],
    loss: Callable[[Array, Array], Array],
    data: tuple[ArrayLike, ArrayLike],
    *,
    batch_size: int | None = None,
) -> Objective:
    """The objective `loss((1 - t) A + t B)` at a uniformly random t in [0, 1): the whole line, on average.

    Arguments and errors as `midpoint_loss`; t is drawn with the key.

    Source: Pena et al. (2023), Section 3.3.
    """
    return _along_the_line(apply, loss, data, batch_size, jax.random.uniform)


def _along_the_line(
    apply: Callable[[PyTree, Array], Array],
    loss: Callable[[Array, Array], Array],
    data: tuple[ArrayLike, ArrayLike],
    batch_size: int | None,
    draw: Callable[[Array], float | Array],
) -> Objective:
    num_samples, num_labels = (jnp.shape(array)[0] for array in data)
    if num_samples == 0 or num_samples != num_labels:
        raise ValueError(f"data have {num_samples} inputs and {num_labels} labels, expected as many, at least 1")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is at least 1, not {batch_size}")

    def objective(params_a: PyTree, params_b: PyTree, key: Key[Array, ""]) -> Float[Array, ""]:
        inputs, labels = (jnp.asarray(array) for array in data)
        of_t, of_batch = jax.random.split(key)
        if batch_size is not None:
            drawn = jax.random.randint(of_batch, (batch_size,), 0, num_samples)
            inputs, labels = inputs[drawn], labels[drawn]
        return loss(apply(interpolate(params_a, params_b, draw(of_t)), inputs), labels)

    return objective
