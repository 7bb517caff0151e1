"""The cross-entropy that training and evaluation share."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int


def are_classes(
    logits: Float[Array, "num_samples num_classes"], labels: Int[ArrayLike, " num_samples"]
) -> Bool[Array, " num_samples"]:
    """Which labels are one of the classes `0 .. num_classes - 1`."""
    labels = jnp.asarray(labels)
    return (labels >= 0) & (labels < logits.shape[-1])


def cross_entropies(
    logits: Float[Array, "num_samples num_classes"], labels: Int[ArrayLike, " num_samples"]
) -> Float[Array, " num_samples"]:
    """`-log softmax(logits)[label]` of each sample, in nats; nan where the label is no class.

    Without that, the gather of the label's logit would take -1 for the last class.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels))
    return jnp.where(are_classes(logits, labels), losses, jnp.nan)
