"""Means, intervals and tables of results, against SciPy and by reading what is printed."""

import numpy as np
import pytest
import xarray as xr
from rich.console import Console
from scipy import stats

from lmcjax.experiments.summary import matching_table, mean_and_std, measured, paired_difference


def make_results(repetitions: int = 4) -> xr.Dataset:
    rng = np.random.default_rng(0)
    shape = (2, repetitions, 2, 1)
    dims = ("learning_rate", "repetition", "matching", "split")
    return xr.Dataset(
        {"barrier": (dims, rng.normal(size=shape)), "finite": (dims, np.ones(shape, bool))},
        coords={"learning_rate": [0.1, 0.2], "matching": ["none", "weights"], "split": ["test"]},
    )


def test_paired_interval_is_scipys():
    values = measured(make_results(), "barrier")
    ours = paired_difference(values, "weights", "none")
    for i, rate in enumerate([0.1, 0.2]):
        reference = stats.ttest_rel(values.values[i, :, 1], values.values[i, :, 0]).confidence_interval(0.95)
        row = ours.sel(learning_rate=rate)
        np.testing.assert_allclose([row["low"], row["high"]], reference)
        np.testing.assert_allclose(row["mean"], np.mean(values.values[i, :, 1] - values.values[i, :, 0]))


def test_one_repetition_has_no_spread():
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
    row = next(line for line in console.export_text().splitlines() if line.strip().startswith("0.1"))
    if diverged == 4:
        assert "diverged" in row
    else:
        assert f"{results['barrier'].values[0, 1:, 1].mean():.3f}" in row
