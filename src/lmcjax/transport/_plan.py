"""The exact transport plan between two clouds of different sizes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Num

from lmcjax._dtypes import accumulation_dtype
from lmcjax.transport._assignment import AssignmentBackend, linear_assignment

# At this size SciPy takes seconds, and the matrix in float64 128 MiB.
_MAX_COPIES = 4096


def exact_plan(
    cost: Num[ArrayLike, "n_a n_b"], *, maximize: bool = False, backend: AssignmentBackend = "auto"
) -> Float[Array, "n_a n_b"]:
    """The exact transport plan `argmin_P <P, cost>` (or argmax) between two uniform distributions.

    The weights are `1 / n_a` and `1 / n_b`. Every row is repeated `L / n_a` times and every column
    `L / n_b` times, with L the least common multiple of the sizes. The vertices of the plans with
    integer margins are integer, so the optimum is an assignment of the copies. Where one size
    divides the other, L is the larger of the two. Gradients stop at `cost`.

    Args:
        cost: traced, any unit; where an entry is nan or inf, the plan of the identity on the copies
            comes back.
        maximize: static.
        backend: static, see `linear_assignment`.

    Returns:
        A plan that sums to 1, in the float precision of `cost`, at least float32; one of the best
        if there are several.

    Raises:
        ValueError: `cost` is no matrix or is complex, or L is more than 4,096: take `sinkhorn_plan`
            with a small epsilon there.
    """
    shape = jnp.shape(cost)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"cost has shape {shape}, expected a matrix [n_a, n_b]; use jax.vmap for batches"
        )
    n_a, n_b = shape
    num_copies = math.lcm(n_a, n_b)
    if num_copies > _MAX_COPIES:
        raise ValueError(
            f"the exact plan between {n_a} and {n_b} is an assignment of {num_copies} copies, "
            f"more than {_MAX_COPIES}: use the entropic plan"
        )
    copies_per_row = num_copies // n_a
    copies_per_column = num_copies // n_b
    # NumPy's 64-bit integers stay NumPy's: without x64, JAX would cut off their upper 32 bits.
    numpy = jnp if isinstance(cost, jax.Array) else np
    repeated = numpy.repeat(cost, copies_per_row, axis=0)
    repeated = numpy.repeat(repeated, copies_per_column, axis=1)
    column_copies = linear_assignment(repeated, maximize=maximize, backend=backend)

    rows = jnp.arange(num_copies, dtype=jnp.int32) // copies_per_row
    columns = column_copies // copies_per_column
    dtype = accumulation_dtype(cost)
    weight_of_copy = jnp.asarray(1 / num_copies, dtype)
    return jnp.zeros(shape, dtype).at[rows, columns].add(weight_of_copy)
