"""What a search makes small: functions of A, of B in A's place, and of a key."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax.interpolation import interpolate
from lmcjax.matching._pair import is_floating
from lmcjax.matching._real import check_real_leaves
from lmcjax.matching._similarities import metric_of
from lmcjax.matching._similarity import Similarity
from lmcjax.symmetry import PermutationSpec, check_same_shapes, named_leaves

PairLoss: TypeAlias = Callable[[PyTree, PyTree, Key[Array, ""]], Float[Array, ""]]
"""`loss(params_a, aligned_b, key)`, smaller is better; any function of that kind will do."""


def weight_distance(
    params_a: PyTree, params_b: PyTree, key: Key[Array, ""] | None = None
) -> Float[Array, ""]:
    """The squared distance `sum ||A - B||^2` over all leaves of floating point.

    Accumulated in float32 at least.

    Args:
        params_a, params_b: traced, of the same structure and shapes.
        key: not used.

    Raises:
        ValueError: the trees differ, or a leaf is complex; the leaf is named.
    """
    del key
    differences = _differences(params_a, params_b)
    return _sum([jnp.sum(difference**2) for difference in differences.values()])


def covariance_distance(spec: PermutationSpec, similarity: Similarity) -> PairLoss:
    """The loss `sum ||W_A - W_B||_S^2`: the distance of weights in the metric of a similarity.

    `||D||_S^2 = tr(D S D^T)`. For `Covariance(moments)`, S is the uncentred second moment of what
    A's kernel sees, divided by N - 1: but for that divisor the mean squared change of `W phi` when
    B's kernel stands in A's network. Other leaves (biases, scales) count by their squared distance.

    Args:
        spec: static; its kernels are compared in the metric.
        similarity: one that defines a metric on kernels, such as `Covariance(moments)`. With
            `Weights()` this is `weight_distance`.

    Raises:
        ValueError: a similarity without a metric. When the loss is called: there are no moments of
            a kernel that the spec acts on, they are of another size, or a leaf is complex.

    Source: the paper, Section 6.
    """
    metric = metric_of(similarity)
    if metric is None:
        return weight_distance
    acted_on = dict(spec.leaves)

    def loss(
        params_a: PyTree, params_b: PyTree, key: Key[Array, ""] | None = None
    ) -> Float[Array, ""]:
        del key
        terms = []
        for name, difference in _differences(params_a, params_b).items():
            kernels = []
            if name in acted_on:
                kernels = [k for k in spec.kernels if k.leaf == name and k.inputs]
            for kernel in kernels:
                weighed = metric.weigh(kernel, difference)
                terms.append(jnp.sum(difference.astype(weighed.dtype) * weighed))
            if not kernels:
                terms.append(jnp.sum(difference**2))
        return _sum(terms)

    return loss


def _differences(params_a: PyTree, params_b: PyTree) -> dict[str, Array]:
    """A less B, leaf by leaf, of leaves of floating point, in float32 at least."""
    check_same_shapes(params_a, params_b)
    check_real_leaves(params_a, params_b)
    leaves_b = named_leaves(params_b)
    differences = {}
    for name, leaf_a in named_leaves(params_a).items():
        if is_floating(leaf_a):
            dtype = accumulation_dtype(leaf_a, leaves_b[name])
            differences[name] = jnp.asarray(leaf_a, dtype) - jnp.asarray(leaves_b[name], dtype)
    return differences


def _sum(terms: list[Array]) -> Array:
    dtype = accumulation_dtype(*terms)
    total = jnp.zeros((), dtype)
    for term in terms:
        total = total + term.astype(dtype)
    return total


def midpoint_loss(
    apply: Callable[[PyTree, Array], Array],
    loss: Callable[[Array, Array], Array],
    data: tuple[ArrayLike, ArrayLike],
    *,
    batch_size: int | None = None,
) -> PairLoss:
    """The loss at `(A + B) / 2`: the height of the middle of the straight line.

    Args:
        apply: static; `apply(params, inputs)` gives the outputs.
        loss: static; `loss(outputs, labels)` is the mean over the samples, a scalar.
        data: `(inputs, labels)`, traced or not.
        batch_size: static; so many samples are drawn with the key, with replacement. None: all of
            them, at once.

    Raises:
        ValueError: no samples, inputs and labels that differ in number, a batch size below 1.

    Source: Pena et al. (2023), Section 3.3.
    """
    return _loss_on_the_line(apply, loss, data, batch_size, _middle)


def random_point_loss(
    apply: Callable[[PyTree, Array], Array],
    loss: Callable[[Array, Array], Array],
    data: tuple[ArrayLike, ArrayLike],
    *,
    batch_size: int | None = None,
) -> PairLoss:
    """The loss at `(1 - t) A + t B`, t uniformly random in [0, 1): the whole line, on average.

    Arguments and errors as `midpoint_loss`; t is drawn with the key.

    Source: Pena et al. (2023), Section 3.3.
    """
    return _loss_on_the_line(apply, loss, data, batch_size, jax.random.uniform)


def _middle(key: Array) -> float:
    del key
    return 0.5


def _loss_on_the_line(
    apply: Callable[[PyTree, Array], Array],
    loss: Callable[[Array, Array], Array],
    data: tuple[ArrayLike, ArrayLike],
    batch_size: int | None,
    draw_t: Callable[[Array], float | Array],
) -> PairLoss:
    """The loss at a point of the line that is drawn with a key."""
    num_samples = jnp.shape(data[0])[0]
    num_labels = jnp.shape(data[1])[0]
    if num_samples == 0 or num_samples != num_labels:
        raise ValueError(
            f"data have {num_samples} inputs and {num_labels} labels, "
            "expected as many of both, at least 1"
        )
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is at least 1, not {batch_size}")

    def loss_of_pair(params_a: PyTree, params_b: PyTree, key: Key[Array, ""]) -> Float[Array, ""]:
        inputs = jnp.asarray(data[0])
        labels = jnp.asarray(data[1])
        key_of_t, key_of_batch = jax.random.split(key)
        if batch_size is not None:
            drawn = jax.random.randint(key_of_batch, (batch_size,), 0, num_samples)
            inputs = inputs[drawn]
            labels = labels[drawn]
        between = interpolate(params_a, params_b, draw_t(key_of_t))
        return loss(apply(between, inputs), labels)

    return loss_of_pair
