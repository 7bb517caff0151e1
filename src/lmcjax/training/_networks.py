"""Many training runs at once, in calls that fit the memory and leave room for progress and interrupts."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Key

from lmcjax.batching import network_map, replicate
from lmcjax.training._train import TrainConfig, TrainResult, TrainState, check_data, init_state, train_steps

_CPU_BUDGET = 2**30
_COPIES = {"one by one": 2, "together": 4}  # of a network's state: before and after a call, gradient, updates


def networks_per_call(config: TrainConfig, num_samples: int, devices: Sequence[jax.Device]) -> int:
    """How many networks one compiled call trains: as many as a memory budget holds, at least one per device.

    The budget is half of what an accelerator says it has, 1 GiB on a CPU. Throughput does not ask for less: on a CPU
    networks run one after the other within a call, on an accelerator a larger batch is faster.
    """
    state = jax.eval_shape(init_state, config, jax.random.key(0))
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state.params, state.opt_state)))
    copies = _COPIES["one by one" if devices[0].platform == "cpu" else "together"]
    per_network = copies * state_bytes + 8 * num_samples
    stats = devices[0].memory_stats() or {}
    budget = stats.get("bytes_limit", 2 * _CPU_BUDGET / len(devices)) / 2 * len(devices)
    return max(len(devices), int(budget // per_network) // len(devices) * len(devices))


@functools.cache
def _compiled(devices: tuple[jax.Device, ...]) -> tuple[Callable, Callable]:
    """`init_state` and `train_steps` over networks; kept, so that the same shapes compile once."""
    init = jax.jit(network_map(init_state, devices=devices))

    def advance(states: TrainState, data: tuple[Array, Array], num_steps: int) -> tuple[TrainState, Array]:
        def one(state: TrainState, data: tuple[Array, Array]) -> tuple[TrainState, Array]:
            return train_steps(state, data, num_steps)

        return network_map(one, in_axes=(0, None), devices=devices)(states, data)

    return init, jax.jit(advance, static_argnums=2, donate_argnums=0)


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

    A run's outcome depends on its own configuration and key alone; which others share its call changes it by rounding
    at most. A run that diverges says so in `finite` and disturbs no other. Between two calls an interrupt is clean.

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
        ValueError: keys and learning rates that differ in number, a batch of fewer than one network, unfit data.
    """
    devices = tuple(jax.local_devices() if devices is None else devices)
    rates = jnp.asarray(configs.learning_rate, jnp.result_type(float))
    if rates.shape != keys.shape or keys.ndim != 1 or not keys.size:
        raise ValueError(f"learning rates {rates.shape} and keys {keys.shape} are both one per network")
    if networks_per_batch is not None and networks_per_batch < 1:
        raise ValueError(f"networks_per_batch is at least 1, not {networks_per_batch}")
    num_samples = check_data(data, configs.batch_size)
    most = networks_per_batch or networks_per_call(configs, num_samples, devices)
    per_batch = -(-keys.size // -(-keys.size // most))  # batches of equal size: a short one would be filled up
    steps_per_call = num_samples // configs.batch_size
    data = replicate(tuple(jnp.asarray(array) for array in data), devices[:per_batch])

    init, advance = _compiled(devices)
    results = []
    done, total = 0, keys.size * configs.num_steps
    for start in range(0, keys.size, per_batch):
        batch = jnp.minimum(jnp.arange(start, start + per_batch), keys.size - 1)  # the last repeats: one shape compiled
        states = init(dataclasses.replace(configs, learning_rate=rates[batch]), keys[batch])
        losses = []
        for step in range(0, configs.num_steps, steps_per_call):
            num_steps = min(steps_per_call, configs.num_steps - step)
            states, new_losses = advance(states, data, num_steps)
            losses.append(jax.block_until_ready(new_losses))
            if on_progress is not None:
                done += num_steps * min(per_batch, keys.size - start)
                on_progress(done, total)
        results.append(TrainResult(states.params, jnp.concatenate(losses, axis=1), states.finite))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[: keys.size], *results)
