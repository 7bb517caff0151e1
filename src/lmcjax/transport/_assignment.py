"""The exact linear assignment problem, solved on the host by SciPy or on the device."""

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

AssignmentBackend: TypeAlias = Literal["auto", "scipy", "device"]


def _num_available_cores() -> int:
    # A container or a batch system may give this process fewer cores than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_NUM_THREADS = _num_available_cores()
# Several problems per task keep the overhead small. Several tasks per thread keep all threads busy
# until the end, as the last task is short.
_TASKS_PER_THREAD = 4


def linear_assignment(
    cost: Num[ArrayLike, "n n"], *, maximize: bool = False, backend: AssignmentBackend = "auto"
) -> Int[Array, " n"]:
    """The permutation `p` that minimises (or maximises) `sum_i cost[i, p[i]]`, exactly.

    Works under `jit`, `vmap` and `shard_map`. A vmapped batch of any number of axes is one call to
    the host. Gradients stop at `cost`. Ties are broken by the backend: the optimum is the same, the
    permutation may differ between backends.

    Integers are never rounded: the smallest entry of each row is subtracted in integers of the same
    width (32 bits at least). A NumPy array of 64-bit integers is therefore exact without x64 too,
    as long as no row spans more than 32 bits.

    Args:
        cost: traced, any unit. Where an entry is nan or inf the identity comes back, and nothing
            hangs or raises; the functions above this one report it in their `finite` fields.
        maximize: static.
        backend: static. `"scipy"`: SciPy's shortest augmenting paths in float64, on the host
            through a callback, with the problems of a batch spread over threads. 64-bit integers
            are exact where no row spans more than 2^52. `"device"`: shortest augmenting paths on
            the device, in the precision of `cost`; integers of any range are exact. `"auto"`:
            `"scipy"` in programs for a CPU, else `"device"`. The choice is made when the program is
            lowered, so a program exported for another platform has no callback.

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
    cost = jax.lax.stop_gradient(_costs_to_minimize(cost, maximize))
    if backend == "device":
        return _assign_on_device(cost)
    # The program has the branch of its own platform only, so that no batch runs both.
    elsewhere = _callback_elsewhere if backend == "scipy" else _assign_on_device
    return jax.lax.platform_dependent(cost, cpu=_callback_on_cpu, default=elsewhere)


def _costs_to_minimize(cost: ArrayLike, maximize: bool) -> Array:
    """Turn costs to be minimised or maximised into a JAX array of costs to be minimised."""
    if jnp.issubdtype(jnp.result_type(cost), jnp.integer):
        return _above_row_minima(cost, maximize)
    cost = jnp.asarray(cost)
    return -cost if maximize else cost


def _above_row_minima(cost: ArrayLike, maximize: bool) -> Array:
    """Subtract from integers the smallest of their row; the differences are unsigned.

    If the maximum is sought, the order of the integers is reversed first. The optimal permutation
    stays the same, and unsigned arithmetic wraps around, so that no digit is lost.
    """
    # A NumPy array must stay one here: without x64, JAX would cut off the upper 32 bits.
    integers = cost if isinstance(cost, jax.Array) else np.asarray(cost)
    ordered = _as_unsigned(integers)
    if maximize:
        ordered = ~ordered
    differences = ordered - ordered.min(axis=1, keepdims=True)
    jax_dtype = jax.dtypes.canonicalize_dtype(differences.dtype)
    if differences.dtype != jax_dtype:
        _check_span(differences, jax_dtype)
    return jnp.asarray(differences, jax_dtype)


def _as_unsigned(integers: np.ndarray | Array) -> np.ndarray | Array:
    """Map integers to unsigned ones in the same order, of the same width but at least 32 bits."""
    num_bits = max(32, 8 * integers.dtype.itemsize)
    unsigned = np.dtype(f"uint{num_bits}")
    if not jnp.issubdtype(integers.dtype, jnp.signedinteger):
        return integers.astype(unsigned)
    # In two's complement, flipping the sign bit moves the negative numbers below the others.
    sign_bit = unsigned.type(1 << (num_bits - 1))
    return integers.astype(f"int{num_bits}").view(unsigned) ^ sign_bit


def _check_span(differences: np.ndarray | Array, jax_dtype: np.dtype) -> None:
    """Check that JAX, where it has narrower integers than NumPy, can hold the differences."""
    span = int(differences.max())
    largest = np.iinfo(jax_dtype).max
    if span > largest:
        num_bits = 8 * differences.dtype.itemsize
        raise ValueError(
            f"a row of the costs, {num_bits}-bit integers, spans {span}, and without x64 JAX has "
            f"integers up to {largest}: set jax_enable_x64"
        )


# `pure_callback` copies its operand into a JAX array, in a thread of the pool that also runs the
# CPU devices. Where all of these threads are in callbacks (as many devices as cores), they wait for
# their copies forever. A buffer callback reads the operand in place, but only on a CPU; elsewhere
# the pool is free, and `pure_callback` is safe.


def _callback_on_cpu(cost: Array) -> Array:
    result = jax.ShapeDtypeStruct(cost.shape[:1], jnp.int32)
    columns = buffer_callback(_solve_in_place, result, vmap_method="broadcast_all")(cost)
    return _varying_as(cost, columns)


def _callback_elsewhere(cost: Array) -> Array:
    result = jax.ShapeDtypeStruct(cost.shape[:1], jnp.int32)
    columns = jax.pure_callback(_solve_on_host, result, cost, vmap_method="broadcast_all")
    return _varying_as(cost, columns)


def _varying_as(cost: Array, columns: Array) -> Array:
    """Mark the columns as varying between the devices of a `shard_map`, as the costs do.

    The result of a callback does not say so by itself.
    """
    return columns + jnp.zeros_like(cost[0], jnp.int32)


def _solve_in_place(context: ExecutionContext, columns: Buffer, cost: Buffer) -> None:
    del context
    np.asarray(columns)[...] = _solve_on_host(cost)


def _solve_on_host(cost: Buffer | Array) -> np.ndarray:
    """Solve every problem of a batch `[..., n, n]` in threads, with NumPy and SciPy only.

    Threads help because SciPy releases the interpreter lock. JAX inside a callback can deadlock.
    """
    costs = np.asarray(cost)
    problems = costs.reshape(-1, *costs.shape[-2:])
    columns = np.empty(problems.shape[:2], np.int32)
    num_tasks = min(len(problems), _NUM_THREADS * _TASKS_PER_THREAD)
    if num_tasks < 2 or _NUM_THREADS < 2:
        _solve_each(problems, columns)
    else:
        problems_of_task = np.array_split(problems, num_tasks)
        columns_of_task = np.array_split(columns, num_tasks)  # views, which the tasks fill in
        with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
            finished = pool.map(_solve_each, problems_of_task, columns_of_task)
            list(finished)  # raises what a task has raised
    return columns.reshape(costs.shape[:-1])


def _solve_each(problems: np.ndarray, columns: np.ndarray) -> None:
    """Write the columns of each problem `[count, n, n]` into `columns`, `[count, n]`."""
    # One call for all problems: each call of NumPy queues for the interpreter lock.
    finite = np.isfinite(problems).all(axis=(1, 2))
    for i, problem in enumerate(problems):
        if finite[i]:
            _, columns[i] = linear_sum_assignment(problem.astype(np.float64, copy=False))
        else:
            columns[i] = np.arange(len(problem))


def _assign_on_device(cost: Array) -> Array:
    if jnp.issubdtype(cost.dtype, jnp.integer):
        return shortest_augmenting_paths(cost)
    cost = cost.astype(accumulation_dtype(cost))
    finite = jnp.isfinite(cost).all()
    # The algorithm asks for finite costs. Zeros stand in for others, whose result is not used.
    columns = shortest_augmenting_paths(jnp.where(finite, cost, 0))
    identity = jnp.arange(len(cost), dtype=jnp.int32)
    return jnp.where(finite, columns, identity)
