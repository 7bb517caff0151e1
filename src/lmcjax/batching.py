"""The same function over many networks, on all local devices."""

import contextlib
import functools
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree


def network_map(
    fn: Callable[..., Any],
    in_axes: int | Sequence[int | None] = 0,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Callable[..., Any]:
    """`jax.vmap` over a leading axis of networks, spread over devices.

    Networks are sharded over the devices (mesh axis `networks`); on each, they run together by
    `vmap` where that is faster (GPU, TPU) and one after the other by `lax.map` on a CPU, where a
    batched matrix product is slower than single ones. Jit the result.

    Args:
        fn: a pure function of one network; its results gain a leading axis.
        in_axes: per argument, 0: mapped over its leading axis, None: shared by all, and replicated.
        devices: default: all local ones. See `use_all_cores` for a CPU.
    """
    devices = tuple(jax.local_devices() if devices is None else devices)

    def mapped(*args: PyTree) -> PyTree:
        axes = (in_axes,) * len(args) if isinstance(in_axes, int) else tuple(in_axes)
        if len(axes) != len(args):
            raise ValueError(f"in_axes {axes} has {len(axes)} entries for {len(args)} arguments")
        if any(axis not in (0, None) for axis in axes) or 0 not in axes:
            raise ValueError(f"in_axes are 0 or None, with one 0 at least, not {axes}")
        mapped_args = [arg for arg, axis in zip(args, axes, strict=True) if axis == 0]
        sizes = {leaf.shape[0] for leaf in jax.tree.leaves(mapped_args)}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"mapped arguments need one common, positive number of networks, not {sorted(sizes)}"
            )
        (count,) = sizes
        used = devices[:count]
        padding = -count % len(used)
        padded = [
            _repeat_last(arg, padding) if axis == 0 else arg
            for arg, axis in zip(args, axes, strict=True)
        ]
        specs = tuple(
            PartitionSpec() if axis is None else PartitionSpec("networks") for axis in axes
        )
        result = jax.shard_map(
            functools.partial(_on_device, fn, axes, used[0].platform == "cpu"),
            mesh=Mesh(used, ("networks",)),
            in_specs=specs,
            out_specs=PartitionSpec("networks"),
            check_vma=False,
        )(*padded)
        return jax.tree.map(lambda leaf: leaf[:count], result) if padding else result

    return mapped


def replicate(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """A copy of every array on each device: shared arguments of `network_map`, copied once and not
    at every call.
    """
    return jax.device_put(tree, NamedSharding(Mesh(devices, ("networks",)), PartitionSpec()))


def shard(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """Arrays with a leading axis of networks, a multiple of the devices, spread over these as
    `network_map` does.
    """
    return jax.device_put(
        tree, NamedSharding(Mesh(devices, ("networks",)), PartitionSpec("networks"))
    )


def _repeat_last(tree: PyTree, times: int) -> PyTree:
    if times == 0:
        return tree
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf] + [leaf[-1:]] * times), tree)


def _on_device(
    fn: Callable[..., Any], axes: tuple[int | None, ...], one_by_one: bool, *args: PyTree
) -> PyTree:
    if not one_by_one:
        return jax.vmap(fn, axes)(*args)
    mapped = [arg for arg, axis in zip(args, axes, strict=True) if axis == 0]

    def single(mapped_once: Sequence[PyTree]) -> PyTree:
        rest = iter(mapped_once)
        return fn(*(next(rest) if axis == 0 else arg for arg, axis in zip(args, axes, strict=True)))

    return jax.lax.map(single, mapped)


def use_all_cores() -> int:
    """On a CPU, make one JAX device per core, so that `network_map` keeps them all busy. Call
    before JAX is used.

    Returns:
        The number of local devices, of whatever kind JAX's default backend has. Where JAX has
        already started, it stays as it is.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with contextlib.suppress(RuntimeError):  # JAX has started already
        jax.config.update("jax_num_cpu_devices", cores)
    return jax.local_device_count()


def map_in_chunks(
    fn: Callable[..., Any],
    chunk: int,
    mapped: Sequence[PyTree],
    shared: Sequence[PyTree] = (),
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> PyTree:
    """Call a jitted `fn(*mapped, *shared)` on pieces of the mapped arguments, and put its results
    together on the host.

    Args:
        fn: takes batches along the leading axis, such as `jax.jit(network_map(...))`; compiled
            once, since the last piece is filled up with repeats that are dropped again.
        chunk: entries per call.
        mapped: arguments with a common leading axis.
        shared: arguments that every call gets whole.
        on_progress: called with entries done and in all, after each call.

    Returns:
        The results as NumPy arrays.
    """
    count = jax.tree.leaves(mapped)[0].shape[0]
    results = []
    for start in range(0, count, chunk):
        take = operator.itemgetter(np.minimum(np.arange(start, start + chunk), count - 1))
        results.append(jax.device_get(fn(*jax.tree.map(take, tuple(mapped)), *shared)))
        if on_progress is not None:
            on_progress(min(start + chunk, count), count)
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *results)
