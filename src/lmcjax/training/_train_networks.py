"""Many training runs at once, in calls that fit the memory and leave room for interrupts."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from lmcjax.batching import network_map, replicate
from lmcjax.training._memory import networks_per_call
from lmcjax.training._train import (
    TrainConfig,
    TrainResult,
    TrainState,
    check_data,
    init_state,
    train_steps,
)


class _Programs(NamedTuple):
    """Compiled programs over networks."""

    init: Callable[..., TrainState]  # (configs, keys)
    advance: Callable[..., tuple[TrainState, Array]]  # (states, data, num_steps)


@functools.cache
def compiled_programs(devices: tuple[jax.Device, ...]) -> _Programs:
    """`init_state` and `train_steps` over networks, kept so that the same shapes compile once."""
    init = network_map(init_state, devices=devices)

    def advance(
        states: TrainState, data: tuple[Array, Array], num_steps: int
    ) -> tuple[TrainState, Array]:
        def advance_one(state: TrainState, data: tuple[Array, Array]) -> tuple[TrainState, Array]:
            return train_steps(state, data, num_steps)

        return network_map(advance_one, in_axes=(0, None), devices=devices)(states, data)

    return _Programs(jax.jit(init), jax.jit(advance, static_argnums=2, donate_argnums=0))


def train_in_calls(
    states: TrainState,
    data: tuple[Array, Array],
    num_steps: int,
    *,
    steps_per_call: int,
    devices: Sequence[jax.Device] | None = None,
) -> Iterator[tuple[TrainState, Float[Array, "num_networks steps_per_call"]]]:
    """Run the next steps of many runs, call by call.

    Between two calls there is room for progress, checkpoints and interrupts.

    Args:
        states: with a leading axis of networks. Every call uses them up (donates them), and also
            those that it yielded before.
        data: `(inputs, labels)`, shared; on the devices already, see `replicate`.
        num_steps: in all, static.
        steps_per_call: static; the last call may be shorter, and is then compiled for itself.
        devices: default: all local ones.

    Yields:
        The states after each call, and the losses of its steps.
    """
    programs = compiled_programs(tuple(jax.local_devices() if devices is None else devices))
    for first_step in range(0, num_steps, steps_per_call):
        steps = min(steps_per_call, num_steps - first_step)
        states, losses = programs.advance(states, data, steps)
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

    A run's outcome depends on its own configuration and key alone. Which others share its call
    changes it by rounding at most. A run that diverges shows in its `finite` and disturbs no other.
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
    learning_rates = jnp.asarray(configs.learning_rate, jnp.result_type(float))
    _check_networks(learning_rates, keys, networks_per_batch)
    num_samples = check_data(data, configs.batch_size)
    configs = dataclasses.replace(configs, learning_rate=learning_rates)
    num_networks = keys.size
    if networks_per_batch is None:
        networks_per_batch = networks_per_call(configs, data, devices)
    networks_per_batch = _even_batches(num_networks, networks_per_batch)
    # Devices that no network of a batch comes to are left out.
    shared_data = replicate(_as_arrays(data), devices[:networks_per_batch])

    steps_done = 0
    results = []
    for start in range(0, num_networks, networks_per_batch):
        stop = min(start + networks_per_batch, num_networks)
        # The last network fills up the last batch, because the program has one shape.
        batch = jnp.minimum(jnp.arange(start, start + networks_per_batch), num_networks - 1)
        batch_configs = jax.tree.map(operator.itemgetter(batch), configs)
        states = compiled_programs(devices).init(batch_configs, keys[batch])
        losses = []
        calls = train_in_calls(
            states,
            shared_data,
            configs.num_steps,
            steps_per_call=num_samples // configs.batch_size,
            devices=devices,
        )
        for new_states, new_losses in calls:
            states = new_states
            losses.append(new_losses)
            steps_done += new_losses.shape[1] * (stop - start)
            if on_progress is not None:
                on_progress(steps_done, num_networks * configs.num_steps)
        results.append(TrainResult(states.params, jnp.concatenate(losses, axis=1), states.finite))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[:num_networks], *results)


def _check_networks(learning_rates: Array, keys: Array, networks_per_batch: int | None) -> None:
    """Refuse learning rates and keys that are not one per network, and empty batches."""
    if learning_rates.shape != keys.shape or keys.ndim != 1 or not keys.size:
        raise ValueError(
            f"learning rates {learning_rates.shape} and keys {keys.shape} are both one per network"
        )
    if networks_per_batch is not None and networks_per_batch < 1:
        raise ValueError(f"networks_per_batch is at least 1, not {networks_per_batch}")


def _even_batches(num_networks: int, at_most: int) -> int:
    """The networks per batch when as few batches as possible are of nearly equal size."""
    num_batches = math.ceil(num_networks / at_most)
    return math.ceil(num_networks / num_batches)


def _as_arrays(data: tuple[ArrayLike, ArrayLike]) -> tuple[Array, Array]:
    """Inputs and labels as arrays of JAX."""
    inputs, labels = data
    return jnp.asarray(inputs), jnp.asarray(labels)
