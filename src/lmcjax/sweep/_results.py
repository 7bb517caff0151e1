"""The results of a sweep as one labelled dataset."""

import itertools
import json
from typing import Any

import jax
import numpy as np
import xarray as xr

from lmcjax.sweep._config import Cell
from lmcjax.sweep._folder import SweepFolder
from lmcjax.sweep._programs import Programs

SPLITS = ("train", "test")
_CELL = ("width", "num_hidden_layers", "optimizer", "learning_rate")
_NATS, _SHARE = {"units": "nats"}, {"units": "1"}
_PATH, _LAYERS = ("pair", "split", "matching"), ("pair", "similarity", "layer")
_VARIABLES: dict[
    str, tuple[tuple[str, ...], dict[str, str]]
] = {  # dimensions after those of the cell, attributes
    "path_loss": ((*_PATH, "t"), _NATS),
    "path_accuracy": ((*_PATH, "t"), _SHARE),
    "midpoint_loss": (_PATH, {**_NATS, "long_name": "loss at t = 1/2"}),
    "midpoint_accuracy": (_PATH, _SHARE),
    "barrier": (_PATH, {**_NATS, "long_name": "max of loss minus chord"}),
    "barrier_over_mean": (
        _PATH,
        {**_NATS, "long_name": "max of loss minus mean of the endpoints' losses"},
    ),
    "finite": (_PATH, {"long_name": "no loss on the path is nan or inf"}),
    "endpoint_loss": (("pair", "split", "network"), _NATS),
    "endpoint_accuracy": (("pair", "split", "network"), _SHARE),
    "approximate_dimension": (_LAYERS, {**_SHARE, "long_name": "(tr M)^2 / tr(M^2) of network A"}),
    "similarity_reached": (_LAYERS, {}),
    "similarity_of_identity": (_LAYERS, {}),
    "converged": (("pair", "similarity"), {}),
    "permutation": (
        ("pair", "matching", "layer", "neuron"),
        {"long_name": "neuron of B that takes the place of A's; -1 beyond a layer's width"},
    ),
    "training_loss": (("seed", "epoch"), {**_NATS, "long_name": "mean over an epoch"}),
    "training_finite": (("seed",), {"long_name": "no training loss was nan or inf"}),
}


def merge(folder: SweepFolder, programs: Programs, *, partial: bool = False) -> xr.Dataset:
    """All finished batches as one dataset.

    Args:
        folder: of the sweep.
        programs: of the same sweep.
        partial: nan (and False, and -1) where a batch is not finished, instead of an error.

    Raises:
        FileNotFoundError: a batch is not finished.
        ValueError: a batch is damaged.
    """
    sweep, plan = programs.sweep, folder.plan()
    grid = {
        name: list(dict.fromkeys(getattr(cell, name) for cell in sweep.cells)) for name in _CELL
    }
    position = {name: {value: i for i, value in enumerate(values)} for name, values in grid.items()}
    layers = _layers(programs)
    neurons = _neurons(programs, layers)
    values: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    lengths = {
        "pair": len(sweep.pairs),
        "seed": len(sweep.seeds),
        "layer": len(layers),
        "neuron": int(neurons.max()),
    }
    lengths |= {name: len(column) for name, column in grid.items()}
    for number in range(len(plan.batches)):
        if partial and not folder.batch_path(number).is_file():
            continue
        stored = folder.read_batch(number)
        for stage, spent in stored.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
        rows = _rows(programs, plan.units(sweep, number))
        for name, array in stored.arrays.items():
            inner, _ = _VARIABLES[name]
            if name not in values:
                values[name] = _empty(inner, lengths, array)
            for (cell, index), row in zip(rows[inner[0]], array, strict=True):
                at: list[Any] = [position[n][v] for n, v in zip(_CELL, cell, strict=True)]
                places: list[Any] = [range(size) for size in row.shape]
                if "layer" in inner:
                    names = programs.program(cell.width, cell.num_hidden_layers).spec.groups
                    places[inner[1:].index("layer")] = [layers.index(name) for name in names]
                values[name][(*at, index, *np.ix_(*places))] = row
    variables = {
        name: ((*_CELL, *_VARIABLES[name][0]), array, _VARIABLES[name][1])
        for name, array in values.items()
    }
    variables |= {
        "num_neurons": (
            ("width", "num_hidden_layers", "layer"),
            neurons,
            {"long_name": "in a group"},
        ),
        "seed_of": (("pair", "network"), np.array(sweep.seeds)[np.array(sweep.pairs)], {}),
    }
    coordinates = {
        **{name: (name, column, {}) for name, column in grid.items()},
        "learning_rate": (
            "learning_rate",
            grid["learning_rate"],
            {"long_name": "peak learning rate"},
        ),
        "split": list(SPLITS),
        "matching": ["none", *sweep.matchings],
        "similarity": list(sweep.matchings),
        "layer": layers,
        "network": ["A", "B"],
        "seed": list(sweep.seeds),
        "t": np.linspace(0, 1, sweep.num_points),
    }
    return xr.Dataset(variables, coords=coordinates, attrs=_provenance(folder, programs, seconds))


def _rows(programs: Programs, units: list[tuple[Any, ...]]) -> dict[str, list[tuple[Cell, int]]]:
    """To which cell, and which pair or seed of it, the rows of a batch's arrays belong."""
    sweep = programs.sweep
    number = {pair: i for i, pair in enumerate(sweep.pairs)}
    rows: dict[str, list[tuple[Cell, int]]] = {"pair": [], "seed": []}
    for unit in units:
        cell, seeds = sweep.cells[unit[0].cell], [network.seed for network in unit]
        rows["seed"] += [(cell, seed) for seed in seeds]
        rows["pair"] += [(cell, number[pair]) for pair in itertools.combinations(seeds, 2)]
    return rows


def _empty(inner: tuple[str, ...], lengths: dict[str, int], like: np.ndarray) -> np.ndarray:
    """What stands where nothing is known."""
    missing: Any = (
        False if like.dtype == bool else -1 if np.issubdtype(like.dtype, np.integer) else np.nan
    )
    shape = [lengths.get(name, size) for name, size in zip(inner, like.shape, strict=True)]
    return np.full([*(lengths[name] for name in _CELL), *shape], missing, like.dtype)


def _layers(programs: Programs) -> list[str]:
    """The groups of all architectures, those of the deepest last."""
    sweep = programs.sweep
    specs = [
        programs.program(w, d).spec for d in sorted(sweep.num_hidden_layers) for w in sweep.widths
    ]
    return list(dict.fromkeys(group for spec in specs for group in spec.groups))


def _neurons(programs: Programs, layers: list[str]) -> np.ndarray:
    """Neurons by width, depth and layer; 0 where an architecture lacks a layer."""
    sweep = programs.sweep
    sizes = [
        [dict(programs.program(w, d).spec.group_shapes()) for d in sweep.num_hidden_layers]
        for w in sweep.widths
    ]
    return np.array(
        [
            [[int(np.prod(s[layer])) if layer in s else 0 for layer in layers] for s in row]
            for row in sizes
        ]
    )


def _provenance(
    folder: SweepFolder, programs: Programs, seconds: dict[str, float]
) -> dict[str, Any]:
    """What made these results: plain values and JSON, as netCDF attributes hold them."""
    about = folder.identity()
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
        "seconds": json.dumps({stage: round(spent, 3) for stage, spent in seconds.items()}),
    }
