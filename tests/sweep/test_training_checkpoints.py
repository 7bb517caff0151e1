"""Training goes on from its newest checkpoint, if that is whole and fits."""

import dataclasses
from typing import Any

import jax
import pytest
import xarray as xr

from lmcjax.sweep import SweepFolder, SweepInterrupted, SweepProgress, run_sweep

pytestmark = pytest.mark.usefixtures("quick_compilation", "four_per_batch")


@pytest.mark.parametrize(("seconds", "lost"), [(0.0, 0), (1e9, 3)])
def test_after_a_crash_training_goes_on_from_the_newest_checkpoint(
    sweep, after_epoch, fail, seconds, lost, digits, alike, calls, tmp_path
):
    def run(**options: Any) -> xr.Dataset:
        return run_sweep(sweep, digits, tmp_path / "sweep", checkpoint_seconds=seconds, **options)

    with pytest.raises(RuntimeError, match="as if killed"):
        run(on_progress=after_epoch(0, 3, fail))
    assert len(calls) == 3
    assert alike(run())
    # Even with a checkpoint per epoch, that of the epoch that crashed had not been written
    assert len(calls) == 4 * sweep.epochs + (lost or 1)


@pytest.mark.slow
def test_finished_calls_of_an_unfinished_batch_are_not_trained_again(
    sweep, after_epoch, stop, fail, digits, alike, calls, tmp_path
):
    with pytest.raises(RuntimeError, match="as if killed"):
        run_sweep(sweep, digits, tmp_path / "sweep", on_progress=lambda progress: fail())
    SweepFolder(tmp_path / "sweep").change_plan(lambda plan: plan.with_calls(0, 2))
    in_the_second_call = after_epoch(0, sweep.epochs + 2, stop)
    with pytest.raises(SweepInterrupted):
        run_sweep(sweep, digits, tmp_path / "sweep", on_progress=in_the_second_call)
    assert calls == [2] * (sweep.epochs + 2)
    assert alike(run_sweep(sweep, digits, tmp_path / "sweep"))
    assert calls == [2] * (4 * 2 * sweep.epochs)


@pytest.mark.parametrize("at", [0, -9, rb"\"epoch\": "])
def test_a_damaged_checkpoint_is_trained_anew(
    sweep, after_epoch, stop, flip, at, digits, alike, tmp_path, caplog
):
    with pytest.raises(SweepInterrupted):
        run_sweep(sweep, digits, tmp_path / "sweep", on_progress=after_epoch(0, 3, stop))
    (path,) = (tmp_path / "sweep" / "checkpoints").glob("*/*")
    flip(path, at)
    assert alike(run_sweep(sweep, digits, tmp_path / "sweep"))
    assert str(path) in caplog.text
    assert "trained anew" in caplog.text


@pytest.mark.slow
def test_a_checkpoint_of_two_devices_does_not_stop_one_device(sweep, stop, digits, tmp_path):
    three = dataclasses.replace(sweep, seeds=(0, 1, 2), pairing="all")

    def stop_while_training(progress: SweepProgress) -> None:
        if progress.training_loss > 0:
            stop()

    with pytest.raises(SweepInterrupted):
        run_sweep(three, digits, tmp_path / "sweep", on_progress=stop_while_training)
    one_device = jax.devices("cpu")[:1]
    results = run_sweep(three, digits, tmp_path / "sweep", devices=one_device)
    assert bool(results.training_finite.all())
