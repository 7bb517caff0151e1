"""Signals stop a sweep, and it goes on from there."""

import signal

import pytest

from lmcjax.sweep import SweepInterrupted, run_sweep

pytestmark = pytest.mark.usefixtures("quick_compilation", "four_per_batch")


@pytest.mark.parametrize("batch", [0, 2])
def test_after_a_signal_training_goes_on_where_it_stopped(
    sweep, after_epoch, stop, batch, digits, alike, calls, tmp_path
):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SweepInterrupted, match="stopped by SIGTERM"):
        run_sweep(sweep, digits, tmp_path / "sweep", on_progress=after_epoch(batch, 3, stop))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    first = len(calls)
    assert 0 < first - batch * sweep.epochs < sweep.epochs
    assert alike(run_sweep(sweep, digits, tmp_path / "sweep"))
    assert len(calls) == 4 * sweep.epochs  # none twice


def test_a_second_signal_stops_at_once_and_says_that_it_can_go_on(
    sweep, after_epoch, digits, alike, tmp_path
):
    """`main` takes any other interrupt for one before anything was written."""

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as stopped:  # a plain one would end pytest
        run_sweep(sweep, digits, tmp_path / "sweep", on_progress=after_epoch(1, 2, twice))
    assert isinstance(stopped.value, SweepInterrupted)
    assert "stopped by SIGINT; what is finished is stored in" in str(stopped.value)
    assert alike(run_sweep(sweep, digits, tmp_path / "sweep"))
