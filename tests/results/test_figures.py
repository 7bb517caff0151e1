"""The figure says what it shows: axes, units, one curve per matching."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from lmcjax import cli
from lmcjax.results import MATCHING_LABELS, dimension_table, plot_figure2, plot_sweep, save_figure
from lmcjax.sweep._batch_results import VARIABLES


def make_results(repetitions: int, num_layers: int = 2) -> xr.Dataset:
    rng = np.random.default_rng(0)
    matchings, similarities = list(MATCHING_LABELS)[:4], list(MATCHING_LABELS)[1:4]
    by_matching = ("split", "learning_rate", "pair", "matching")
    shape = (1, 3, repetitions, 4)
    return xr.Dataset(
        {
            "midpoint_loss": (by_matching, rng.uniform(0.1, 2, shape)),
            "barrier": (by_matching, rng.uniform(0, 1, shape)),
            "finite": (by_matching, np.ones(shape, bool)),
            "endpoint_loss": (
                ("split", *by_matching[1:3], "network"),
                rng.uniform(0.1, 1, (1, 3, repetitions, 2)),
            ),
            "approximate_dimension": (
                ("similarity", "layer", *by_matching[1:3]),
                rng.uniform(1, 100, (3, num_layers, 3, repetitions)),
            ),
            "num_neurons": ("layer", np.full(num_layers, 7)),
        },
        coords={
            "learning_rate": [1e-3, 1e-2, 1e-1],
            "matching": matchings,
            "similarity": similarities,
            "split": ["test"],
            "layer": [f"Dense_{i}" for i in range(num_layers)],
        },
        attrs={"dataset": "noise", "training_steps": 10},
    )


def test_panels_are_labelled_and_show_the_numbers():
    results = make_results(3)
    losses, barriers, dimensions = plot_figure2(results).axes
    assert "nats" in losses.get_ylabel()
    assert all(
        axes.get_xlabel() == "peak learning rate" and axes.get_xscale() == "log"
        for axes in (losses, barriers)
    )
    assert len(losses.lines) == 5
    assert len(barriers.lines) == 4
    assert len(dimensions.lines) == 3 * 2
    assert len({to_hex(line.get_color()) for line in losses.lines}) == 5
    by_label = {line.get_label(): line.get_ydata() for line in losses.lines}
    expected = results["midpoint_loss"].sel(split="test", matching="covariance").mean("pair")
    np.testing.assert_allclose(by_label[MATCHING_LABELS["covariance"]], expected)


def test_one_pair_has_no_band(tmp_path):
    figure = plot_figure2(make_results(1))
    assert not any(axes.collections for axes in figure.axes)
    png, pdf = save_figure(figure, tmp_path / "figure")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")


def test_many_layers_are_summarised():
    results = make_results(3, num_layers=12)
    dimensions = plot_figure2(results).axes[2]
    assert len(dimensions.lines) == 3
    expected = (
        results["approximate_dimension"].sel(similarity="weights").median("layer").mean("pair")
    )
    np.testing.assert_allclose(dimensions.lines[0].get_ydata(), expected)
    cell = dimension_table(results).columns[1]._cells[0]
    values = (
        results["approximate_dimension"].mean("pair").sel(similarity="weights", learning_rate=1e-3)
    )
    assert (
        cell
        == f"{float(values.median()):.3g} ({float(values.min()):.3g} to {float(values.max()):.3g})"
    )


def test_a_sweep_has_a_panel_for_every_axis_that_was_swept():
    """Each through the cell of the best networks; the optimizers as categories with bars."""
    rng = np.random.default_rng(0)
    cell = {
        "width": [8, 16],
        "num_hidden_layers": [2],
        "optimizer": ["sgd", "adam"],
        "learning_rate": [0.01, 0.1, 1.0],
    }
    shape = (2, 1, 2, 3, 4, 1, 2)
    own = rng.uniform(0.5, 1, shape)
    own[0, 0, 1, 2] = 0.1
    results = xr.Dataset(
        {
            "endpoint_loss": ((*cell, "pair", "split", "network"), own),
            "barrier": ((*cell, "pair", "split", "matching"), rng.uniform(0, 1, shape)),
            "finite": ((*cell, "pair", "split", "matching"), np.ones(shape, bool)),
        },
        coords={**cell, "split": ["test"], "matching": ["none", "weights"]},
        attrs={"dataset": "noise", "training_steps": 10},
    )
    by_width, by_rate, by_optimizer = plot_sweep(results).axes
    assert [axes.get_xlabel() for axes in (by_width, by_rate, by_optimizer)] == [
        "width, neurons per hidden layer",
        "peak learning rate",
        "optimizer",
    ]
    assert by_rate.get_title() == "width 8, adam"
    assert by_width.get_title() == "rate 1, adam"
    assert "nats" in by_width.get_ylabel()
    expected = (
        results["barrier"].sel(width=8, optimizer="adam", matching="weights").squeeze().mean("pair")
    )
    np.testing.assert_allclose(by_rate.lines[1].get_ydata(), expected)
    assert len(by_width.lines) == 2
    assert len(by_optimizer.containers) == 2
    top = max(float(results["barrier"].mean("pair").max()), 0)
    assert by_width.get_ylim()[0] == 0
    assert by_width.get_ylim()[1] > 0.8 * top


SINGLE = {
    "width": [8],
    "num_hidden_layers": [1],
    "optimizer": ["sgd"],
    "learning_rate": [0.01],
    "seed": [0, 1],
}
SWEPT = {
    "width": [8, 16, 64],
    "num_hidden_layers": [1, 2, 3],
    "optimizer": ["sgd", "adam"],
    "learning_rate": [0.001, 0.01, 0.1],
    "seed": [0, 1, 2, 3, 4, 5],
}
LABELS = {
    "width": "width, neurons per hidden layer",
    "num_hidden_layers": "hidden layers",
    "learning_rate": "peak learning rate",
    "optimizer": "optimizer",
}


CELL = ("width", "num_hidden_layers", "optimizer", "learning_rate")  # dimensions before the others


def sweep_results(swept: tuple[str, ...]) -> xr.Dataset:
    """What a sweep over these axes stores, every variable of it, with made-up numbers.

    The networks at the first value of every axis are the best.
    """
    rng = np.random.default_rng(0)
    coordinates: dict[str, Any] = {
        name: SWEPT[name] if name in swept else SINGLE[name] for name in SINGLE
    }
    layers = [f"Dense_{i}" for i in range(max(coordinates["num_hidden_layers"]))]
    similarities = ["weights", "covariance"]
    coordinates |= {
        "split": ["train", "test"],
        "matching": ["none", *similarities],
        "similarity": similarities,
        "layer": layers,
        "network": ["A", "B"],
        "t": np.linspace(0, 1, 3),
    }
    sizes = {name: len(values) for name, values in coordinates.items()}
    sizes |= {"pair": sizes["seed"] // 2, "epoch": 2, "neuron": 8}
    variables = {}
    for name, variable in VARIABLES.items():
        dimensions = (*CELL, *variable.dimensions)
        values = rng.uniform(0.5, 1, [sizes[dimension] for dimension in dimensions])
        if name in ("finite", "converged", "training_finite"):
            values = np.ones_like(values, bool)
        if name == "endpoint_loss":
            values[0, 0, 0, 0] = 0.1
        variables[name] = (dimensions, values)
    by_layer = ("width", "num_hidden_layers", "layer")
    variables["num_neurons"] = (by_layer, np.full([sizes[name] for name in by_layer], 8))
    variables["seed_of"] = (("pair", "network"), np.reshape(coordinates["seed"], (-1, 2)))
    return xr.Dataset(variables, coordinates, {"dataset": "noise", "training_steps": 10})


def first_values(names: list[str]) -> str:
    """How a panel says at which cell of a sweep it is."""
    said = {
        "width": "width 8",
        "num_hidden_layers": "1 layer",
        "learning_rate": "rate 0.001",
        "optimizer": "sgd",
    }
    return ", ".join(said[name] for name in names)


def check_sweep_panel(panel: Axes, name: str, results: xr.Dataset) -> None:
    """A curve or bars per matching at all values of an axis, the mean over the pairs at the best
    cell's others.
    """
    cell = {other: 0 for other in LABELS if other != name}
    expected = results["barrier"].sel(split="test").isel(cell).mean("pair")
    if name == "optimizer":
        drawn = [bars.lines[0].get_xydata()[:, 1] for bars in panel.containers]
        assert [text.get_text() for text in panel.get_xticklabels()] == SWEPT[name]
    else:
        drawn = [line.get_xydata()[:, 1] for line in panel.lines]
        np.testing.assert_array_equal(panel.lines[0].get_xdata(), SWEPT[name])
    assert len(drawn) == results.sizes["matching"]
    for heights, matching in zip(drawn, results.matching.values, strict=True):
        np.testing.assert_allclose(heights, expected.sel(matching=matching))
    if name in ("width", "num_hidden_layers"):
        ticks = [text.get_text() for text in panel.get_xticklabels()]
        assert ticks == [str(value) for value in SWEPT[name]]
    assert panel.get_xscale() == ("log" if name in ("width", "learning_rate") else "linear")
    bands = len(panel.collections) > 0
    assert bands == (name == "optimizer" or results.sizes["pair"] > 1)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that a command makes; they are laid out, which asks for all their texts, and not
    written.
    """
    figures: list[Figure] = []

    def keep(figure: Figure, stem: Path) -> list[Path]:
        figure.draw_without_rendering()
        figures.append(figure)
        return [stem.with_suffix(".png")]

    monkeypatch.setattr("lmcjax.results._style.save_figure", keep)
    return figures


@pytest.mark.parametrize("swept", list(itertools.combinations(SWEPT, 2)), ids="-".join)
def test_every_pair_of_swept_axes_goes_through_plot(swept, drawn, tmp_path, capsys):
    results = sweep_results(swept)
    results.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    cli.main(["plot", str(tmp_path)])
    (figure,) = drawn
    assert "Test loss half-way" in capsys.readouterr().out
    assert f"{results.sizes['pair']} pairs" in figure.get_suptitle()

    if not {*swept} & {
        "width",
        "num_hidden_layers",
        "optimizer",
    }:  # one architecture: the paper's figure
        assert [panel.get_xlabel() for panel in figure.axes] == ["peak learning rate"] * 3
        np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), SWEPT["learning_rate"])
        return
    axes = [name for name in LABELS if name in swept]
    assert [panel.get_xlabel() for panel in figure.axes] == [LABELS[name] for name in axes]
    for panel, name in zip(figure.axes, axes, strict=True):
        assert panel.get_title() == first_values([other for other in axes if other != name])
        check_sweep_panel(panel, name, results)
    assert figure.axes[0].get_ylabel() == "test barrier, loss minus chord (nats)"
    legend = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    assert legend == [MATCHING_LABELS[matching] for matching in results.matching.values]
