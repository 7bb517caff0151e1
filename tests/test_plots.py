"""The figure says what it shows: axes, units, one curve per matching."""

import numpy as np
import xarray as xr
from matplotlib.colors import to_hex

from lmcjax.experiments.summary import MATCHING_NAMES, dimension_table
from lmcjax.plots import plot_figure2, plot_sweep, save_figure


def make_results(repetitions: int, num_layers: int = 2) -> xr.Dataset:
    rng = np.random.default_rng(0)
    matchings, similarities = list(MATCHING_NAMES)[:4], list(MATCHING_NAMES)[1:4]
    by_matching = ("split", "learning_rate", "pair", "matching")
    shape = (1, 3, repetitions, 4)
    return xr.Dataset(
        {
            "midpoint_loss": (by_matching, rng.uniform(0.1, 2, shape)),
            "barrier": (by_matching, rng.uniform(0, 1, shape)),
            "finite": (by_matching, np.ones(shape, bool)),
            "endpoint_loss": (("split", *by_matching[1:3], "network"), rng.uniform(0.1, 1, (1, 3, repetitions, 2))),
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
    assert all(axes.get_xlabel() == "peak learning rate" and axes.get_xscale() == "log" for axes in (losses, barriers))
    assert len(losses.lines) == 5
    assert len(barriers.lines) == 4
    assert len(dimensions.lines) == 3 * 2
    assert len({to_hex(line.get_color()) for line in losses.lines}) == 5
    by_label = {line.get_label(): line.get_ydata() for line in losses.lines}
    expected = results["midpoint_loss"].sel(split="test", matching="covariance").mean("pair")
    np.testing.assert_allclose(by_label[MATCHING_NAMES["covariance"]], expected)


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
    expected = results["approximate_dimension"].sel(similarity="weights").median("layer").mean("pair")
    np.testing.assert_allclose(dimensions.lines[0].get_ydata(), expected)
    cell = dimension_table(results).columns[1]._cells[0]
    values = results["approximate_dimension"].mean("pair").sel(similarity="weights", learning_rate=1e-3)
    assert cell == f"{float(values.median()):.3g} ({float(values.min()):.3g} to {float(values.max()):.3g})"


def test_a_sweep_has_a_panel_for_every_axis_that_was_swept():
    """Each through the cell of the best networks; the optimizers as categories with bars."""
    rng = np.random.default_rng(0)
    cell = {"width": [8, 16], "num_hidden_layers": [2], "optimizer": ["sgd", "adam"], "learning_rate": [0.01, 0.1, 1.0]}
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
    expected = results["barrier"].sel(width=8, optimizer="adam", matching="weights").squeeze().mean("pair")
    np.testing.assert_allclose(by_rate.lines[1].get_ydata(), expected)
    assert len(by_width.lines) == 2
    assert len(by_optimizer.containers) == 2
    top = max(float(results["barrier"].mean("pair").max()), 0)
    assert by_width.get_ylim()[0] == 0
    assert by_width.get_ylim()[1] > 0.8 * top
