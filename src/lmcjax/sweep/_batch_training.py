"""Training networks of a batch together: padded to one width, with checkpoints."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree

from lmcjax.batching import network_map, replicate, shard
from lmcjax.sweep._grid import Cell
from lmcjax.sweep._network_programs import Program, Programs
from lmcjax.sweep._sweep_plan import Group, ceil_div
from lmcjax.sweep._training_checkpoints import Checkpoints
from lmcjax.symmetry import pad_neurons, real_entries
from lmcjax.training import TrainConfig, TrainState, init_state, train_in_calls


class TrainingCall(NamedTuple):
    """Networks that a compiled program trains together; their number is a multiple of devices."""

    group: Group
    cells: Sequence[Cell]  # one per network
    seeds: Sequence[int]  # one per network
    devices: Sequence[jax.Device]  # to spread them over


class Trained(NamedTuple):
    """Trained networks on the host, all in the shape of their group's largest width."""

    params: PyTree  # with a leading axis of networks
    losses: Float[np.ndarray, "num_networks epochs"]  # nats, means over each epoch
    finite: Bool[np.ndarray, " num_networks"]  # False: some training loss was nan or inf


class _Training(NamedTuple):
    """How far the training of a call is, between two epochs."""

    states: TrainState  # with a leading axis of networks
    losses: Float[np.ndarray, "num_networks epochs_done"]

    @property
    def epochs_done(self) -> int:
        return self.losses.shape[1]


@functools.cache
def _compiled_start(
    config: TrainConfig,
    own: Program,
    wide: Program,
    masked: bool,
    devices: tuple[jax.Device, ...],
) -> Callable[..., TrainState]:
    """Compile the start of networks of one width, `own`, in the shape of `wide`; once."""

    def start(key: Key[Array, ""], learning_rate: Float[Array, ""]) -> TrainState:
        params = own.network.init(jax.random.fold_in(key, 0))
        mask = real_entries(own.spec, wide.spec, params) if masked else None
        if own.spec != wide.spec:
            params = pad_neurons(own.spec, wide.spec, params)
        own_config = dataclasses.replace(config, learning_rate=learning_rate, gradient_mask=mask)
        return init_state(own_config, key, params)

    return jax.jit(network_map(start, devices=devices))


def initial_states(programs: Programs, call: TrainingCall) -> TrainState:
    """The states of networks before their first step, with a leading axis.

    They are the same bits whatever width they are padded to.
    """
    widths = np.array([cell.width for cell in call.cells])
    parts = []
    order: list[int] = []
    for width in np.unique(widths).tolist():
        rows = np.flatnonzero(widths == width)
        # Of all networks, though only some have this width: one shape, compiled once
        states = _states_in_width(programs, call, width)
        parts.append(jax.tree.map(lambda leaf, rows=rows: leaf[rows], states))
        order += rows.tolist()
    if len(parts) == 1:
        return parts[0]
    # The parts are sorted by width; bring the networks back into their own order
    back = np.argsort(order)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[back], *parts)


def _states_in_width(programs: Programs, call: TrainingCall, width: int) -> TrainState:
    """The first states of networks as if all were of one width, in the shape of the widest."""
    group = call.group
    depth = group.num_hidden_layers
    widest = group.widths[-1]
    start = _compiled_start(
        programs.train_config(widest, depth, group.optimizer),
        programs.program(width, depth),
        programs.program(widest, depth),
        group.padding == "masked",
        tuple(call.devices),
    )
    keys = jax.vmap(jax.random.key)(jnp.asarray(call.seeds, jnp.uint32))
    rates = [cell.learning_rate for cell in call.cells]
    return start(keys, jnp.asarray(rates, jnp.result_type(float)))


