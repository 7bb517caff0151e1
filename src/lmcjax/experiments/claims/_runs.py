"""Sweeps that experiments run, and what they measure on kept networks beside: how far a path is
from linear.
"""

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PyTree

from lmcjax.batching import network_map
from lmcjax.data import Dataset
from lmcjax.interpolation import interpolate
from lmcjax.models import Network
from lmcjax.sweep import Sweep, SweepProgress, load_networks, run_sweep
from lmcjax.symmetry import PermutationSpec, discover

_TELL_EVERY = 30.0  # seconds


def train_sweep(
    sweep: Sweep, dataset: Dataset, folder: Path, tell: Callable[[str], None]
) -> xr.Dataset:
    """A sweep, begun or gone on with; says now and then how far it is."""
    last = -math.inf

    def on_progress(progress: SweepProgress) -> None:
        nonlocal last
        if time.monotonic() - last >= _TELL_EVERY:
            last = time.monotonic()
            tell(
                f"  {progress.networks_done}/{progress.num_networks} networks, {progress.share:.0%} of the work"
            )

    return run_sweep(sweep, dataset, folder, resume=True, on_progress=on_progress)


def linear_error(
    apply: Callable[[PyTree, Array], Array],
    params_a: PyTree,
    params_b: PyTree,
    inputs: Array,
    num_points: int = 11,
) -> dict[str, Float[Array, ""]]:
    """How far the outputs along `(1 - t) A + t B` are from those between A's and B's: the error of
    Theorem 3.1.

    Returns:
        `squared_error`: `max_t mean_x |f(x; theta_t) - (1 - t) f(x; A) - t f(x; B)|^2`, summed over
            outputs;
        `largest_squared_error`: the same with the maximum over x; `squared_output`: the mean of A's
            and B's mean
        squared outputs.
    """
    ends = apply(params_a, inputs), apply(params_b, inputs)

    def at(t: Array) -> tuple[Array, Array]:
        chord = (1 - t) * ends[0] + t * ends[1]
        squared = jnp.sum((apply(interpolate(params_a, params_b, t), inputs) - chord) ** 2, axis=-1)
        return squared.mean(), squared.max()

    mean, largest = jax.lax.map(at, jnp.linspace(0, 1, num_points))
    output = sum(jnp.sum(end**2, axis=-1).mean() for end in ends) / 2
    return {
        "squared_error": mean.max(),
        "largest_squared_error": largest.max(),
        "squared_output": output,
    }


def measure_pairs(
    folder: Path, dataset: Dataset, measure: Callable[..., dict[str, Array]], **cell: Any
) -> dict[str, np.ndarray]:
    """`measure(apply, spec, params_a, params_b, train, test)` on the disjoint pairs of a cell of a
    sweep that kept its
    networks; results have a leading axis of pairs."""
    network, params = load_networks(folder, **cell)
    params = jax.device_get(params)  # cut on the host: nothing to compile
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    spec = discover(network.apply, shapes, dataset.test.inputs[:2])
    splits = (tuple(map(jnp.asarray, split)) for split in (dataset.train, dataset.test))
    sides = (jax.tree.map(lambda leaf, start=start: leaf[start::2], params) for start in (0, 1))
    return jax.device_get(_compiled(measure, network, spec)(*sides, *splits))


@functools.cache
def _compiled(
    measure: Callable[..., dict[str, Array]], network: Network, spec: PermutationSpec
) -> Callable[..., Any]:
    """Kept, so that the same shapes compile once."""

    def one(params_a: PyTree, params_b: PyTree, *splits: tuple[Array, Array]) -> dict[str, Array]:
        return measure(network.apply, spec, params_a, params_b, *splits)

    return jax.jit(network_map(one, in_axes=(0, 0, None, None)))


def stack_cells(
    cells: dict[tuple[Any, ...], dict[str, np.ndarray]], dims: tuple[str, ...]
) -> xr.Dataset:
    """Measurements of the cells of a grid as one dataset.

    Args:
        cells: from a cell's coordinates to its arrays `[pairs]`; every combination is there.
        dims: names of the coordinates.
    """
    grid = [list(dict.fromkeys(key[i] for key in cells)) for i in range(len(dims))]
    names = next(iter(cells.values()))
    values = {
        name: (
            (*dims, "pair"),
            np.stack([cell[name] for cell in cells.values()]).reshape(*map(len, grid), -1),
        )
        for name in names
    }
    return xr.Dataset(values, coords=dict(zip(dims, grid, strict=True)))
