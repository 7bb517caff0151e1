"""Real processes on one folder: killed, stopped, in each other's way, sharing the work."""

import contextlib
import fcntl
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import xarray as xr

from lmcjax.sweep._files import read_arrays

COMMAND = str(Path(sys.executable).with_name("lmcjax"))
OFTEN = ["--checkpoint-minutes", "0.001"]
FIRST_LINE = r"\d+/48 networks"
CONFIG = """
dataset = "digits"
seeds = 16
widths = [8]
num_hidden_layers = 1
learning_rates = [0.01, 0.03, 0.1]
epochs = 20
num_points = 3
matchings = ["weights"]
"""  # 48 networks in batches of 16 on two cores


@pytest.fixture
def start(start: Callable[..., Any]) -> Callable[..., Any]:
    """`start(log, *arguments)` of the command as installed."""
    return lambda log, *arguments: start(log, COMMAND, *arguments)


class Undisturbed(NamedTuple):
    """A sweep that ran from beginning to end."""

    config: Path
    results: xr.Dataset
    output: str
    seconds: float  # of training, matching and measuring


@pytest.fixture(scope="session")
def undisturbed(shared_folder, environment) -> Undisturbed:
    """Run once for all workers."""
    folder = shared_folder / "undisturbed"
    folder.mkdir(exist_ok=True)
    config = folder / "sweep.toml"
    log = folder / "run.out"
    with (folder / "once").open("w") as once:
        fcntl.flock(once, fcntl.LOCK_EX)
        if not (folder / "sweep" / "results.nc").is_file():
            config.write_text(CONFIG)
            command = [COMMAND, "sweep", config, "--out", folder / "sweep"]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=240, env=environment
            )
            assert done.returncode == 0, done.stderr
            log.write_text(done.stdout)
    results = xr.load_dataset(folder / "sweep" / "results.nc", engine="h5netcdf")
    spent = re.findall(r"[\d.]+", results.attrs["seconds"])
    return Undisturbed(config, results, log.read_text(), sum(map(float, spent)))


@pytest.fixture
def finished_alike(undisturbed, same_results) -> Callable[[Path], bool]:
    def alike(folder: Path) -> bool:
        results = xr.load_dataset(folder / "results.nc", engine="h5netcdf")
        return same_results(results, undisturbed.results) and not list(folder.glob("checkpoints/*"))

    return alike


def describe(folder: Path) -> str:
    """What a killed process has left."""
    batches = len(list((folder / "batches").glob("*.safetensors")))
    epochs = []
    for path in (folder / "checkpoints").glob("*/*.safetensors"):
        _, about = read_arrays(path)
        epochs.append(about["epoch"])
    return f"{batches} batches finished, checkpoints of epochs {epochs}"


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_resumed_it_gives_the_same_bits(
    kills, undisturbed, finished_alike, start, tmp_path
):
    rng = np.random.default_rng(kills)
    killed = rounds = 0
    begin = time.monotonic()
    while killed < kills:
        rounds += 1
        folder = tmp_path / f"round{rounds}"
        arguments = [undisturbed.config, "--out", folder]
        while True:
            log = tmp_path / f"killed{killed}"
            run = start(log, "sweep", *arguments, *OFTEN)
            run.wait_for(FIRST_LINE)
            arguments = ["--resume", folder]
            if killed < kills:
                delay = rng.uniform(0, undisturbed.seconds)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.end(delay)
            if killed < kills and run.process.poll() is None:
                run.process.kill()
                run.end()
                killed += 1
                at = f"{time.monotonic() - begin:.1f} s, kill {killed}, {delay:.2f} s into the work"
                print(f"{at} of round {rounds}: {describe(folder)}", flush=True)
                continue
            assert run.end() == 0, run.err.read_text()
            break
        print(f"{time.monotonic() - begin:.1f} s, round {rounds} finished", flush=True)
        assert finished_alike(folder)


