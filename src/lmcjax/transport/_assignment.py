"""The exact linear assignment problem, on the host by SciPy or on the device."""

import concurrent.futures
import os
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import Buffer, ExecutionContext, buffer_callback
from jaxtyping import Array, ArrayLike, Int, Num
from scipy.optimize import linear_sum_assignment

from lmcjax._dtypes import accumulation_dtype, check_real
from lmcjax.transport._augmenting import shortest_augmenting_paths

AssignmentBackend: TypeAlias = Literal["auto", "scipy", "optax"]

_NUM_THREADS = (
    len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
)
_TASKS_PER_THREAD = 4  # several problems per task, a few tasks per thread: little overhead, and the last task is short


def linear_assignment(
    cost: Num[ArrayLike, "n n"], *, maximize: bool = False, backend: AssignmentBackend = "auto"
) -> Int[Array, " n"]:
    """The permutation `p` that minimises (or maximises) `sum_i cost[i, p[i]]`, exactly.

    Works under `jit`, `vmap` and `shard_map`; a vmapped batch of any number of axes is one call to
    the host. Gradients stop at `cost`. Ties are broken by the backend: the optimum is the same, the
    permutation may differ between backends.

    Integers are never rounded: what each row has above its smallest entry is found in integers of
    the same width (32 bits at least). A NumPy array of 64-bit integers is therefore exact without
    x64, too, as long as no row spans more than 32 bits.

    Args:
        cost: traced, any unit. Where an entry is nan or inf the identity comes back, and nothing
            hangs or raises; the functions above this one report it in their `finite` fields.
        maximize: static.
        backend: static. `"scipy"`: SciPy's shortest augmenting paths in float64 on the host through
            a callback, the problems of a batch spread over threads; of 64-bit integers, exact where
            no row spans more than 2^52. `"optax"`: shortest augmenting paths on the device (the
            algorithm of optax's `hungarian_algorithm`), in the precision of `cost`, and in integer
            arithmetic for integers of any range. `"auto"`: scipy in programs for a CPU, else optax.
            It is chosen when the program is lowered, so what is exported for another platform has
            no callback.

    Returns:
        The column for each row.

    Raises:
        ValueError: `cost` is not a square matrix or is complex, the backend is unknown, or a row of
            64-bit integers spans more than 32 bits and x64 is off.

    Source: Birkhoff's theorem makes it the transport between two empirical measures: the paper's
        Lemma B.3.
    """
    shape = jnp.shape(cost)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(
            f"cost has shape {shape}, expected a square matrix [n, n]; use jax.vmap for batches"
        )
    if backend not in get_args(AssignmentBackend):
        raise ValueError(f"backend {backend!r} is not one of {get_args(AssignmentBackend)}")
    check_real(cost)
    if shape[0] == 0:
        return jnp.zeros(0, jnp.int32)
    if jnp.issubdtype(jnp.result_type(cost), jnp.integer):
        cost = _above_row_minima(cost, maximize)
    else:
        cost = jnp.asarray(cost)
        cost = -cost if maximize else cost
    cost = jax.lax.stop_gradient(cost)
    if backend == "optax":
        return _on_device(cost)
    # the program has the branch of its platform only: no batch runs both
    elsewhere = _callback_elsewhere if backend == "scipy" else _on_device
    return jax.lax.platform_dependent(cost, cpu=_callback_on_cpu, default=elsewhere)


def _above_row_minima(cost: ArrayLike, maximize: bool) -> Array:
    """Integers less the smallest of their row, as unsigned ones; reversed if the largest are
    sought.

    The optimum is the same. All steps wrap around, so nothing is lost.
    """
    # not a JAX array yet where it is NumPy's: without x64 that would cut off 32 bits
    given = cost if isinstance(cost, jax.Array) else np.asarray(cost)
    bits = max(32, 8 * given.dtype.itemsize)
    unsigned = np.dtype(f"uint{bits}")
    if jnp.issubdtype(given.dtype, jnp.signedinteger):
        ordered = given.astype(f"int{bits}").view(unsigned) ^ unsigned.type(1 << (bits - 1))
    else:
        ordered = given.astype(unsigned)
    if maximize:
        ordered = ~ordered
    above = ordered - ordered.min(axis=1, keepdims=True)
    kept = jax.dtypes.canonicalize_dtype(unsigned)
    if above.dtype != kept and (span := int(above.max())) > np.iinfo(kept).max:
        raise ValueError(
            f"a row of the costs, {bits}-bit integers, spans {span}, and without x64 JAX has "
            f"integers up to {np.iinfo(kept).max}: set jax_enable_x64"
        )
    return jnp.asarray(above, kept)


# `pure_callback` copies its operand into a JAX array, in a thread of the pool that also runs the
# CPU devices: where all of these are in callbacks (as many devices as cores), they wait for their
# copies forever. A buffer callback reads the operand in place, but only on a CPU; elsewhere the
# pool is free, and `pure_callback` safe.


def _callback_on_cpu(cost: Array) -> Array:
    result = jax.ShapeDtypeStruct(cost.shape[:1], jnp.int32)
    columns = buffer_callback(_solve_in_place, result, vmap_method="broadcast_all")(cost)
    return _varying_as(cost, columns)


def _callback_elsewhere(cost: Array) -> Array:
    result = jax.ShapeDtypeStruct(cost.shape[:1], jnp.int32)
    columns = jax.pure_callback(_solve_on_host, result, cost, vmap_method="broadcast_all")
    return _varying_as(cost, columns)


def _varying_as(cost: Array, columns: Array) -> Array:
    """The columns; inside `shard_map` they count as varying where the costs do, which a callback
    does not say.
    """
    return columns + jnp.zeros_like(cost[0], jnp.int32)


def _solve_in_place(context: ExecutionContext, columns: Buffer, cost: Buffer) -> None:
    del context
    np.asarray(columns)[...] = _solve_on_host(cost)


def _solve_on_host(cost: Buffer | Array) -> np.ndarray:
    """Every problem of a batch `[..., n, n]`, in threads (SciPy lets go of the interpreter lock),
    with NumPy only.
    """
    cost = np.asarray(cost)
    problems = cost.reshape(-1, *cost.shape[-2:])
    columns = np.empty(problems.shape[:2], np.int32)
    num_tasks = min(len(problems), _NUM_THREADS * _TASKS_PER_THREAD)
    if num_tasks < 2 or _NUM_THREADS < 2:
        _solve_each(problems, columns)
    else:
        with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
            list(
                pool.map(
                    _solve_each,
                    np.array_split(problems, num_tasks),
                    np.array_split(columns, num_tasks),
                )
            )
    return columns.reshape(cost.shape[:-1])


def _solve_each(problems: np.ndarray, columns: np.ndarray) -> None:
    finite = np.isfinite(problems).all(
        axis=(1, 2)
    )  # once per task: each call queues for the interpreter lock
    for i, problem in enumerate(problems):
        columns[i] = (
            linear_sum_assignment(problem.astype(np.float64, copy=False))[1]
            if finite[i]
            else np.arange(len(problem))
        )


def _on_device(cost: Array) -> Array:
    if jnp.issubdtype(cost.dtype, jnp.integer):
        return shortest_augmenting_paths(cost)
    cost = cost.astype(accumulation_dtype(cost))
    finite = jnp.isfinite(cost).all()
    columns = shortest_augmenting_paths(jnp.where(finite, cost, 0))
    return jnp.where(finite, columns, jnp.arange(len(cost), dtype=jnp.int32))
