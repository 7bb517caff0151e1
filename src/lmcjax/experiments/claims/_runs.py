"""Sweeps that experiments run, and what they measure on pairs of the networks that are kept."""

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PyTree

from lmcjax.batching import network_map
from lmcjax.data import Dataset
from lmcjax.experiments.claims._experiment import Tell
from lmcjax.interpolation import interpolate
from lmcjax.models import Network
from lmcjax.sweep import Sweep, SweepProgress, load_networks, run_sweep
from lmcjax.symmetry import PermutationSpec, discover

_SECONDS_BETWEEN_REPORTS = 30.0


class TrainedGrid(NamedTuple):
    """What is trained, and on which data."""

    dataset: str  # as `load_dataset` names it
    sweep: Sweep


class TrainedPair(NamedTuple):
    """Two trained networks, and the data on which they are compared."""

    apply: Callable[[PyTree, Array], Array]
    spec: PermutationSpec
    params_a: PyTree
    params_b: PyTree
    train: tuple[Array, Array]  # inputs and labels
    test: tuple[Array, Array]


Measurements: TypeAlias = dict[str, Array]
"""Numbers by name."""


def train_sweep(sweep: Sweep, dataset: Dataset, folder: Path, tell: Tell) -> xr.Dataset:
    """Run a sweep, or resume it; reports now and then how far it is."""
    last_report = -math.inf

    def on_progress(progress: SweepProgress) -> None:
        nonlocal last_report
        now = time.monotonic()
        if now - last_report < _SECONDS_BETWEEN_REPORTS:
            return
        last_report = now
        networks = f"{progress.networks_done}/{progress.num_networks} networks"
        tell(f"  {networks}, {progress.share:.0%} of the work")

    return run_sweep(sweep, dataset, folder, resume=True, on_progress=on_progress)


def linear_error(
    apply: Callable[[PyTree, Array], Array],
    params_a: PyTree,
    params_b: PyTree,
    inputs: Array,
    num_points: int = 11,
) -> dict[str, Float[Array, ""]]:
    """How far outputs along `(1 - t) A + t B` are from those between A's and B's.

    This is the error of Theorem 3.1.

    Returns:
        `squared_error`: `max_t mean_x |f(x; theta_t) - (1 - t) f(x; A) - t f(x; B)|^2`, summed over
            outputs;
        `largest_squared_error`: the same with the maximum over x;
        `squared_output`: the mean of A's and B's mean squared outputs.
    """
    outputs_a = apply(params_a, inputs)
    outputs_b = apply(params_b, inputs)

    def error_at(t: Array) -> tuple[Array, Array]:
        outputs = apply(interpolate(params_a, params_b, t), inputs)
        chord = (1 - t) * outputs_a + t * outputs_b
        squared_distance = jnp.sum((outputs - chord) ** 2, axis=-1)
        return squared_distance.mean(), squared_distance.max()

    mean, largest = jax.lax.map(error_at, jnp.linspace(0, 1, num_points))
    squared_a = jnp.sum(outputs_a**2, axis=-1).mean()
    squared_b = jnp.sum(outputs_b**2, axis=-1).mean()
    return {
        "squared_error": mean.max(),
        "largest_squared_error": largest.max(),
        "squared_output": (squared_a + squared_b) / 2,
    }


def measure_pairs(
    folder: Path, dataset: Dataset, measure: Callable[[TrainedPair], Measurements], **cell: Any
) -> dict[str, np.ndarray]:
    """Measure the disjoint pairs of one cell of a sweep that kept its networks.

    Args:
        folder: of the sweep.
        dataset: on which the networks were trained.
        measure: measurements of a pair; traced.
        **cell: tells the cell from the others, see `load_networks`.

    Returns:
        The measurements, with a leading axis of pairs.
    """
    network, params = load_networks(folder, **cell)
    params = jax.device_get(params)  # cut on the host, so that the cutting is not compiled
    params_a = jax.tree.map(lambda leaf: leaf[0::2], params)
    params_b = jax.tree.map(lambda leaf: leaf[1::2], params)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    spec = discover(network.apply, shapes, dataset.test.inputs[:2])
    train = (jnp.asarray(dataset.train.inputs), jnp.asarray(dataset.train.labels))
    test = (jnp.asarray(dataset.test.inputs), jnp.asarray(dataset.test.labels))
    compiled = _compile_measurement(measure, network, spec)
    return jax.device_get(compiled(params_a, params_b, train, test))


# Kept, so that cells of the same shapes compile once
@functools.cache
def _compile_measurement(
    measure: Callable[[TrainedPair], Measurements], network: Network, spec: PermutationSpec
) -> Callable[..., Measurements]:
    def measure_pair(
        params_a: PyTree,
        params_b: PyTree,
        train: tuple[Array, Array],
        test: tuple[Array, Array],
    ) -> Measurements:
        return measure(TrainedPair(network.apply, spec, params_a, params_b, train, test))

    return jax.jit(network_map(measure_pair, in_axes=(0, 0, None, None)))


def stack_cells(
    cells: dict[tuple[Any, ...], dict[str, np.ndarray]], dims: tuple[str, ...]
) -> xr.Dataset:
    """Join measurements of the cells of a grid to one dataset.

    Args:
        cells: from a cell's coordinates to its arrays `[pairs]`. Every combination of coordinates
            is there, the last one varying fastest.
        dims: names of the coordinates.
    """
    coords = {}
    for position, dim in enumerate(dims):
        values = [coordinates[position] for coordinates in cells]
        coords[dim] = list(dict.fromkeys(values))  # each once, in their order
    grid_shape = [len(values) for values in coords.values()]
    first_cell = next(iter(cells.values()))
    variables = {}
    for name in first_cell:
        stacked = np.stack([cell[name] for cell in cells.values()])
        variables[name] = ((*dims, "pair"), stacked.reshape(*grid_shape, -1))
    return xr.Dataset(variables, coords=coords)
