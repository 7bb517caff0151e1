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
    """Map a function over a leading axis of networks, as `jax.vmap` does, spread over devices.

    Networks are sharded over the devices (mesh axis `networks`). On each device they run together
    by `vmap` where that is faster (GPU, TPU), and one after the other by `lax.map` on a CPU, where
    a batched matrix product is slower than single ones. Jit the result.

    Args:
        fn: a pure function of one network; its results gain a leading axis.
        in_axes: per argument, 0: mapped over its leading axis, None: shared by all, and replicated.
        devices: default: all local ones. See `use_all_cores` for a CPU.
    """
    devices = tuple(jax.local_devices() if devices is None else devices)

    def mapped_fn(*args: PyTree) -> PyTree:
        axes = _axis_per_argument(in_axes, len(args))
        num_networks = _num_networks(args, axes)
        used_devices = devices[:num_networks]
        # Every device gets equally many: copies of the last network are appended and later dropped.
        num_missing = -num_networks % len(used_devices)
        padded_args = []
        specs = []
        for arg, axis in zip(args, axes, strict=True):
            if axis is None:
                padded_args.append(arg)
                specs.append(PartitionSpec())
            else:
                padded_args.append(_repeat_last(arg, num_missing))
                specs.append(PartitionSpec("networks"))

        on_device: Callable[..., Any]
        if used_devices[0].platform == "cpu":
            on_device = functools.partial(_map_one_by_one, fn, axes)
        else:
            on_device = jax.vmap(fn, axes)
        sharded_fn = jax.shard_map(
            on_device,
            mesh=Mesh(used_devices, ("networks",)),
            in_specs=tuple(specs),
            out_specs=PartitionSpec("networks"),
            check_vma=False,  # `fn` need not say which of its values differ between devices
        )
        results = sharded_fn(*padded_args)
        if num_missing == 0:
            return results
        return jax.tree.map(lambda leaf: leaf[:num_networks], results)

    return mapped_fn


def replicate(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """Copy every array to each device, as arguments that the networks of `network_map` share.

    So they are copied once and not at every call.
    """
    mesh = Mesh(devices, ("networks",))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard(tree: PyTree, devices: Sequence[jax.Device]) -> PyTree:
    """Spread arrays over devices along a leading axis of networks, as `network_map` does.

    The number of networks is a multiple of that of the devices.
    """
    mesh = Mesh(devices, ("networks",))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("networks")))


def _axis_per_argument(
    in_axes: int | Sequence[int | None], num_arguments: int
) -> tuple[int | None, ...]:
    """Which arguments are mapped (0) and which are shared (None).

    Raises:
        ValueError: another number of arguments, axes that are neither, nothing to map.
    """
    axes = (in_axes,) * num_arguments if isinstance(in_axes, int) else tuple(in_axes)
    if len(axes) != num_arguments:
        raise ValueError(f"in_axes {axes} has {len(axes)} entries for {num_arguments} arguments")
    if not set(axes) <= {0, None} or 0 not in axes:
        raise ValueError(f"in_axes are 0 or None, with one 0 at least, not {axes}")
    return axes


def _num_networks(args: Sequence[PyTree], axes: Sequence[int | None]) -> int:
    """The length of the leading axis that all mapped arguments share.

    Raises:
        ValueError: they share none, or it is empty.
    """
    sizes: set[int] = set()
    for arg, axis in zip(args, axes, strict=True):
        if axis == 0:
            sizes.update(leaf.shape[0] for leaf in jax.tree.leaves(arg))
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"mapped arguments need one common, positive number of networks, not {sorted(sizes)}"
        )
    return sizes.pop()


def _repeat_last(tree: PyTree, times: int) -> PyTree:
    """Append copies of the last network."""
    if times == 0:
        return tree
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf] + [leaf[-1:]] * times), tree)


def _map_one_by_one(fn: Callable[..., Any], axes: Sequence[int | None], *args: PyTree) -> PyTree:
    """`jax.vmap(fn, axes)(*args)`, one network after the other."""
    mapped = [arg for arg, axis in zip(args, axes, strict=True) if axis == 0]

    # `lax.map` passes on mapped arguments only, so the shared ones are put between them again.
    def apply_to_one(mapped_of_one: Sequence[PyTree]) -> PyTree:
        remaining = iter(mapped_of_one)
        arguments = []
        for arg, axis in zip(args, axes, strict=True):
            arguments.append(next(remaining) if axis == 0 else arg)
        return fn(*arguments)

    return jax.lax.map(apply_to_one, mapped)


def use_all_cores() -> int:
    """Make one JAX device per core of a CPU, so that `network_map` keeps them all busy.

    Call it before JAX is used: where JAX has already started, it stays as it is.

    Returns:
        The number of local devices, of whatever kind JAX's default backend has.
    """
    if hasattr(os, "sched_getaffinity"):
        num_cores = len(os.sched_getaffinity(0))  # those that this process may use
    else:
        num_cores = os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # JAX has started already
        jax.config.update("jax_num_cpu_devices", num_cores)
    return jax.local_device_count()


def map_in_chunks(
    fn: Callable[..., Any],
    chunk: int,
    mapped: Sequence[PyTree],
    shared: Sequence[PyTree] = (),
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> PyTree:
    """Call a jitted `fn(*mapped, *shared)` on pieces of the mapped arguments.

    Its results are put together on the host.

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
        # The last entry fills up the last piece.
        entries = np.minimum(np.arange(start, start + chunk), count - 1)
        piece = jax.tree.map(operator.itemgetter(entries), tuple(mapped))
        results.append(jax.device_get(fn(*piece, *shared)))
        if on_progress is not None:
            on_progress(min(start + chunk, count), count)
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *results)
