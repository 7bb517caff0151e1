"""Files on a full disk, in a folder that can't be written, with a flipped byte."""

import contextlib
import errno
import os
import re
import subprocess
import sys

import pytest

from lmcjax.sweep import SweepFolder, SweepProgress, run_sweep

pytestmark = pytest.mark.usefixtures("quick_compilation", "four_per_batch")


@pytest.mark.usefixtures("unchecked")
def test_every_flipped_byte_of_a_batch_is_noticed(finished):
    path = finished.batch_path(0)
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            finished.read_batch(0)
    path.write_bytes(content)
    finished.read_batch(0)


def test_full_disk_at_a_batch(
    sweep, snapshot, largest_file, no_leftovers, digits, alike, calls, tmp_path
):
    folder = SweepFolder(tmp_path / "sweep")
    with contextlib.ExitStack() as full:

        def on_progress(progress: SweepProgress) -> None:
            if progress.networks_done == 8:
                full.enter_context(largest_file(100))

        message = f"File too large: '{folder.batch_path(2)}'"
        with pytest.raises(OSError, match=re.escape(message)) as error:
            run_sweep(sweep, digits, folder.path, on_progress=on_progress)
    assert error.value.errno == errno.EFBIG
    assert no_leftovers(folder.path)
    is_finished = [folder.batch_path(number).is_file() for number in range(4)]
    assert is_finished == [True, True, False, False]
    before = snapshot(folder.path / "batches")
    calls.clear()
    assert alike(run_sweep(sweep, digits, folder.path))
    assert len(calls) == 2 * sweep.epochs
    assert before.items() <= snapshot(folder.path / "batches").items()


def test_full_disk_when_a_file_is_flushed(
    sweep, no_leftovers, digits, alike, monkeypatch, tmp_path
):
    folder = SweepFolder(tmp_path / "sweep")
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if ".safetensors" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    message = f"[Errno 28] cannot write: No space left on device: '{folder.batch_path(0)}'"
    with pytest.raises(OSError, match=re.escape(message)):
        run_sweep(sweep, digits, folder.path)
    assert no_leftovers(folder.path)
    assert not folder.batch_path(0).exists()
    monkeypatch.setattr(os, "fsync", fsync)
    assert alike(run_sweep(sweep, digits, folder.path))


@pytest.mark.parametrize(("size", "name"), [(0, "lock"), (100, "plan.json")])
def test_full_disk_at_the_beginning(
    sweep, largest_file, no_leftovers, size, name, digits, alike, tmp_path
):
    folder = tmp_path / "sweep"
    message = f"[Errno 27] cannot write: File too large: '{folder / name}'"
    with largest_file(size), pytest.raises(OSError, match=re.escape(message)):
        run_sweep(sweep, digits, folder)
    assert no_leftovers(folder)
    assert alike(run_sweep(sweep, digits, folder))


def test_full_disk_at_a_checkpoint(sweep, largest_file, after_epoch, digits, alike, tmp_path):
    folder = SweepFolder(tmp_path / "sweep")
    with contextlib.ExitStack() as full:
        fill_disk = after_epoch(1, 2, lambda: full.enter_context(largest_file(100)))
        with pytest.raises(OSError, match=r"cannot write.*checkpoints") as error:
            run_sweep(sweep, digits, folder.path, checkpoint_seconds=0.0, on_progress=fill_disk)
    assert "\n" not in str(error.value)
    assert folder.batch_path(0).is_file()
    assert alike(run_sweep(sweep, digits, folder.path))


@pytest.mark.slow
def test_full_disk_at_the_results(snapshot, finished):
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


def test_a_folder_that_cannot_be_written_is_named(sweep, error_line, digits, tmp_path):
    """Below a regular file, where root can't write either."""
    file = tmp_path / "file"
    file.write_text("here")
    message = f"cannot write: Not a directory: '{file / 'sweep'}"
    with pytest.raises(OSError, match=re.escape(message)):
        run_sweep(sweep, digits, file / "sweep")
    with pytest.raises(OSError, match=re.escape(str(file))):
        run_sweep(sweep, digits, file)
    config = tmp_path / "sweep.toml"
    config.write_text('dataset = "digits"\nseeds = 2\n')
    error = error_line("sweep", config, "--out", file / "sweep")
    assert str(file / "sweep") in error
    assert file.read_text() == "here"


def test_a_batch_that_cannot_be_written_is_named(sweep, no_leftovers, digits, alike, tmp_path):
    folder = SweepFolder(tmp_path / "sweep")

    def in_the_way(progress: SweepProgress) -> None:
        if progress.networks_done == 4:
            folder.batch_path(1).mkdir(exist_ok=True)

    with pytest.raises(OSError, match=re.escape(str(folder.batch_path(1)))):
        run_sweep(sweep, digits, folder.path, on_progress=in_the_way)
    assert no_leftovers(folder.path)
    folder.batch_path(1).rmdir()
    assert alike(run_sweep(sweep, digits, folder.path))
