"""The figure says what it shows: axes, units, one curve per matching."""

import numpy as np
import xarray as xr
from matplotlib.colors import to_hex

from lmcjax.experiments.summary import MATCHING_NAMES, dimension_table
from lmcjax.plots import plot_figure2, save_figure


def make_results(repetitions: int, num_layers: int = 2) -> xr.Dataset:
    rng = np.random.default_rng(0)
    matchings, similarities = list(MATCHING_NAMES), list(MATCHING_NAMES)[1:]
    by_matching = ("split", "learning_rate", "repetition", "matching")
    shape = (1, 3, repetitions, 4)
    return xr.Dataset(
        {
            "midpoint_loss": (by_matching, rng.uniform(0.1, 2, shape)),
            "barrier": (by_matching, rng.uniform(0, 1, shape)),
            "finite": (by_matching, np.ones(shape, bool)),
            "endpoint_loss": (("split", *by_matching[1:3], "network"), rng.uniform(0.1, 1, (1, 3, repetitions, 2))),
            "training_finite": ((*by_matching[1:3], "network"), np.ones((3, repetitions, 2), bool)),
            "approximate_dimension": (
                ("similarity", "layer", *by_matching[1:3]),
                rng.uniform(1, 100, (3, num_layers, 3, repetitions)),
            ),
            "permutation": (
                ("layer", *by_matching[1:], "neuron"),
                np.tile(np.arange(7), (num_layers, 3, repetitions, 4, 1)),
            ),
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
    expected = results["midpoint_loss"].sel(split="test", matching="covariance").mean("repetition")
    np.testing.assert_allclose(by_label[MATCHING_NAMES["covariance"]], expected)


def test_one_repetition_has_no_band(tmp_path):
    figure = plot_figure2(make_results(1))
    assert not any(axes.collections for axes in figure.axes)
    png, pdf = save_figure(figure, tmp_path / "figure")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")


def test_many_layers_are_summarised():
    results = make_results(3, num_layers=12)
    dimensions = plot_figure2(results).axes[2]
    assert len(dimensions.lines) == 3
    expected = results["approximate_dimension"].sel(similarity="weights").median("layer").mean("repetition")
    np.testing.assert_allclose(dimensions.lines[0].get_ydata(), expected)
    cell = dimension_table(results).columns[1]._cells[0]
    values = results["approximate_dimension"].mean("repetition").sel(similarity="weights", learning_rate=1e-3)
    assert cell == f"{float(values.median()):.3g} ({float(values.min()):.3g} to {float(values.max()):.3g})"
