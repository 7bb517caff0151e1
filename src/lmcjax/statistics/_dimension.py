"""How many dimensions a second moment effectively fills."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num

from lmcjax._dtypes import accumulation_dtype


def approximate_dimension(matrix: Num[ArrayLike, "n n"]) -> Float[Array, ""]:
    """`Dim(M) = (tr M)^2 / tr(M^2)` of a symmetric positive semi-definite matrix.

    A pure number between 1 and the rank of M, unchanged by scaling M; nan for M = 0. Traced,
    differentiable.

    Raises:
        ValueError: not a square matrix.

    Source: the paper, Section 6 (there of `W^T W`, `W S W^T` and the activations' second moment).
    """
    shape = jnp.shape(matrix)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(
            f"matrix has shape {shape}, expected a square one; use jax.vmap for batches"
        )
    matrix = jnp.asarray(matrix, accumulation_dtype(matrix))
    # in this unit, squares neither overflow nor vanish; the result does not depend on the unit
    unit = jax.lax.stop_gradient(jnp.max(jnp.abs(matrix)))
    matrix = matrix / unit
    return jnp.trace(matrix) ** 2 / jnp.sum(matrix * matrix.T)