def train_call(
    programs: Programs,
    call: TrainingCall,
    data: tuple[Array, Array],
    checkpoints: Checkpoints | None,
    after_epoch: Callable[[int, np.ndarray], bool],
    *,
    keep: bool,
) -> Trained | None:
    """Train networks together, an epoch per compiled call.

    Args:
        programs: of the sweep.
        call: the networks.
        data: inputs and labels, on the devices.
        checkpoints: where to go on from, if there is one, and to store one every now and then.
            None: nothing is stored.
        after_epoch: called with epochs done and each network's losses `[num_networks, epochs]`;
            False: stop here.
        keep: store the final state even of a short training, since more calls follow before the
            batch is stored.

    Returns:
        The trained networks; None if stopped, with a checkpoint of how far they got.
    """
    num_epochs = programs.sweep.epochs
    training = _start_or_restore(programs, call, checkpoints)
    if training.epochs_done > 0 and not after_epoch(training.epochs_done, training.losses):
        return None
    training = training._replace(states=shard(training.states, call.devices))
    steps_left = (num_epochs - training.epochs_done) * programs.steps_per_epoch
    epochs = train_in_calls(
        training.states,
        data,
        steps_left,
        steps_per_call=programs.steps_per_epoch,
        devices=call.devices,
    )
    for new_states, step_losses in epochs:
        epoch_losses = np.asarray(step_losses).mean(axis=1, keepdims=True)
        losses = np.concatenate([training.losses, epoch_losses], axis=1)
        training = _Training(new_states, losses)
        go_on = after_epoch(training.epochs_done, losses)
        finished = training.epochs_done == num_epochs
        # A short training is cheaper to repeat than to store
        is_long_work = keep or (checkpoints is not None and checkpoints.any)
        finished_long_work = finished and is_long_work
        if checkpoints is not None and (not go_on or finished_long_work or checkpoints.due()):
            checkpoints.save(training.epochs_done, _stored_part(training))
        if not go_on:
            return None
    return Trained(
        params=jax.device_get(training.states.params),
        losses=training.losses,
        finite=jax.device_get(training.states.finite),
    )


def train_group(
    programs: Programs,
    group: Group,
    *,
    networks_per_call: int,
    devices: Sequence[jax.Device] | None = None,
) -> Trained:
    """Train the networks of one group of a plan, as a sweep does, and store nothing.

    Args:
        programs: of a sweep.
        group: one of its plan's, or your own: which widths share a program.
        networks_per_call: at most so many are trained at a time; a multiple of the devices.
        devices: default: all local ones.

    Returns:
        The trained networks: the sweep's cells of this group in their order, each with all seeds.
    """
    devices = tuple(jax.local_devices() if devices is None else devices)
    sweep = programs.sweep
    networks = []
    for cell in sweep.cells:
        is_of_depth = cell.num_hidden_layers == group.num_hidden_layers
        if is_of_depth and cell.optimizer == group.optimizer and cell.width in group.widths:
            networks += [(cell, seed) for seed in sweep.seeds]
    train_set = programs.dataset.train
    data = (jnp.asarray(train_set.inputs), jnp.asarray(train_set.labels))
    shared_data = replicate(data, devices)
    per_call = min(networks_per_call, ceil_div(len(networks), len(devices)) * len(devices))
    parts = []
    for first in range(0, len(networks), per_call):
        chosen = networks[first : first + per_call]
        # Filled up by repeating the last network, so that all calls share a compiled program
        filled = chosen + [chosen[-1]] * (per_call - len(chosen))
        cells = [cell for cell, _ in filled]
        seeds = [seed for _, seed in filled]
        call = TrainingCall(group, cells, seeds, devices)
        trained = train_call(programs, call, shared_data, None, _go_on, keep=False)
        assert trained is not None  # nothing stops it
        parts.append(trained)
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return jax.tree.map(lambda leaf: leaf[: len(networks)], whole)


def _go_on(epochs_done: int, losses: np.ndarray) -> bool:
    """Report nothing, stop for nothing."""
    del epochs_done, losses
    return True


def _start_or_restore(
    programs: Programs, call: TrainingCall, checkpoints: Checkpoints | None
) -> _Training:
    """The training as the newest checkpoint has it, or before its first step."""
    states = initial_states(programs, call)
    loss_dtype = states.config.learning_rate.dtype

    def after(num_epochs: int) -> _Training:
        """A training of the right shapes, whatever its numbers."""
        return _Training(states, np.zeros((len(call.cells), num_epochs), loss_dtype))

    if checkpoints is None:
        return after(0)
    stored = checkpoints.restore(lambda num_epochs: _stored_part(after(num_epochs)))
    if stored is None:
        return after(0)
    opt_structure = jax.tree.structure(states.opt_state)
    restored = states._replace(
        params=stored["params"],
        opt_state=jax.tree.unflatten(opt_structure, stored["opt_state"]),
        step=stored["step"],
        finite=stored["finite"],
    )
    return _Training(restored, stored["losses"])


def _stored_part(training: _Training) -> dict[str, PyTree]:
    """What a checkpoint holds: all that training changes."""
    states = training.states
    return {
        "params": states.params,
        "opt_state": jax.tree.leaves(states.opt_state),
        "step": states.step,
        "finite": states.finite,
        "losses": training.losses,
    }
