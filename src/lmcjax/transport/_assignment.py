"""The exact linear assignment problem, on the host by SciPy or on the device by optax."""

import concurrent.futures
import os
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.buffer_callback import Buffer, ExecutionContext, buffer_callback
from jaxtyping import Array, ArrayLike, Int, Num
from scipy.optimize import linear_sum_assignment

from lmcjax._dtypes import accumulation_dtype

AssignmentBackend: TypeAlias = Literal["auto", "scipy", "optax"]

_NUM_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_TASKS_PER_THREAD = 4  # several problems per task, a few tasks per thread: little overhead, and the last task is short


def linear_assignment(
    cost: Num[ArrayLike, "n n"], *, maximize: bool = False, backend: AssignmentBackend = "auto"
) -> Int[Array, " n"]:
    """The permutation `p` that minimises (or maximises) `sum_i cost[i, p[i]]`, exactly.

    Works under `jit` and `vmap`; a vmapped batch of any number of axes is one call to the host. Gradients stop at
    `cost`. Ties are broken by the backend: the optimum is the same, the permutation may differ between backends.

    Args:
        cost: traced, any unit. Where an entry is nan or inf the identity comes back, and nothing hangs or raises; the
            functions above this one report it in their `finite` fields.
        maximize: static.
        backend: static. `"scipy"`: SciPy's shortest augmenting paths in float64 on the host through a
            callback, the problems of a batch spread over threads. `"optax"`: optax's Hungarian algorithm on
            the device, in the precision of `cost`. `"auto"`: scipy where JAX's default backend is a CPU, else optax.

    Returns:
        The column for each row.

    Raises:
        ValueError: `cost` is not a square matrix, or the backend is unknown.

    Source: Birkhoff's theorem makes it the transport between two empirical measures: the paper's Lemma B.3.
    """
    shape = jnp.shape(cost)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"cost has shape {shape}, expected a square matrix [n, n]; use jax.vmap for batches")
    if backend not in ("auto", "scipy", "optax"):
        raise ValueError(f"backend {backend!r} is not one of 'auto', 'scipy', 'optax'")
    if backend == "auto":
        backend = "scipy" if jax.default_backend() == "cpu" else "optax"
    cost = jax.lax.stop_gradient(jnp.asarray(cost))
    if maximize:  # an unsigned integer has no negative; `~` turns the order of integers round
        cost = -cost if jnp.issubdtype(cost.dtype, jnp.inexact) else ~cost
    return _scipy_assignment(cost) if backend == "scipy" else _optax_assignment(cost)


def _scipy_assignment(cost: Array) -> Array:
    # `pure_callback` copies its operand into a JAX array, in a thread of the pool that also runs the CPU devices: where
    # all of these are in callbacks (as many devices as cores), they wait for their copies forever. A buffer callback
    # reads the operand in place, but only on a CPU; elsewhere the pool is free, and `pure_callback` safe.
    return jax.lax.platform_dependent(cost, cpu=_callback_on_cpu, default=_callback_elsewhere)


def _callback_on_cpu(cost: Array) -> Array:
    result = jax.ShapeDtypeStruct(cost.shape[:1], jnp.int32)
    return buffer_callback(_solve_in_place, result, vmap_method="broadcast_all")(cost)


def _callback_elsewhere(cost: Array) -> Array:
    result = jax.ShapeDtypeStruct(cost.shape[:1], jnp.int32)
    return jax.pure_callback(_solve_on_host, result, cost, vmap_method="broadcast_all")


def _solve_in_place(context: ExecutionContext, columns: Buffer, cost: Buffer) -> None:
    del context
    np.asarray(columns)[...] = _solve_on_host(cost)


def _solve_on_host(cost: Buffer | Array) -> np.ndarray:
    """Every problem of a batch `[..., n, n]`, in threads (SciPy lets go of the interpreter lock), with NumPy only."""
    cost = np.asarray(cost)
    problems = cost.reshape(-1, *cost.shape[-2:])
    columns = np.empty(problems.shape[:2], np.int32)
    num_tasks = min(len(problems), _NUM_THREADS * _TASKS_PER_THREAD)
    if num_tasks < 2 or _NUM_THREADS < 2:
        _solve_each(problems, columns)
    else:
        with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
            list(pool.map(_solve_each, np.array_split(problems, num_tasks), np.array_split(columns, num_tasks)))
    return columns.reshape(cost.shape[:-1])


def _solve_each(problems: np.ndarray, columns: np.ndarray) -> None:
    finite = np.isfinite(problems).all(axis=(1, 2))  # once per task: each call queues for the interpreter lock
    for i, problem in enumerate(problems):
        columns[i] = (
            linear_sum_assignment(problem.astype(np.float64, copy=False))[1] if finite[i] else np.arange(len(problem))
        )


def _optax_assignment(cost: Array) -> Array:
    cost = cost.astype(accumulation_dtype(cost))
    finite = jnp.isfinite(cost).all()
    identity = jnp.arange(cost.shape[0], dtype=jnp.int32)
    rows, columns = optax.assignment.hungarian_algorithm(jnp.where(finite, cost, 0))
    return jnp.where(finite, identity.at[rows].set(columns.astype(jnp.int32)), identity)
