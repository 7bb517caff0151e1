"""Losses of a network over a data set, with flat memory."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from lmcjax._cross_entropy import are_classes, cross_entropies

Data: TypeAlias = tuple[ArrayLike, ArrayLike]
"""`(inputs, labels)`, each with a leading axis of samples; or a NamedTuple of the two."""


class LossAndAccuracy(NamedTuple):
    """Means over a set of samples."""

    loss: Float[Array, ""]  # cross-entropy in nats
    accuracy: Float[Array, ""]  # share of samples whose largest logit is the label's


def cross_entropy_and_accuracy(
    logits: Float[Array, "num_samples num_classes"], labels: Int[ArrayLike, " num_samples"]
) -> LossAndAccuracy:
    """Mean cross-entropy `-log softmax(logits)[label]` in nats, and the share of right answers.

    Both are nan where some label is no class, negative or too large.
    """
    loss = cross_entropies(logits, labels).mean()
    right = jnp.argmax(logits, axis=-1) == jnp.asarray(labels)
    accuracy = jnp.mean(right, dtype=loss.dtype)
    known = are_classes(logits, labels).all()
    return LossAndAccuracy(loss, jnp.where(known, accuracy, jnp.nan))


def batched_loss(
    apply: Callable[[PyTree, Array], Any],
    loss: Callable[[Any, Array], Any],
    data: Data,
    batch_size: int = 1000,
) -> Callable[[PyTree], Any]:
    """A `loss_fn(params)` over a whole data set that holds one batch of activations at a time.

    Args:
        apply: static; `apply(params, inputs)` gives the outputs.
        loss: static; `loss(outputs, labels)` gives the mean over the batch: a scalar, or a
            NamedTuple of scalars like `cross_entropy_and_accuracy`.
        data: `(inputs, labels)`; arrays, traced or not.
        batch_size: static; the last batch may be short, and counts by its size.

    Returns:
        A pure function of the parameters, for `linear_barrier`; differentiable if `apply` and
        `loss` are.

    Raises:
        ValueError: no samples, inputs and labels that differ in number, a batch size below 1; from
            the returned function, a loss that is no scalar.
    """
    inputs, labels = data
    num_samples = jnp.shape(inputs)[0]
    if num_samples == 0:
        raise ValueError(f"the loss of an empty data set: inputs have shape {jnp.shape(inputs)}")
    if jnp.shape(labels)[0] != num_samples:
        raise ValueError(f"{num_samples} inputs but {jnp.shape(labels)[0]} labels")
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, not {batch_size}")
    batch_size = min(batch_size, num_samples)
    end = num_samples - num_samples % batch_size  # of the whole batches

    def mean_loss(params: PyTree, x: Array, y: Array) -> Any:
        values = loss(apply(params, x), y)
        for value in jax.tree.leaves(values):
            if jnp.shape(value) != ():
                raise ValueError(
                    f"loss returned an array of shape {jnp.shape(value)}, expected a scalar: "
                    "the mean over the batch"
                )
        return values

    def loss_fn(params: PyTree) -> Any:
        x = jnp.asarray(inputs)
        y = jnp.asarray(labels)

        def of_batch(start: Array) -> Any:
            batch_x = jax.lax.dynamic_slice_in_dim(x, start, batch_size)
            batch_y = jax.lax.dynamic_slice_in_dim(y, start, batch_size)
            return mean_loss(params, batch_x, batch_y)

        means = jax.lax.map(of_batch, jnp.arange(0, end, batch_size))
        total = jax.tree.map(lambda mean: mean.sum(0) * batch_size, means)
        num_rest = num_samples - end
        if num_rest > 0:
            rest = mean_loss(params, x[end:], y[end:])
            total = jax.tree.map(lambda whole, mean: whole + mean * num_rest, total, rest)
        return jax.tree.map(lambda value: value / num_samples, total)

    return loss_fn
