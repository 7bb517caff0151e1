"""A sweep's folder: interrupted, damaged, full, taken, of another sweep; and what is said of it."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import xarray as xr

from lmcjax import cli
from lmcjax.data import Dataset, Samples, load_dataset
from lmcjax.sweep import Sweep, SweepFolder, SweepInterrupted, run_sweep
from lmcjax.sweep import SweepProgress as Progress

pytestmark = pytest.mark.usefixtures("quick_compilation")

EPOCHS = 4
SWEEP = Sweep(
    seeds=(0, 1, 2, 3),
    widths=(8, 12),
    num_hidden_layers=(1,),
    learning_rates=(0.03, 0.1),
    matchings=("weights",),
    epochs=EPOCHS,
    batch_size=50,
    num_points=3,
)  # with four networks per batch, a batch for each of four cells


@pytest.fixture(autouse=True)
def four_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmcjax.training._memory._MOST_PER_CPU_DEVICE", 2)  # per device; there are two


@pytest.fixture(scope="module")
def digits() -> Dataset:
    samples = load_dataset("digits")
    train, test = (Samples(*(a[:n] for a in s)) for s, n in ((samples.train, 300), (samples.test, 100)))
    return Dataset("few digits", train, test, 10, source="digits")


class Undisturbed(NamedTuple):
    folder: Path
    results: xr.Dataset


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, digits) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmcjax.training._memory._MOST_PER_CPU_DEVICE", 2)
        return Undisturbed(folder, run_sweep(SWEEP, digits, folder))


@pytest.fixture
def finished(undisturbed, tmp_path) -> SweepFolder:
    """A finished sweep of the test's own."""
    shutil.copytree(undisturbed.folder, tmp_path / "sweep")
    return SweepFolder(tmp_path / "sweep")


