"""Means, intervals and tables of results, against SciPy and by reading what is printed."""

import numpy as np
import pytest
import xarray as xr
from rich.console import Console
from scipy import stats

from lmcjax.results import (
    best_cell,
    matching_table,
    mean_and_std,
    measured,
    paired_difference,
    sweep_tables,
)


def make_results(pairs: int = 4) -> xr.Dataset:
    rng = np.random.default_rng(0)
    shape = (2, pairs, 2, 1)
    dims = ("learning_rate", "pair", "matching", "split")
    return xr.Dataset(
        {"barrier": (dims, rng.normal(size=shape)), "finite": (dims, np.ones(shape, bool))},
        coords={"learning_rate": [0.1, 0.2], "matching": ["none", "weights"], "split": ["test"]},
    )


def test_paired_interval_is_scipys():
    values = measured(make_results(), "barrier")
    ours = paired_difference(values, "weights", "none")
    for i, rate in enumerate([0.1, 0.2]):
        reference = stats.ttest_rel(
            values.values[i, :, 1], values.values[i, :, 0]
        ).confidence_interval(0.95)
        row = ours.sel(learning_rate=rate)
        np.testing.assert_allclose([row["low"], row["high"]], reference)
        np.testing.assert_allclose(
            row["mean"], np.mean(values.values[i, :, 1] - values.values[i, :, 0])
        )


def test_one_pair_has_no_spread():
    mean, std = mean_and_std(measured(make_results(1), "barrier"))
    assert np.isfinite(mean).all()
    assert np.isnan(std).all()


@pytest.mark.parametrize("diverged", [1, 4])
def test_diverged_runs_are_left_out_and_named(diverged):
    results = make_results()
    results["barrier"][0, :diverged, 1] = np.nan
    results["finite"][0, :diverged, 1] = False
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(matching_table(results, "barrier", "title"))
    row = next(
        line for line in console.export_text().splitlines() if line.strip().startswith("0.1")
    )
    if diverged == 4:
        assert "diverged" in row
    else:
        assert f"{results['barrier'].values[0, 1:, 1].mean():.3f}" in row


def make_sweep() -> xr.Dataset:
    """Two widths, two depths, three rates; the best networks are wide, deep, at the middle rate."""
    rng = np.random.default_rng(0)
    cell = {
        "width": [8, 16],
        "num_hidden_layers": [1, 2],
        "optimizer": ["sgd"],
        "learning_rate": [0.01, 0.1, 1.0],
    }
    shape = (2, 2, 1, 3, 4, 1)
    own = rng.uniform(0.5, 1, (*shape, 2))
    own[1, 1, 0, 1] -= 0.5
    barrier = rng.uniform(0, 1, (*shape, 2))
    return xr.Dataset(
        {
            "endpoint_loss": ((*cell, "pair", "split", "network"), own),
            "barrier": ((*cell, "pair", "split", "matching"), barrier),
            "midpoint_loss": ((*cell, "pair", "split", "matching"), barrier + 1),
            "finite": ((*cell, "pair", "split", "matching"), np.ones(barrier.shape, bool)),
        },
        coords={**cell, "split": ["test"], "matching": ["none", "weights"]},
        attrs={"dataset": "noise", "training_steps": 10},
    )


def test_the_best_cell_is_that_of_the_best_networks():
    results = make_sweep()
    best = {"width": 16, "num_hidden_layers": 2, "optimizer": "sgd", "learning_rate": 0.1}
    assert best_cell(results) == best
    results["endpoint_loss"].loc[best] = np.nan
    assert best_cell(results) != best
    with pytest.raises(ValueError, match="no network of this sweep has a finite test loss"):
        best_cell(results.where(False))


def test_the_tables_of_a_sweep_show_each_architecture_at_its_best_rate():
    results = make_sweep()
    results["endpoint_loss"].loc[{"width": 8, "num_hidden_layers": 1}] = np.nan
    console = Console(width=130, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(sweep_tables(results)[0])
    lines = console.export_text().splitlines()
    assert sum("none finite" in line for line in lines) == 1
    row = next(line for line in lines if line.split()[:4] == ["16", "2", "sgd", "0.1"])
    mean = (
        results["barrier"]
        .sel(width=16, num_hidden_layers=2, learning_rate=0.1, matching="weights")
        .mean()
    )
    assert f"{float(mean):.2f} ±" in row
