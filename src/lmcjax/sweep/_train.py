"""The training of one batch of a sweep: padded to one width, in calls, with checkpoints between
them.
"""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lmcjax.batching import network_map, shard
from lmcjax.sweep._config import Cell
from lmcjax.sweep._files import naming, read_arrays, write_arrays
from lmcjax.sweep._plan import Group
from lmcjax.sweep._programs import Programs
from lmcjax.symmetry import PermutationSpec, pad_neurons, real_entries
from lmcjax.training import TrainConfig, TrainState, init_state, train_in_calls

_log = logging.getLogger("lmcjax")


class Trained(NamedTuple):
    """A leading axis of networks, all in the shape of their group's largest width; on the host."""

    params: PyTree
    losses: np.ndarray  # [num_networks, epochs], means over each epoch, nats
    finite: np.ndarray  # [num_networks]


@functools.cache
def _compiled_start(
    config: TrainConfig,
    own: Any,
    spec: PermutationSpec,
    wide: PermutationSpec,
    masked: bool,
    devices: tuple[jax.Device, ...],
) -> Callable[..., TrainState]:
    """Initial states of networks of one width (`own`, `spec`) in the shape of `config.network`;
    compiled once.
    """

    def start(key: jax.Array, rate: jax.Array) -> TrainState:
        params = own.init(jax.random.fold_in(key, 0))
        mask = real_entries(spec, wide, params) if masked else None
        if spec != wide:
            params = pad_neurons(spec, wide, params)
        return init_state(
            dataclasses.replace(config, learning_rate=rate, gradient_mask=mask), key, params
        )

    return jax.jit(network_map(start, devices=devices))


def initial_states(
    programs: Programs,
    group: Group,
    cells: Sequence[Cell],
    seeds: Sequence[int],
    devices: Sequence[jax.Device],
) -> TrainState:
    """The states of networks before their first step: the same bits whatever width they are padded
    to.
    """
    depth, wide = group.num_hidden_layers, group.widths[-1]
    config = programs.train_config(wide, depth, group.optimizer)
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    rates = jnp.asarray([cell.learning_rate for cell in cells], jnp.result_type(float))
    parts, order = [], []
    for width in sorted({cell.width for cell in cells}):
        own = programs.program(width, depth)
        start = _compiled_start(
            config,
            own.network,
            own.spec,
            programs.program(wide, depth).spec,
            group.padding == "masked",
            tuple(devices),
        )
        rows = np.flatnonzero([cell.width == width for cell in cells])
        states = start(
            keys, rates
        )  # of all, though only some have this width: one shape, compiled once
        parts.append(jax.tree.map(lambda leaf, rows=rows: leaf[rows], states))
        order += rows.tolist()
    back = np.argsort(order)
    return jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves)[back] if len(leaves) > 1 else leaves[0], *parts
    )


class Checkpoints:
    """The state of a call's training on disk: the newest is kept, and is there whole or not at all."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self.seconds = seconds
        self._last = time.monotonic()
        self.any = self.path.is_file()  # whether there is one

    def due(self) -> bool:
        """Whether the last one is long ago."""
        return time.monotonic() - self._last >= self.seconds

    def save(self, epoch: int, state: PyTree) -> None:
        """Keep the state after an epoch, in place of the one before; errors as of `write_whole`."""
        with naming(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        leaves = jax.tree.leaves(jax.device_get(state))
        write_arrays(self.path, {str(i): leaf for i, leaf in enumerate(leaves)}, {"epoch": epoch})
        self._last = time.monotonic()
        self.any = True

    def restore(self, like: Callable[[int], PyTree]) -> tuple[int, PyTree] | None:
        """The newest state with its epoch, if there is one; `like(epoch)` has its shapes."""
        if not self.any:
            return None
        try:
            arrays, about = read_arrays(self.path)
            expected, structure = jax.tree.flatten(like(about["epoch"]))
            leaves = [arrays[str(i)] for i in range(len(arrays))]
            if [(a.shape, a.dtype) for a in leaves] != [(a.shape, a.dtype) for a in expected]:
                raise ValueError(f"{self.path}: holds another training's state")
        except ValueError as error:
            _log.warning("%s; trained anew", error)
            self.path.unlink()
            return None
        return about["epoch"], jax.tree.unflatten(structure, leaves)


def train_call(
    programs: Programs,
    group: Group,
    cells: Sequence[Cell],
    seeds: Sequence[int],
    data: tuple[jax.Array, jax.Array],
    devices: Sequence[jax.Device],
    checkpoints: Checkpoints,
    after_epoch: Callable[[int, np.ndarray], bool],
    *,
    keep: bool,
) -> Trained | None:
    """Train networks together, an epoch per compiled call.

    Args:
        programs: of the sweep.
        group: theirs.
        cells, seeds: one per network; a multiple of the devices.
        data: on the devices.
        devices: to spread them over.
        checkpoints: where to go on from, if there is one, and to store one every now and then.
        after_epoch: called with epochs done and each network's losses `[num_networks, epochs]`;
            False: stop here.
        keep: store the final state even of a short training, since more calls follow before the
            batch is stored.

    Returns:
        The trained networks; None if stopped, with a checkpoint of how far they got.
    """
    epochs, steps = programs.sweep.epochs, programs.steps_per_epoch
    states = initial_states(programs, group, cells, seeds, devices)
    losses = np.zeros((len(cells), 0), states.config.learning_rate.dtype)

    def changing(epoch: int) -> dict[str, PyTree]:
        """What a checkpoint holds: all that training changes."""
        held = losses if losses.shape[1] == epoch else np.zeros((len(cells), epoch), losses.dtype)
        return {
            "params": states.params,
            "opt_state": jax.tree.leaves(states.opt_state),
            "step": states.step,
            "finite": states.finite,
            "losses": held,
        }

    done = 0
    if (restored := checkpoints.restore(changing)) is not None:
        done, stored = restored
        opt_state = jax.tree.unflatten(jax.tree.structure(states.opt_state), stored["opt_state"])
        states = states._replace(
            params=stored["params"],
            opt_state=opt_state,
            step=stored["step"],
            finite=stored["finite"],
        )
        losses = stored["losses"]
        if not after_epoch(done, losses):
            return None
    states = shard(states, devices)
    for after, step_losses in train_in_calls(
        states, data, (epochs - done) * steps, steps_per_call=steps, devices=devices
    ):
        states, done = after, done + 1
        losses = np.concatenate([losses, np.asarray(step_losses).mean(1, keepdims=True)], axis=1)
        go_on = after_epoch(done, losses)
        finished_long_work = done == epochs and (keep or checkpoints.any)
        if not go_on or finished_long_work or checkpoints.due():
            checkpoints.save(done, changing(done))
        if not go_on:
            return None
    return Trained(*jax.device_get((states.params, losses, states.finite)))