@pytest.fixture
def alike(undisturbed, same_results) -> Callable[[xr.Dataset], bool]:
    return lambda results: same_results(results, undisturbed.results)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Networks in each compiled call of training, one entry per epoch."""
    from lmcjax.sweep import _train

    train_in_calls, trained = _train.train_in_calls, []

    def counted(states: Any, *args: Any, **options: Any) -> Iterator[Any]:
        for result in train_in_calls(states, *args, **options):
            trained.append(len(result[1]))
            yield result

    monkeypatch.setattr(_train, "train_in_calls", counted)
    return trained


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As on a full disk, the operating system refuses to write files beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def snapshot(folder: Path) -> dict[str, Any]:
    """Everything in a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def one_line(capsys: pytest.CaptureFixture, *arguments: str | Path) -> str:
    """The error of a command that must fail with one line and exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("lmcjax: error: ")
    assert error.count("\n") == 1
    return error


def after_epoch(batch: int, epoch: int, act: Callable[[], Any]) -> Callable[[Progress], None]:
    """An `on_progress` that acts when a batch has been trained for so long (in each of its calls)."""
    seen: list[float] = []

    def on_progress(progress: Progress) -> None:
        if progress.networks_done == 4 * batch and progress.stage == "train" and progress.training_loss > 0:
            seen.append(progress.share)
            if len(seen) == epoch:
                act()

    return on_progress


def stop() -> None:
    signal.raise_signal(signal.SIGTERM)


def fail() -> None:
    raise RuntimeError("as if killed")


# Interrupted


@pytest.mark.parametrize("batch", [0, 2])
def test_after_a_signal_training_goes_on_where_it_stopped(batch, digits, alike, calls, tmp_path):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SweepInterrupted, match="stopped by SIGTERM"):
        run_sweep(SWEEP, digits, tmp_path / "sweep", on_progress=after_epoch(batch, 3, stop))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    first = len(calls)
    assert 0 < first - batch * EPOCHS < EPOCHS
    assert alike(run_sweep(SWEEP, digits, tmp_path / "sweep"))
    assert len(calls) == 4 * EPOCHS  # none twice


@pytest.mark.parametrize(("seconds", "lost"), [(0.0, 0), (1e9, 3)])
def test_after_a_crash_training_goes_on_from_the_newest_checkpoint(seconds, lost, digits, alike, calls, tmp_path):
    def run(**options: Any) -> xr.Dataset:
        return run_sweep(SWEEP, digits, tmp_path / "sweep", checkpoint_seconds=seconds, **options)

    with pytest.raises(RuntimeError, match="as if killed"):
        run(on_progress=after_epoch(0, 3, fail))
    assert len(calls) == 3
    assert alike(run())
    assert len(calls) == 4 * EPOCHS + (lost or 1)  # the epoch that crashed had not been checkpointed


@pytest.mark.slow
def test_finished_calls_of_an_unfinished_batch_are_not_trained_again(digits, alike, calls, tmp_path):
    with pytest.raises(RuntimeError, match="as if killed"):
        run_sweep(SWEEP, digits, tmp_path / "sweep", on_progress=lambda progress: fail())
    SweepFolder(tmp_path / "sweep").change_plan(lambda plan: plan.with_calls(0, 2))
    with pytest.raises(SweepInterrupted):
        run_sweep(SWEEP, digits, tmp_path / "sweep", on_progress=after_epoch(0, EPOCHS + 2, stop))
    assert calls == [2] * (EPOCHS + 2)
    assert alike(run_sweep(SWEEP, digits, tmp_path / "sweep"))
    assert calls == [2] * (4 * 2 * EPOCHS)


def test_stopped_while_it_compares_it_loses_one_batch_at_most(digits, alike, calls, tmp_path):
    with pytest.raises(SweepInterrupted):
        run_sweep(SWEEP, digits, tmp_path / "sweep", on_progress=lambda p: stop() if p.stage == "compare" else None)
    assert len(calls) == EPOCHS
    assert alike(run_sweep(SWEEP, digits, tmp_path / "sweep"))
    assert len(calls) <= 5 * EPOCHS


def test_a_finished_sweep_is_not_computed_again(finished, digits, alike, calls):
    before = snapshot(finished.path / "batches")
    finished.results.unlink()
    assert alike(run_sweep(SWEEP, digits, finished.path))
    assert calls == []
    assert snapshot(finished.path / "batches") == before


@pytest.mark.parametrize(
    "left",
    [
        ("lock",),
        ("lock", "changing.lock", "batches"),
        ("lock", "changing.lock", "batches", "plan.json.99.part"),
        ("lock", "changing.lock", "batches", "plan.json"),
        ("lock", "changing.lock", "batches", "plan.json", "sweep.json.99.part"),
    ],
)
def test_killed_while_it_began_it_begins_again(left, finished, digits, alike, tmp_path):
    (tmp_path / "begun").mkdir()
    for name in left:
        if name == "batches":
            (tmp_path / "begun" / name).mkdir()
        else:
            shutil.copy(finished.path / re.sub(r"\.99\.part", "", name), tmp_path / "begun" / name)
    assert alike(run_sweep(SWEEP, digits, tmp_path / "begun"))


@pytest.mark.parametrize("left", ["batches/00001.safetensors.99.part", "results.nc.99.part"])
def test_what_was_half_written_when_it_was_killed_does_no_harm(left, finished, digits, alike):
    (finished.path / left).write_bytes(b"half")
    finished.batch_path(1).unlink()
    assert alike(run_sweep(SWEEP, digits, finished.path))


@pytest.mark.parametrize("at", [0, -9, rb"\"epoch\": "])
def test_a_damaged_checkpoint_is_trained_anew(at, digits, alike, tmp_path, caplog):
    with pytest.raises(SweepInterrupted):
        run_sweep(SWEEP, digits, tmp_path / "sweep", on_progress=after_epoch(0, 3, stop))
    (path,) = (tmp_path / "sweep" / "checkpoints").glob("*/*")
    flip(path, at)
    assert alike(run_sweep(SWEEP, digits, tmp_path / "sweep"))
    assert str(path) in caplog.text
    assert "trained anew" in caplog.text


@pytest.mark.slow
def test_a_checkpoint_of_two_devices_does_not_stop_one_device(digits, tmp_path):
    sweep = dataclasses.replace(SWEEP, seeds=(0, 1, 2), pairing="all")
    with pytest.raises(SweepInterrupted):
        run_sweep(sweep, digits, tmp_path / "sweep", on_progress=lambda p: stop() if p.training_loss > 0 else None)
    one = jax.devices("cpu")[:1]
    results = run_sweep(sweep, digits, tmp_path / "sweep", devices=one)
    assert bool(results.training_finite.all())


def test_a_second_signal_stops_at_once_and_says_that_it_can_go_on(digits, alike, tmp_path):
    """`main` takes any other interrupt for one before anything was written."""

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as stopped:  # a plain one would end pytest
        run_sweep(SWEEP, digits, tmp_path / "sweep", on_progress=after_epoch(1, 2, twice))
    assert isinstance(stopped.value, SweepInterrupted)
    assert "stopped by SIGINT; what is finished is stored in" in str(stopped.value)
    assert alike(run_sweep(SWEEP, digits, tmp_path / "sweep"))


# Damaged


def truncate(folder: SweepFolder) -> None:
    path = folder.batch_path(1)
    path.write_bytes(path.read_bytes()[:-7])


def empty(folder: SweepFolder) -> None:
    folder.batch_path(1).write_bytes(b"")


def flip(path: Path, at: int | bytes) -> None:
    """Flip a bit of the byte at a position, or after some text."""
    content = bytearray(path.read_bytes())
    content[at if isinstance(at, int) else content.index(at) + len(at)] ^= 1
    path.write_bytes(content)


def flip_in_batch(at: int | bytes) -> Callable[[SweepFolder], None]:
    return lambda folder: flip(folder.batch_path(1), at)


def put_a_foreign_one(folder: SweepFolder) -> None:
    """The same arrays under the same number, but stored by another sweep."""
    stored = folder.read_batch(1)
    (folder.path.parent / "other" / "batches").mkdir(parents=True)
    other = SweepFolder(folder.path.parent / "other")
    identity = folder.identity()
    identity["sweep"]["learning_rates"] = [0.03, 0.2]
    (other.path / "sweep.json").write_text(json.dumps(identity))
    other.write_batch(1, stored)
    shutil.copy(other.batch_path(1), folder.batch_path(1))


def put_another_one(folder: SweepFolder) -> None:
    shutil.copy(folder.batch_path(2), folder.batch_path(1))


DAMAGES = {
    "truncated": (truncate, "truncated or damaged"),
    "empty": (empty, "truncated or damaged"),
    "a byte of an array": (flip_in_batch(-9), "damaged"),
    "a byte of the header": (flip_in_batch(0), "damaged"),
    "a byte of the time it took": (flip_in_batch(rb"\"train\": 0."), "damaged"),
    "a byte of a name in the header": (flip_in_batch(b'"train'), "damaged"),
    "foreign": (put_a_foreign_one, "not batch 1 of this sweep"),
    "renamed": (put_another_one, "not batch 1 of this sweep"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_batch_is_named_and_resuming_computes_it_alone(kind, finished, digits, alike, calls, caplog):
    damage, message = DAMAGES[kind]
    damage(finished)
    name = str(finished.batch_path(1))
    before = snapshot(finished.path)
    with pytest.raises(ValueError, match=re.escape(name)) as error:
        run_sweep(SWEEP, digits, finished.path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    after = snapshot(finished.path)
    assert {**after, "lock": 0} == {**before, "lock": 0}
    assert calls == []
    with caplog.at_level(logging.WARNING):
        assert alike(run_sweep(SWEEP, digits, finished.path, resume=True))
    assert name in caplog.text
    assert len(calls) == EPOCHS
    again = snapshot(finished.path / "batches")
    changed = {path for path, held in again.items() if held != before[f"batches/{path}"]}
    assert changed == {"00001.safetensors"}


@pytest.mark.usefixtures("unchecked")
def test_every_flipped_byte_of_a_batch_is_noticed(finished):
    path = finished.batch_path(0)
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            finished.read_batch(0)
    path.write_bytes(content)
    finished.read_batch(0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["sweep.json", "plan.json"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"null", b"{}", b"\xff\xfe"])
def test_a_damaged_description_or_plan_is_named(name, content, finished, digits, capsys):
    path = finished.path / name
    path.write_bytes(path.read_bytes()[:50] if content is None else content)
    before = snapshot(finished.path)
    with pytest.raises(ValueError, match=re.escape(str(finished.path))):
        run_sweep(SWEEP, digits, finished.path, resume=True)
    assert str(path) in one_line(capsys, "status", finished.path)
    assert {**snapshot(finished.path), "lock": 0} == {**before, "lock": 0}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("units", [[0, 1], [0, 3], [2, 4]])
def test_a_plan_that_does_not_cover_the_sweep_once_is_named(units, finished, digits):
    path = finished.path / "plan.json"
    plan = json.loads(path.read_text())
    plan["batches"][0]["units"] = units
    path.write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        run_sweep(SWEEP, digits, finished.path, resume=True)


# A full disk, a folder that can't be written


def no_leftovers(folder: Path) -> bool:
    return not list(folder.rglob("*.part"))


def test_full_disk_at_a_batch(digits, alike, calls, tmp_path):
    folder = SweepFolder(tmp_path / "sweep")
    with contextlib.ExitStack() as full:

        def on_progress(progress: Progress) -> None:
            if progress.networks_done == 8:
                full.enter_context(largest_file(100))

        with pytest.raises(OSError, match=re.escape(f"File too large: '{folder.batch_path(2)}'")) as error:
            run_sweep(SWEEP, digits, folder.path, on_progress=on_progress)
    assert error.value.errno == errno.EFBIG
    assert no_leftovers(folder.path)
    assert [folder.batch_path(number).is_file() for number in range(4)] == [True, True, False, False]
    before = snapshot(folder.path / "batches")
    calls.clear()
    assert alike(run_sweep(SWEEP, digits, folder.path))
    assert len(calls) == 2 * EPOCHS
    assert before.items() <= snapshot(folder.path / "batches").items()


def test_full_disk_when_a_file_is_flushed(digits, alike, monkeypatch, tmp_path):
    folder = SweepFolder(tmp_path / "sweep")
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if ".safetensors" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    message = f"[Errno 28] cannot write: No space left on device: '{folder.batch_path(0)}'"
    with pytest.raises(OSError, match=re.escape(message)):
        run_sweep(SWEEP, digits, folder.path)
    assert no_leftovers(folder.path)
    assert not folder.batch_path(0).exists()
    monkeypatch.setattr(os, "fsync", fsync)
    assert alike(run_sweep(SWEEP, digits, folder.path))


@pytest.mark.parametrize(("size", "name"), [(0, "lock"), (100, "plan.json")])
def test_full_disk_at_the_beginning(size, name, digits, alike, tmp_path):
    folder = tmp_path / "sweep"
    message = f"[Errno 27] cannot write: File too large: '{folder / name}'"
    with largest_file(size), pytest.raises(OSError, match=re.escape(message)):
        run_sweep(SWEEP, digits, folder)
    assert no_leftovers(folder)
    assert alike(run_sweep(SWEEP, digits, folder))


def test_full_disk_at_a_checkpoint(digits, alike, tmp_path):
    folder = SweepFolder(tmp_path / "sweep")
    with contextlib.ExitStack() as full, pytest.raises(OSError, match=r"cannot write.*checkpoints") as error:
        run_sweep(
            SWEEP,
            digits,
            folder.path,
            checkpoint_seconds=0.0,
            on_progress=after_epoch(1, 2, lambda: full.enter_context(largest_file(100))),
        )
    assert "\n" not in str(error.value)
    assert folder.batch_path(0).is_file()
    assert alike(run_sweep(SWEEP, digits, folder.path))


@pytest.mark.slow
def test_full_disk_at_the_results(finished):
    """In a process of its own: HDF5 on a full disk may take the process with it."""
    before = snapshot(finished.path)
    code = f"""if True:
        import resource
        import xarray as xr
        from lmcjax.sweep import SweepFolder
        folder = SweepFolder({str(finished.path)!r})
        results = xr.load_dataset(folder.results, engine="h5netcdf")
        for size in (100, 8000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            try:
                folder.write_results(results)
            except OSError as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == 2 * f"[Errno 27] cannot write: File too large: '{finished.results}'\n"
    assert snapshot(finished.path) == before


def test_a_folder_that_cannot_be_written_is_named(digits, capsys, tmp_path):
    """Below a regular file, where root can't write either."""
    (tmp_path / "file").write_text("here")
    with pytest.raises(OSError, match=re.escape(f"cannot write: Not a directory: '{tmp_path / 'file' / 'sweep'}")):
        run_sweep(SWEEP, digits, tmp_path / "file" / "sweep")
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "file"))):
        run_sweep(SWEEP, digits, tmp_path / "file")
    (tmp_path / "sweep.toml").write_text('dataset = "digits"\nseeds = 2\n')
    error = one_line(capsys, "sweep", tmp_path / "sweep.toml", "--out", tmp_path / "file" / "sweep")
    assert str(tmp_path / "file" / "sweep") in error
    assert (tmp_path / "file").read_text() == "here"


