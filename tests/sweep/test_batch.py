"""A batch with a run that diverges."""

import dataclasses
import re

import numpy as np
import pytest
import xarray as xr

from lmcjax import cli
from lmcjax.sweep import SweepFolder, SweepProgress, run_sweep

pytestmark = pytest.mark.usefixtures("quick_compilation", "four_per_batch")


def test_a_diverged_run_is_nan_and_spoils_no_neighbour(
    sweep, digits, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(
        "lmcjax.training._memory._MOST_PER_CPU_DEVICE", 6
    )  # three cells share each batch
    reports: list[SweepProgress] = []

    def run(highest: float) -> xr.Dataset:
        rates = (0.03, 0.1, highest)
        three_rates = dataclasses.replace(sweep, learning_rates=rates)
        return run_sweep(three_rates, digits, tmp_path / f"{highest}", on_progress=reports.append)

    calm = run(0.2)
    reports.clear()
    wild = run(1e30)
    batches = SweepFolder(tmp_path / "1e+30").plan().batches
    assert [batch.units for batch in batches] == [(0, 6), (6, 12)]
    lost = wild.isel(learning_rate=2)
    kept = wild.isel(learning_rate=[0, 1])
    beside_calm = calm.isel(learning_rate=[0, 1])
    assert kept.drop_attrs(deep=False).identical(beside_calm.drop_attrs(deep=False))
    assert not lost.training_finite.any()
    assert not lost.finite.any()
    assert bool(kept.training_finite.all() and kept.finite.all())
    assert np.isnan(lost.training_loss.isel(epoch=-1)).all()
    for name in ("path_loss", "barrier", "midpoint_loss", "endpoint_loss"):
        assert np.isnan(lost[name]).all(), name
    cli.main(["status", str(tmp_path / "1e+30")])
    out = capsys.readouterr().out
    assert re.search(r"done +24 networks in 2 of 2 batches\n +diverged +8 of these\n", out)
    trained = [report.training_loss for report in reports if report.stage == "compare"]
    assert np.isfinite(trained).all()  # of those that did not diverge
