"""The results of all batches of a sweep as one labelled dataset."""

import itertools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from lmcjax.sweep._folder import StoredBatch, SweepFolder
from lmcjax.sweep._grid import Cell
from lmcjax.sweep._network_programs import Programs
from lmcjax.sweep._pairs import Compared
from lmcjax.sweep._sweep_plan import Unit
from lmcjax.sweep._variables import Label, Variable, variables_of_fields

VARIABLES: dict[str, Variable] = {
    **variables_of_fields(Compared, rows="pair"),
    "permutation": Variable(
        ("pair", "matching", "layer", "neuron"),
        Label(
            long_name="neuron of B that takes the place of A's; -1 beyond a layer's width",
        ),
    ),
    "training_loss": Variable(("seed", "epoch"), Label("nats", "mean over an epoch")),
    "training_finite": Variable(("seed",), Label(long_name="no training loss was nan or inf")),
}
"""The arrays that batches store; beside these dimensions, the results have those of the cells."""


class _Row(NamedTuple):
    """To what a row of a batch's arrays belongs."""

    cell: Cell
    position: tuple[int, ...]  # along the axes of the grid, then along the pairs or seeds


def merge(folder: SweepFolder, programs: Programs, *, partial: bool = False) -> xr.Dataset:
    """Merge all finished batches into one dataset.

    Args:
        folder: of the sweep.
        programs: of the same sweep.
        partial: nan (and False, and -1) where a batch is not finished, instead of an error.

    Raises:
        FileNotFoundError: a batch is not finished.
        ValueError: a batch is damaged.
    """
    sweep = programs.sweep
    plan = folder.plan()
    results = _Results(programs)
    seconds: dict[str, float] = {}
    for number in range(len(plan.batches)):
        if partial and not folder.batch_path(number).is_file():
            continue
        stored = folder.read_batch(number)
        results.add(stored, plan.units(sweep, number))
        for stage, spent in stored.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    return results.dataset(attributes=_provenance(folder, programs, seconds))


class _Results:
    """The arrays of a whole sweep, filled batch by batch."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        sweep = programs.sweep
        self._grid = _grid(sweep.cells)
        self._layers = _layers(programs)
        self._num_neurons = _num_neurons(programs, self._layers)
        self._lengths = {name: len(values) for name, values in self._grid.items()}
        self._lengths["pair"] = len(sweep.pairs)
        self._lengths["seed"] = len(sweep.seeds)
        self._lengths["layer"] = len(self._layers)
        self._lengths["neuron"] = int(self._num_neurons.max())
        self._arrays: dict[str, np.ndarray] = {}

    def add(self, stored: StoredBatch, units: Sequence[Unit]) -> None:
        """Put the arrays of a batch into their places."""
        rows = self._rows(units)
        for name, array in stored.arrays.items():
            dimensions = VARIABLES[name].dimensions
            if name not in self._arrays:
                self._arrays[name] = self._empty(dimensions, array)
            for row, values in zip(rows[dimensions[0]], array, strict=True):
                place = self._place(row, dimensions, values.shape)
                self._arrays[name][place] = values

    def _rows(self, units: Sequence[Unit]) -> dict[str, list[_Row]]:
        """The rows of a batch's arrays, for those of pairs and those of seeds."""
        sweep = self._programs.sweep
        number_of_pair = {pair: number for number, pair in enumerate(sweep.pairs)}
        rows: dict[str, list[_Row]] = {"pair": [], "seed": []}
        for unit in units:
            cell = sweep.cells[unit[0].cell]
            cell_position = self._cell_position(cell)
            seeds = [network.seed for network in unit]
            for seed in seeds:
                rows["seed"].append(_Row(cell, (*cell_position, seed)))
            for pair in itertools.combinations(seeds, 2):
                rows["pair"].append(_Row(cell, (*cell_position, number_of_pair[pair])))
        return rows

    def _cell_position(self, cell: Cell) -> list[int]:
        """Where a cell is along each axis of the grid."""
        position = []
        for name, values in self._grid.items():
            position.append(values.index(getattr(cell, name)))
        return position

    def _empty(self, dimensions: tuple[str, ...], like: np.ndarray) -> np.ndarray:
        """An array for the whole sweep that says that nothing is known."""
        missing: Any = np.nan
        if like.dtype == bool:
            missing = False
        elif np.issubdtype(like.dtype, np.integer):
            missing = -1
        shape = [self._lengths[name] for name in self._grid]
        for name, size in zip(dimensions, like.shape, strict=True):
            shape.append(self._lengths.get(name, size))
        return np.full(shape, missing, like.dtype)

    def _place(self, row: _Row, dimensions: tuple[str, ...], shape: tuple[int, ...]) -> tuple:
        """Index the values of a row in the array of the whole sweep.

        A batch has the layers of its own architecture only, and no more neurons than these have.
        """
        positions: list[Sequence[int]] = []
        for name, size in zip(dimensions[1:], shape, strict=True):
            if name == "layer":
                program = self._programs.program(row.cell.width, row.cell.num_hidden_layers)
                positions.append([self._layers.index(group) for group in program.spec.groups])
            else:
                positions.append(range(size))
        return (*row.position, *np.ix_(*positions))

    def dataset(self, attributes: dict[str, Any]) -> xr.Dataset:
        """Label the arrays."""
        sweep = self._programs.sweep
        variables: dict[str, Any] = {}
        for name, array in self._arrays.items():
            variable = VARIABLES[name]
            dimensions = (*self._grid, *variable.dimensions)
            variables[name] = (dimensions, array, variable.attributes)
        variables["num_neurons"] = (
            ("width", "num_hidden_layers", "layer"),
            self._num_neurons,
            {"long_name": "in a group"},
        )
        seeds_of_pairs = np.array(sweep.seeds)[np.array(sweep.pairs)]
        variables["seed_of"] = (("pair", "network"), seeds_of_pairs)
        return xr.Dataset(variables, coords=self._coordinates(), attrs=attributes)

    def _coordinates(self) -> dict[str, Any]:
        sweep = self._programs.sweep
        coordinates: dict[str, Any] = dict(self._grid)
        coordinates["learning_rate"] = (
            "learning_rate",
            self._grid["learning_rate"],
            {"long_name": "peak learning rate"},
        )
        coordinates["split"] = ["train", "test"]
        coordinates["matching"] = ["none", *sweep.matchings]
        coordinates["similarity"] = list(sweep.matchings)
        coordinates["layer"] = self._layers
        coordinates["network"] = ["A", "B"]
        coordinates["seed"] = list(sweep.seeds)
        coordinates["t"] = np.linspace(0, 1, sweep.num_points)
        return coordinates


