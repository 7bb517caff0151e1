"""Many training runs at once, in calls that fit the memory and leave room for progress and
interrupts.
"""

import dataclasses
import functools
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key

from lmcjax.batching import network_map, replicate
from lmcjax.training._train import (
    TrainConfig,
    TrainResult,
    TrainState,
    check_data,
    init_state,
    train_steps,
)

_COPIES = {
    "one by one": 2,
    "together": 4,
}  # of a network's state: before and after a call, gradient, updates
_ON_A_CPU = (
    8  # networks per device and call: more would gain nothing, and finished work would come later
)


def memory_budget(devices: Sequence[jax.Device]) -> int:
    """Bytes that one call may use over all devices: half of what an accelerator says it has, an
    eighth of a CPU's.
    """
    stats = devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] // 2 * len(devices)
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    words = limit.read_text().strip() if limit.is_file() else "max"
    return min(available, available if words == "max" else int(words)) // 8


def bytes_per_network(
    config: TrainConfig, data: tuple[ArrayLike, ArrayLike], device: jax.Device
) -> int:
    """An estimate from above of what one network takes in a compiled call: its state, its shuffles,
    and everything that
    one step computes, as if nothing were freed."""
    state = jax.eval_shape(init_state, config, jax.random.key(0))
    one_by_one = device.platform == "cpu"
    copies = _COPIES["one by one" if one_by_one else "together"]
    held = copies * sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state.params, state.opt_state))
    )
    held += 8 * np.shape(data[0])[0]
    if one_by_one:  # what a step computes is there once, whatever the number of networks
        return held
    inputs, labels = (
        jax.ShapeDtypeStruct((config.batch_size, *np.shape(x)[1:]), jnp.result_type(x))
        for x in data
    )
    step = jax.make_jaxpr(jax.grad(lambda p, x, y: config.loss(config.network.apply(p, x), y)))
    computed = (v.aval for e in step(state.params, inputs, labels).eqns for v in e.outvars)
    return held + sum(aval.size * aval.dtype.itemsize for aval in computed)


def networks_per_call(
    config: TrainConfig, data: tuple[ArrayLike, ArrayLike], devices: Sequence[jax.Device]
) -> int:
    """How many networks one compiled call trains: as many as `memory_budget` holds, at least one
    per device.

    On a CPU networks run one after the other within a call, and more than a few per device gain
    nothing.
    """
    fitting = memory_budget(devices) // bytes_per_network(config, data, devices[0]) // len(devices)
    if devices[0].platform == "cpu":
        fitting = min(fitting, _ON_A_CPU)
    return max(1, fitting) * len(devices)


@functools.cache
def _compiled(devices: tuple[jax.Device, ...]) -> tuple[Callable, Callable]:
    """`init_state` and `train_steps` over networks; kept, so that the same shapes compile once."""
    init = jax.jit(network_map(init_state, devices=devices))

    def advance(
        states: TrainState, data: tuple[Array, Array], num_steps: int
    ) -> tuple[TrainState, Array]:
        def one(state: TrainState, data: tuple[Array, Array]) -> tuple[TrainState, Array]:
            return train_steps(state, data, num_steps)

        return network_map(one, in_axes=(0, None), devices=devices)(states, data)

    return init, jax.jit(advance, static_argnums=2, donate_argnums=0)


def train_in_calls(
    states: TrainState,
    data: tuple[Array, Array],
    num_steps: int,
    *,
    steps_per_call: int,
    devices: Sequence[jax.Device] | None = None,
) -> Iterator[tuple[TrainState, Float[Array, "num_networks steps_per_call"]]]:
    """The next steps of many runs, call by call; between two calls there is room for progress,
    checkpoints, interrupts.

    Args:
        states: with a leading axis of networks; used up (donated), as are those that come out, by
            the next call.
        data: `(inputs, labels)`, shared; on the devices already, see `replicate`.
        num_steps: in all, static.
        steps_per_call: static; the last call may be shorter, and is then compiled for itself.
        devices: default: all local ones.

    Yields:
        The states after each call, and the losses of its steps.
    """
    _, advance = _compiled(tuple(jax.local_devices() if devices is None else devices))
    for step in range(0, num_steps, steps_per_call):
        states, losses = advance(states, data, min(steps_per_call, num_steps - step))
        yield states, jax.block_until_ready(losses)


def train_networks(
    configs: TrainConfig,
    keys: Key[Array, " num_networks"],
    data: tuple[ArrayLike, ArrayLike],
    *,
    networks_per_batch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TrainResult:
    """Train many networks: `vmap(train)`, spread over devices, an epoch per compiled call.

    A run's outcome depends on its own configuration and key alone; which others share its call
    changes it by rounding at most. A run that diverges says so in `finite` and disturbs no other.
    Between two calls an interrupt is clean.

    Args:
        configs: one `TrainConfig` with `learning_rate[num_networks]`.
        keys: one per network.
        data: `(inputs, labels)`, shared; copied to every device once.
        networks_per_batch: networks per compiled call; default: `networks_per_call`.
        devices: default: all local ones.
        on_progress: called on the host with network-steps done and in all.

    Returns:
        `TrainResult` with a leading axis of networks.

    Raises:
        ValueError: keys and learning rates that differ in number, a batch of fewer than one
            network, unfit data.
    """
    devices = tuple(jax.local_devices() if devices is None else devices)
    rates = jnp.asarray(configs.learning_rate, jnp.result_type(float))
    if rates.shape != keys.shape or keys.ndim != 1 or not keys.size:
        raise ValueError(
            f"learning rates {rates.shape} and keys {keys.shape} are both one per network"
        )
    if networks_per_batch is not None and networks_per_batch < 1:
        raise ValueError(f"networks_per_batch is at least 1, not {networks_per_batch}")
    num_samples = check_data(data, configs.batch_size)
    most = networks_per_batch or networks_per_call(configs, data, devices)
    per_batch = -(
        -keys.size // -(-keys.size // most)
    )  # batches of equal size: a short one would be filled up
    steps_per_call = num_samples // configs.batch_size
    arrays = replicate(tuple(jnp.asarray(array) for array in data), devices[:per_batch])
    configs = dataclasses.replace(configs, learning_rate=rates)

    init, _ = _compiled(devices)
    results = []
    done, total = 0, keys.size * configs.num_steps
    for start in range(0, keys.size, per_batch):
        batch = jnp.minimum(
            jnp.arange(start, start + per_batch), keys.size - 1
        )  # the last repeats: one shape compiled
        states = init(jax.tree.map(operator.itemgetter(batch), configs), keys[batch])
        losses = []
        for after, new_losses in train_in_calls(
            states, arrays, configs.num_steps, steps_per_call=steps_per_call, devices=devices
        ):
            states = after
            losses.append(new_losses)
            if on_progress is not None:
                done += new_losses.shape[1] * min(per_batch, keys.size - start)
                on_progress(done, total)
        results.append(TrainResult(states.params, jnp.concatenate(losses, axis=1), states.finite))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[: keys.size], *results)
