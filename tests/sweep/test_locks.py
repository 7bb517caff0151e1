"""Who computes in a folder, alone or with others."""

import fcntl
import os
import threading

import pytest

from lmcjax.sweep import run_sweep

pytestmark = pytest.mark.usefixtures("quick_compilation", "four_per_batch")


def test_while_others_share_the_folder_one_alone_is_refused(sweep, finished, digits):
    with finished.locks.hold(shared=True):
        with pytest.raises(BlockingIOError, match="is computing here"):
            run_sweep(sweep, digits, finished.path)
        run_sweep(sweep, digits, finished.path, join=True)
    run_sweep(sweep, digits, finished.path)


def test_while_one_computes_alone_nobody_joins(sweep, finished, digits):
    with finished.locks.hold():
        for join in (False, True):
            with pytest.raises(
                BlockingIOError, match=f"process {os.getpid()} on .* is computing here"
            ):
                run_sweep(sweep, digits, finished.path, join=join)


def test_those_who_share_are_not_taken_for_one_who_is_gone(finished):
    (finished.path / "lock").write_text("process 99999999 on nowhere")
    with finished.locks.hold(shared=True):
        assert "99999999" not in (finished.locks.holder() or "")
        with pytest.raises(BlockingIOError) as error, finished.locks.hold():
            pass
        assert "99999999" not in str(error.value)


def test_a_look_at_who_computes_keeps_nobody_out(finished):
    """`status` holds the lock for a moment; a sweep that starts then waits for that long."""
    file = (finished.path / "lock").open()
    fcntl.flock(file, fcntl.LOCK_EX)
    threading.Timer(0.1, file.close).start()
    with finished.locks.hold():
        assert file.closed
