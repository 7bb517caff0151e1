"""The exact transport plan between two clouds of different sizes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Num

from lmcjax._dtypes import accumulation_dtype
from lmcjax.transport._assignment import AssignmentBackend, linear_assignment

_MAX_COPIES = 4096  # SciPy takes seconds, and the matrix 128 MiB


def exact_plan(
    cost: Num[ArrayLike, "n_a n_b"], *, maximize: bool = False, backend: AssignmentBackend = "auto"
) -> Float[Array, "n_a n_b"]:
    """The transport plan `argmin_P <P, cost>` (or argmax) between uniform weights `1 / n_a` and `1
    / n_b`, exactly.

    Every row is repeated `L / n_a` times and every column `L / n_b` times, L their least common
    multiple: vertices of the plans with integer margins are integer, so the optimum is an
    assignment of the copies. Where one size divides the other, L is the larger of the two.
    Gradients stop at `cost`.

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
    copies = math.lcm(*shape)
    if copies > _MAX_COPIES:
        raise ValueError(
            f"the exact plan between {shape[0]} and {shape[1]} is an assignment of {copies} copies, more than "
            f"{_MAX_COPIES}: use the entropic plan"
        )
    dtype = accumulation_dtype(cost)
    numpy = jnp if isinstance(cost, jax.Array) else np  # 64-bit integers stay what they are
    times_a, times_b = (copies // n for n in shape)
    repeated = numpy.repeat(numpy.repeat(cost, times_a, axis=0), times_b, axis=1)
    columns = linear_assignment(repeated, maximize=maximize, backend=backend)
    rows = jnp.arange(copies, dtype=jnp.int32) // times_a
    return jnp.zeros(shape, dtype).at[rows, columns // times_b].add(jnp.asarray(1 / copies, dtype))
