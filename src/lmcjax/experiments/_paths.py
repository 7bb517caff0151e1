"""What experiments measure on pairs of kept networks, beside what a sweep does: how far a path is from linear."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PyTree
from matplotlib.axes import Axes

from lmcjax.batching import network_map
from lmcjax.data import Dataset
from lmcjax.interpolation import interpolate
from lmcjax.models import Network
from lmcjax.sweep import load_networks
from lmcjax.symmetry import PermutationSpec, discover


def linear_error(
    apply: Callable[[PyTree, Array], Array], params_a: PyTree, params_b: PyTree, inputs: Array, num_points: int = 11
) -> dict[str, Float[Array, ""]]:
    """How far the outputs along `(1 - t) A + t B` are from those between A's and B's: the error of Theorem 3.1.

    Returns:
        `squared_error`: `max_t mean_x |f(x; theta_t) - (1 - t) f(x; A) - t f(x; B)|^2`, summed over outputs;
        `largest_squared_error`: the same with the maximum over x; `squared_output`: the mean of A's and B's mean
        squared outputs.
    """
    ends = apply(params_a, inputs), apply(params_b, inputs)

    def at(t: Array) -> tuple[Array, Array]:
        chord = (1 - t) * ends[0] + t * ends[1]
        squared = jnp.sum((apply(interpolate(params_a, params_b, t), inputs) - chord) ** 2, axis=-1)
        return squared.mean(), squared.max()

    mean, largest = jax.lax.map(at, jnp.linspace(0, 1, num_points))
    output = sum(jnp.sum(end**2, axis=-1).mean() for end in ends) / 2
    return {"squared_error": mean.max(), "largest_squared_error": largest.max(), "squared_output": output}


def measure_pairs(
    folder: Path, dataset: Dataset, measure: Callable[..., dict[str, Array]], **cell: Any
) -> dict[str, np.ndarray]:
    """`measure(apply, spec, params_a, params_b, train, test)` on the disjoint pairs of a cell of a sweep that kept its
    networks; results have a leading axis of pairs."""
    network, params = load_networks(folder, **cell)
    params = jax.device_get(params)  # cut on the host: nothing to compile
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    spec = discover(network.apply, shapes, dataset.test.inputs[:2])
    splits = (tuple(map(jnp.asarray, split)) for split in (dataset.train, dataset.test))
    sides = (jax.tree.map(lambda leaf, start=start: leaf[start::2], params) for start in (0, 1))
    return jax.device_get(_compiled(measure, network, spec)(*sides, *splits))


@functools.cache
def _compiled(measure: Callable[..., dict[str, Array]], network: Network, spec: PermutationSpec) -> Callable[..., Any]:
    """Kept, so that the same shapes compile once."""

    def one(params_a: PyTree, params_b: PyTree, *splits: tuple[Array, Array]) -> dict[str, Array]:
        return measure(network.apply, spec, params_a, params_b, *splits)

    return jax.jit(network_map(one, in_axes=(0, 0, None, None)))


def stack_cells(cells: dict[tuple[Any, ...], dict[str, np.ndarray]], dims: tuple[str, ...]) -> xr.Dataset:
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


def tidy(axes: Axes) -> None:
    """What all panels have in common."""
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def number_ticks(axes: Axes, values: np.ndarray) -> None:
    """Widths, depths or dimensions on a logarithmic axis, at most eight of them, as numbers."""
    shown = values[:: -(-len(values) // 8)]
    axes.set_xticks(shown, [f"{value:,}" for value in shown])
    axes.set_xticks([], minor=True)


def label_end(axes: Axes, text: str, x: float, y: float) -> None:
    """A line's name at its right end."""
    axes.annotate(text, (x, y), (4, 0), textcoords="offset points", va="center", fontsize=8, annotation_clip=False)
