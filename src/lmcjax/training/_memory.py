"""How many networks fit into one compiled call."""

import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from lmcjax.training._train import TrainConfig, init_state

# Copies of a network's state that exist at a time. One by one: before and after a call. Together:
# the gradient and the updates of all networks besides.
_COPIES_ONE_BY_ONE = 2
_COPIES_TOGETHER = 4

# Networks per CPU device and call: more would gain nothing, and finished work would come later.
_MOST_PER_CPU_DEVICE = 8

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container, in bytes or "max"


def memory_budget(devices: Sequence[jax.Device]) -> int:
    """Bytes that one call may use over all devices.

    Half of the memory that accelerators report, or an eighth of a CPU's.
    """
    stats = devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] // 2 * len(devices)
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if _CGROUP_LIMIT.is_file():
        limit = _CGROUP_LIMIT.read_text().strip()
        if limit != "max":
            available = min(available, int(limit))
    return available // 8


def bytes_per_network(
    config: TrainConfig, data: tuple[ArrayLike, ArrayLike], device: jax.Device
) -> int:
    """Estimate from above the bytes that one network takes in a compiled call.

    It takes its state, its shuffles, and everything that one step computes, as if nothing were
    freed.
    """
    one_by_one = device.platform == "cpu"
    copies = _COPIES_ONE_BY_ONE if one_by_one else _COPIES_TOGETHER
    state = jax.eval_shape(init_state, config, jax.random.key(0))
    state_bytes = copies * _num_bytes((state.params, state.opt_state))
    shuffle_bytes = 8 * np.shape(data[0])[0]
    if one_by_one:
        # What a step computes is there once, whatever the number of networks.
        return state_bytes + shuffle_bytes
    return state_bytes + shuffle_bytes + _bytes_of_a_step(config, data, state.params)


def networks_per_call(
    config: TrainConfig, data: tuple[ArrayLike, ArrayLike], devices: Sequence[jax.Device]
) -> int:
    """Count the networks that one compiled call trains.

    They are as many as `memory_budget` holds, and at least one per device. On a CPU networks run
    one after the other within a call, and more than a few per device gain nothing.
    """
    fitting = memory_budget(devices) // bytes_per_network(config, data, devices[0])
    per_device = fitting // len(devices)
    if devices[0].platform == "cpu":
        per_device = min(per_device, _MOST_PER_CPU_DEVICE)
    return max(1, per_device) * len(devices)


def _num_bytes(tree: PyTree) -> int:
    """The bytes of all arrays, or shapes, of a pytree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _bytes_of_a_step(config: TrainConfig, data: tuple[ArrayLike, ArrayLike], params: PyTree) -> int:
    """The bytes of all intermediate results of a gradient."""

    def loss(params: PyTree, inputs: Array, labels: Array) -> Array:
        return config.loss(config.network.apply(params, inputs), labels)

    inputs = _batch_shape(data[0], config.batch_size)
    labels = _batch_shape(data[1], config.batch_size)
    program = jax.make_jaxpr(jax.grad(loss))(params, inputs, labels)
    num_bytes = 0
    for equation in program.eqns:
        for variable in equation.outvars:
            num_bytes += _num_bytes(variable.aval)
    return num_bytes


def _batch_shape(array: ArrayLike, batch_size: int) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a batch of samples."""
    return jax.ShapeDtypeStruct((batch_size, *np.shape(array)[1:]), jnp.result_type(array))