@pytest.mark.slow
def test_signals_end_it_after_the_running_call_with_the_command_that_goes_on(
    undisturbed, finished_alike, start, tmp_path
):
    folder = tmp_path / "a sweep"
    arguments = ["sweep", str(undisturbed.config), "--out", str(folder)]
    for number, code in {signal.SIGINT: 130, signal.SIGTERM: 143}.items():
        run = start(tmp_path / number.name, *arguments)
        run.wait_for(FIRST_LINE)
        time.sleep(1)
        run.process.send_signal(number)
        assert run.end(60) == code
        error = run.err.read_text()
        assert error.count("\n") == 1
        assert f"stopped by {number.name}" in error
        assert not (folder / "results.nc").exists()
        program, *arguments = shlex.split(error.split("go on with: ")[1])
        assert (program, arguments) == ("lmcjax", ["sweep", "--resume", str(folder)])
    run = start(tmp_path / "last", *arguments)
    assert run.end() == 0, run.err.read_text()
    assert finished_alike(folder)


@pytest.mark.slow
def test_a_second_process_is_refused_and_told_who_computes(
    undisturbed, finished_alike, start, tmp_path
):
    folder = tmp_path / "sweep"
    first = start(tmp_path / "first", "sweep", undisturbed.config, "--out", folder)
    first.wait_for(FIRST_LINE)
    first.process.send_signal(signal.SIGSTOP)  # so that it is still there when the others come
    who = f"process {first.process.pid} on "
    others = [
        start(tmp_path / "again", "sweep", undisturbed.config, "--out", folder),
        start(tmp_path / "joining", "sweep", "--resume", folder, "--join"),
    ]
    status = start(tmp_path / "status", "status", folder)
    for other in others:
        assert other.end(60) == 2
        error = other.err.read_text()
        assert error.count("\n") == 1
        assert who in error
        assert "is computing here" in error
    assert status.end(60) == 0
    assert f"computing {who}" in status.out.read_text()
    first.process.send_signal(signal.SIGCONT)
    assert first.end() == 0, first.err.read_text()
    assert finished_alike(folder)


@pytest.mark.slow
def test_processes_that_join_share_the_work(undisturbed, finished_alike, start, tmp_path):
    folder = tmp_path / "sweep"
    arguments = ["sweep", undisturbed.config, "--out", folder, "--join"]
    runs = [start(tmp_path / name, *arguments) for name in ("one", "other")]
    computed = []
    for run in runs:
        assert run.end() == 0, run.err.read_text()
        done = re.findall(r"(\d+)/48 networks.*; matching and measuring", run.out.read_text())
        computed.append(len(set(done) - {"0"}))
    assert min(computed) >= 1
    assert sum(computed) == 3  # batches: none was computed twice
    assert finished_alike(folder)


@pytest.mark.slow
def test_one_of_those_that_join_may_be_killed(undisturbed, finished_alike, start, tmp_path):
    folder = tmp_path / "sweep"
    arguments = ["sweep", undisturbed.config, "--out", folder, "--join", *OFTEN]
    one = start(tmp_path / "one", *arguments)
    other = start(tmp_path / "other", *arguments)
    one.wait_for(FIRST_LINE)
    other.wait_for(FIRST_LINE)
    time.sleep(1)
    one.process.kill()
    assert other.end() == 0, other.err.read_text()
    assert finished_alike(folder)


def test_progress_in_a_log_is_plain_lines(undisturbed):
    lines = [line for line in undisturbed.output.splitlines() if "/48 networks" in line]
    assert all(re.match(r"\d+:\d\d:\d\d \d+/48 networks, \d+%, \S+ left; ", line) for line in lines)
    done = [int(line.split()[1].split("/")[0]) for line in lines]
    assert done == sorted(done)
    assert set(done) == {0, 16, 32, 48}
    assert re.search(
        r" 32/48 networks, 6\d%, \d:\d\d:\d\d left; .*training loss [\d.]+, barrier [\d.]+ nats",
        lines[-2],
    )
    assert "48/48 networks, 100%, 0:00:00 left" in lines[-1]
    assert "\x1b" not in undisturbed.output
    assert "\r" not in undisturbed.output