def test_a_batch_that_cannot_be_written_is_named(digits, alike, tmp_path):
    folder = SweepFolder(tmp_path / "sweep")

    def in_the_way(progress: Progress) -> None:
        if progress.networks_done == 4:
            folder.batch_path(1).mkdir(exist_ok=True)

    with pytest.raises(OSError, match=re.escape(str(folder.batch_path(1)))):
        run_sweep(SWEEP, digits, folder.path, on_progress=in_the_way)
    assert no_leftovers(folder.path)
    folder.batch_path(1).rmdir()
    assert alike(run_sweep(SWEEP, digits, folder.path))


# Another sweep, other things


def edit_versions(folder: SweepFolder) -> None:
    about = folder.identity()
    about["versions"]["jax"] = "0.0.1"
    (folder.path / "sweep.json").write_text(json.dumps(about))


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "widths": ({"widths": (8,)}, "sweep.widths: [8, 12] there, [8] here"),
    "epochs": ({"epochs": 5}, "sweep.epochs: 4 there, 5 here"),
    "rates": ({"learning_rates": (0.03,)}, "sweep.learning_rates: [0.03, 0.1] there, [0.03] here"),
    "data": ({}, "data.fingerprint: "),
    "versions": ({}, f"versions.jax: '0.0.1' there, '{jax.__version__}' here"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("resume", [False, True])
def test_going_on_with_another_sweep_is_refused(kind, resume, finished, digits):
    changes, message = OTHERS[kind]
    if kind == "data":
        digits = digits._replace(train=digits.train._replace(labels=(digits.train.labels + 1) % 10))
    if kind == "versions":
        edit_versions(finished)
    before = snapshot(finished.path)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        run_sweep(dataclasses.replace(SWEEP, **changes), digits, finished.path, resume=resume)
    assert str(finished.path) in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.args[0].count(" there, ") == 1  # nothing but what differs
    assert snapshot(finished.path) == before


def test_the_command_shows_what_differs_in_one_line(finished, capsys, tmp_path):
    about = finished.identity()
    about["sweep"]["epochs"] = 3
    (finished.path / "sweep.json").write_text(json.dumps(about))
    config = tmp_path / "sweep.toml"
    config.write_text('dataset = "digits"\nseeds = 4\nepochs = 7')
    before = snapshot(finished.path)
    error = one_line(capsys, "sweep", config, "--out", finished.path)
    assert "sweep.epochs: 3 there, 7 here" in error
    assert "data.train_samples: 300 there, 1442 here" in error
    error = one_line(capsys, "sweep", "--resume", finished.path)
    assert "data.train_samples: 300 there, 1442 here" in error
    assert "epochs" not in error
    assert snapshot(finished.path) == before


@pytest.mark.parametrize("name", ["notes.txt", "plan.json", "batches/notes.txt"])
def test_a_folder_that_holds_other_things_is_refused(name, digits, capsys, tmp_path):
    folder = tmp_path / "mine"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("mine")
    if name == "plan.json":
        (folder / "notes.txt").write_text("mine")
    before = snapshot(folder)
    with pytest.raises(FileExistsError, match="not the folder of a sweep, it holds") as error:
        run_sweep(SWEEP, digits, folder)
    assert str(folder) in str(error.value)
    assert snapshot(folder) == before
    for command in (["sweep", "--resume", folder], ["status", folder]):
        assert f"no sweep has been started here, there is no such file: '{folder / 'sweep.json'}'" in one_line(
            capsys, *command
        )
    assert snapshot(folder) == before


def test_of_data_that_no_name_finds_the_command_says_which(finished, capsys):
    about = finished.identity()
    about["data"]["source"] = ""
    (finished.path / "sweep.json").write_text(json.dumps(about))
    assert "few digits" in one_line(capsys, "sweep", "--resume", finished.path)


def test_status_and_resume_of_no_folder_are_one_line_and_create_nothing(capsys, tmp_path):
    for command in (["status"], ["sweep", "--resume"], ["plot"]):
        assert str(tmp_path / "none") in one_line(capsys, *command, tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


# Locks


def test_while_others_share_the_folder_one_alone_is_refused(finished, digits):
    with finished.lock(shared=True):
        with pytest.raises(BlockingIOError, match="is computing here"):
            run_sweep(SWEEP, digits, finished.path)
        run_sweep(SWEEP, digits, finished.path, join=True)
    run_sweep(SWEEP, digits, finished.path)


def test_while_one_computes_alone_nobody_joins(finished, digits):
    with finished.lock():
        for join in (False, True):
            with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on .* is computing here"):
                run_sweep(SWEEP, digits, finished.path, join=join)


def test_those_who_share_are_not_taken_for_one_who_is_gone(finished):
    (finished.path / "lock").write_text("process 99999999 on nowhere")
    with finished.lock(shared=True):
        assert "99999999" not in (finished.computing() or "")
        with pytest.raises(BlockingIOError) as error, finished.lock():
            pass
        assert "99999999" not in str(error.value)


def test_a_look_at_who_computes_keeps_nobody_out(finished):
    """`status` holds the lock for a moment; a sweep that starts then waits for that long."""
    file = (finished.path / "lock").open()
    fcntl.flock(file, fcntl.LOCK_EX)
    threading.Timer(0.1, file.close).start()
    with finished.lock():
        assert file.closed


# Memory


@pytest.fixture
def memory_for(monkeypatch) -> Callable[..., list[tuple[int, int]]]:
    """`memory_for(networks)`: larger calls of training fail; networks and planned `calls` of each are listed."""
    from lmcjax.sweep import _train

    train_in_calls = _train.train_in_calls

    def limit(most: int, folder: SweepFolder, message: str = "RESOURCE_EXHAUSTED: Out of memory allocating"):
        tried: list[tuple[int, int]] = []

        def limited(states: Any, *args: Any, **options: Any) -> Iterator[Any]:
            networks = len(states.step)
            tried.append((networks, folder.plan().batches[len(list((folder.path / "batches").glob("*s")))].calls))
            if networks > most:
                raise jax.errors.JaxRuntimeError(message)
            yield from train_in_calls(states, *args, **options)

        monkeypatch.setattr(_train, "train_in_calls", limited)
        return tried

    return limit


@pytest.fixture
def compiled_once(monkeypatch) -> None:
    monkeypatch.setattr(jax, "clear_caches", lambda: None)


def test_out_of_memory_halves_the_calls_and_changes_no_bit(memory_for, digits, alike, caplog, tmp_path):
    folder = SweepFolder(tmp_path / "sweep")
    tried = memory_for(2, folder)
    with caplog.at_level(logging.WARNING):
        assert alike(run_sweep(SWEEP, digits, folder.path))
    assert tried == [(4, 1)] + 8 * [(2, 2)]  # the plan was changed before the smaller call, and for what follows
    assert [batch.calls for batch in folder.plan().batches] == [2, 2, 2, 2]
    assert caplog.text.count("4 networks do not fit into the memory; half as many from now on") == 1


@pytest.mark.usefixtures("compiled_once")
@pytest.mark.slow
def test_out_of_memory_in_the_middle_halves_what_follows(digits, alike, monkeypatch, tmp_path):
    from lmcjax.sweep import _train

    folder, train_in_calls, networks = SweepFolder(tmp_path / "sweep"), _train.train_in_calls, []

    def limited(states: Any, *args: Any, **options: Any) -> Iterator[Any]:
        networks.append(len(states.step))
        for epoch, result in enumerate(train_in_calls(states, *args, **options)):
            if networks == [4, 4] and epoch == 2:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")
            yield result

    monkeypatch.setattr(_train, "train_in_calls", limited)
    assert alike(run_sweep(SWEEP, digits, folder.path, checkpoint_seconds=0.0))
    assert networks == [4, 4] + 6 * [2]
    assert [batch.calls for batch in folder.plan().batches] == [1, 2, 2, 2]
    assert list((folder.path / "checkpoints").iterdir()) == []


@pytest.mark.usefixtures("compiled_once")
def test_out_of_memory_with_one_network_per_device_is_an_error(memory_for, digits, tmp_path):
    folder = SweepFolder(tmp_path / "sweep")
    tried = memory_for(1, folder)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        run_sweep(SWEEP, digits, folder.path)
    assert tried == [(4, 1), (2, 2)]


def test_other_errors_of_jax_are_not_taken_for_a_lack_of_memory(memory_for, digits, tmp_path):
    folder = SweepFolder(tmp_path / "sweep")
    tried = memory_for(2, folder, "INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: something else"):
        run_sweep(SWEEP, digits, folder.path)
    assert tried == [(4, 1)]
    assert {batch.calls for batch in folder.plan().batches} == {1}


# Diverged


def test_a_diverged_run_is_nan_and_spoils_no_neighbour(digits, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("lmcjax.training._memory._MOST_PER_CPU_DEVICE", 6)  # three cells share each batch
    reports: list[Progress] = []

    def run(highest: float) -> xr.Dataset:
        sweep = dataclasses.replace(SWEEP, learning_rates=(0.03, 0.1, highest))
        return run_sweep(sweep, digits, tmp_path / f"{highest}", on_progress=reports.append)

    calm = run(0.2)
    reports.clear()
    wild = run(1e30)
    assert [batch.units for batch in SweepFolder(tmp_path / "1e+30").plan().batches] == [(0, 6), (6, 12)]
    lost, kept = wild.isel(learning_rate=2), wild.isel(learning_rate=[0, 1])
    assert kept.drop_attrs(deep=False).identical(calm.isel(learning_rate=[0, 1]).drop_attrs(deep=False))
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


# Status


def status(capsys: pytest.CaptureFixture, folder: Path) -> dict[str, str]:
    """What it says, by the first word of each line."""
    capsys.readouterr()
    cli.main(["status", str(folder)])
    lines = re.split(r"\n  (?=[a-z])", capsys.readouterr().out)
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines[1:]}


def test_status_of_a_finished_sweep(finished, capsys):
    said = status(capsys, finished.path)
    assert said.keys() == {"done", "diverged", "left", "computing", "time"}
    assert said["done"] == "16 networks in 4 of 4 batches"
    assert said["diverged"] == "0 of these"
    assert said["left"] == "0 networks in 0 batches"
    assert said["computing"] == "nobody"
    assert re.match(r"\d+:\d\d:\d\d of computing; results in ", said["time"])


@pytest.mark.usefixtures("unchecked")
def test_status_of_an_unfinished_sweep_with_a_damaged_batch(finished, capsys):
    finished.batch_path(3).unlink()
    truncate(finished)
    stored = finished.read_batch(0)
    finished.write_batch(0, stored._replace(seconds={"train": 3000.0, "compare": 600.0}))
    finished.write_batch(2, finished.read_batch(2)._replace(seconds={"train": 3600.0}))
    before = snapshot(finished.path)
    said = status(capsys, finished.path)
    assert said["done"] == "8 networks in 2 of 4 batches"
    assert said["left"] == "8 networks in 2 batches"
    assert "batches/00001.safetensors: truncated or damaged" in said["damaged"]
    assert said["computing"] == "nobody"
    plan = finished.plan()
    work = [batch.operations for batch in plan.batches]
    assert work[0] < work[2]
    assert said["time"] == "2:00:00 of computing so far, about 2:00:00 to go"
    with finished.lock():
        assert status(capsys, finished.path)["computing"].startswith(f"process {os.getpid()} on ")
    assert {**snapshot(finished.path), "lock": 0} == {**before, "lock": 0}


def test_status_gives_the_command_that_goes_on_in_one_piece(finished, capsys):
    finished.batch_path(3).unlink()
    folder = finished.path.rename(finished.path.with_name("a [bold]folder with quite a long name" * 3))
    capsys.readouterr()
    cli.main(["status", str(folder)])
    assert f"  go on     lmcjax sweep --resume '{folder}'\n" in capsys.readouterr().out


def test_status_before_anything_is_finished(digits, capsys, tmp_path):
    with pytest.raises(RuntimeError, match="as if killed"):
        run_sweep(SWEEP, digits, tmp_path / "sweep", on_progress=lambda progress: fail())
    said = status(capsys, tmp_path / "sweep")
    assert said["done"] == "0 networks in 0 of 4 batches"
    assert said["left"] == "16 networks in 4 batches"
    assert "time" not in said
    assert "nothing is finished yet" in one_line(capsys, "plot", tmp_path / "sweep")