def _grid(cells: Sequence[Cell]) -> dict[str, list]:
    """The values along each axis of the grid, in the order of the sweep."""
    grid: dict[str, list] = {}
    for name in Cell._fields:
        values = [getattr(cell, name) for cell in cells]
        # A dict keeps the order, a set would not
        grid[name] = list(dict.fromkeys(values))
    return grid


def _layers(programs: Programs) -> list[str]:
    """The groups of all architectures, those of the deepest last."""
    sweep = programs.sweep
    layers: dict[str, None] = {}
    for depth in sorted(sweep.num_hidden_layers):
        for width in sweep.widths:
            layers |= dict.fromkeys(programs.program(width, depth).spec.groups)
    return list(layers)


def _num_neurons(programs: Programs, layers: Sequence[str]) -> np.ndarray:
    """Neurons by width, depth and layer; 0 where an architecture lacks a layer."""
    sweep = programs.sweep
    shape = (len(sweep.widths), len(sweep.num_hidden_layers), len(layers))
    num_neurons = np.zeros(shape, int)
    for i, width in enumerate(sweep.widths):
        for j, depth in enumerate(sweep.num_hidden_layers):
            group_shapes = dict(programs.program(width, depth).spec.group_shapes())
            for k, layer in enumerate(layers):
                if layer in group_shapes:
                    num_neurons[i, j, k] = np.prod(group_shapes[layer])
    return num_neurons


def _provenance(
    folder: SweepFolder, programs: Programs, seconds: dict[str, float]
) -> dict[str, Any]:
    """What made these results: plain values and JSON, as netCDF attributes hold them."""
    about = folder.identity()
    rounded = {stage: round(spent, 3) for stage, spent in seconds.items()}
    return {
        "title": "linear mode connectivity, a sweep",
        "config": json.dumps(about["sweep"]),
        "dataset": about["data"]["name"],
        "train_samples": about["data"]["train_samples"],
        "test_samples": about["data"]["test_samples"],
        "fingerprint": about["data"]["fingerprint"],
        "training_steps": programs.num_steps,
        "versions": json.dumps(about["versions"]),
        "devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "x64": int(about["x64"]),
        "seconds": json.dumps(rounded),
    }
