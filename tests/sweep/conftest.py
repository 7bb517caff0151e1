"""What the tests of sweeps share: a small sweep, ways to disturb one, and running commands."""

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest
import xarray as xr

from lmcjax import cli
from lmcjax.data import Dataset, Samples, load_dataset
from lmcjax.sweep import Sweep, SweepFolder, SweepProgress, _batch_training, run_sweep


@pytest.fixture(scope="session")
def same_results() -> Callable[[xr.Dataset, xr.Dataset], bool]:
    """`same_results(a, b)`: bit for bit, labels and attributes too, but for the time it took."""

    def timeless(results: xr.Dataset) -> xr.Dataset:
        return results.assign_attrs(seconds="")

    return lambda a, b: timeless(a).identical(timeless(b))


# A small sweep


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """Few real images."""
    whole = load_dataset("digits")
    train = Samples(whole.train.inputs[:300], whole.train.labels[:300])
    test = Samples(whole.test.inputs[:100], whole.test.labels[:100])
    return Dataset("few digits", train, test, 10, source="digits")


@pytest.fixture(scope="session")
def sweep() -> Sweep:
    """Four cells of four networks; with `four_per_batch`, each is a batch."""
    return Sweep(
        seeds=(0, 1, 2, 3),
        widths=(8, 12),
        num_hidden_layers=(1,),
        learning_rates=(0.03, 0.1),
        matchings=("weights",),
        epochs=4,
        batch_size=50,
        num_points=3,
    )


@pytest.fixture
def four_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two networks per device and call; there are two devices."""
    monkeypatch.setattr("lmcjax.training._memory._MOST_PER_CPU_DEVICE", 2)


class Uninterrupted(NamedTuple):
    """The small sweep, run from beginning to end."""

    folder: Path
    results: xr.Dataset


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory, digits, sweep) -> Uninterrupted:
    """Once for all modules; compiled quickly and cut into batches as in their own runs."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "sweep"
    quick_before = jax.config.values["jax_disable_most_optimizations"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmcjax.training._memory._MOST_PER_CPU_DEVICE", 2)
        jax.config.update("jax_disable_most_optimizations", True)
        try:
            results = run_sweep(sweep, digits, folder)
        finally:
            jax.config.update("jax_disable_most_optimizations", quick_before)
    return Uninterrupted(folder, results)


@pytest.fixture
def finished(uninterrupted, tmp_path) -> SweepFolder:
    """A finished sweep of the test's own."""
    shutil.copytree(uninterrupted.folder, tmp_path / "sweep")
    return SweepFolder(tmp_path / "sweep")


@pytest.fixture
def alike(uninterrupted, same_results) -> Callable[[xr.Dataset], bool]:
    """`alike(results)`: the same as those of the uninterrupted sweep."""
    return lambda results: same_results(results, uninterrupted.results)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Networks in each compiled call of training, one entry per epoch."""
    train_in_calls = _batch_training.train_in_calls
    num_networks: list[int] = []

    def counted(states: Any, *args: Any, **options: Any) -> Iterator[Any]:
        for new_states, losses in train_in_calls(states, *args, **options):
            num_networks.append(len(losses))
            yield new_states, losses

    monkeypatch.setattr(_batch_training, "train_in_calls", counted)
    return num_networks


# Disturbances


@pytest.fixture(scope="session")
def after_epoch() -> Callable[..., Callable[[SweepProgress], None]]:
    """`after_epoch(batch, epoch, act)`: an `on_progress` that acts once.

    It acts when a batch, of four networks, has been trained for so long (in each of its calls).
    """

    def make(batch: int, epoch: int, act: Callable[[], Any]) -> Callable[[SweepProgress], None]:
        epochs_done = 0

        def on_progress(progress: SweepProgress) -> None:
            nonlocal epochs_done
            is_in_batch = progress.networks_done == 4 * batch and progress.stage == "train"
            if is_in_batch and progress.training_loss > 0:
                epochs_done += 1
                if epochs_done == epoch:
                    act()

        return on_progress

    return make


@pytest.fixture(scope="session")
def stop() -> Callable[[], None]:
    """`stop()` sends SIGTERM to this process."""
    return lambda: signal.raise_signal(signal.SIGTERM)


@pytest.fixture(scope="session")
def fail() -> Callable[[], None]:
    """`fail()` raises what nothing catches."""

    def raise_error() -> None:
        raise RuntimeError("as if killed")

    return raise_error


@pytest.fixture(scope="session")
def flip() -> Callable[[Path, int | bytes], None]:
    """`flip(path, at)` flips a bit of the byte at a position, or after some text."""

    def flip_bit(path: Path, at: int | bytes) -> None:
        content = bytearray(path.read_bytes())
        position = at if isinstance(at, int) else content.index(at) + len(at)
        content[position] ^= 1
        path.write_bytes(content)

    return flip_bit


@pytest.fixture(scope="session")
def largest_file() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """`with largest_file(size)`: as on a full disk, no file may be larger."""

    @contextlib.contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


# What is left of them


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Path], dict[str, Any]]:
    """`snapshot(folder)`: everything in a folder, with the times it was written."""

    def read(folder: Path) -> dict[str, Any]:
        contents = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = str(path.relative_to(folder))
                contents[name] = (path.stat().st_mtime_ns, path.read_bytes())
        return contents

    return read


@pytest.fixture(scope="session")
def no_leftovers() -> Callable[[Path], bool]:
    """`no_leftovers(folder)`: there is no half-written file."""
    return lambda folder: not list(folder.rglob("*.part"))


@pytest.fixture
def error_line(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """`error_line(*arguments)`: the error of a command that fails with one line and exit code 2."""

    def run(*arguments: str | Path) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in arguments])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("lmcjax: error: ")
        assert error.count("\n") == 1
        return error

    return run


# Processes


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """One for all of pytest's workers."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def environment(shared_folder) -> dict[str, str]:
    """For processes that all run the same programs: compiled quickly, and most of them once."""
    return os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": f"{shared_folder}/compiled",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


class Run:
    """A running command, its output in files."""

    def __init__(self, environment: dict[str, str], log: Path, *command: str | Path) -> None:
        self.out = log.with_suffix(".out")
        self.err = log.with_suffix(".err")
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [*map(str, command)], stdout=out, stderr=err, env=environment
            )

    def wait_for(self, pattern: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not re.search(pattern, self.out.read_text()):
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < end, f"no {pattern} after {seconds} s"
            time.sleep(0.02)

    def end(self, seconds: float = 240) -> int:
        return self.process.wait(seconds)


@pytest.fixture
def start(environment) -> Iterator[Callable[..., Run]]:
    """`start(log, *command)`; whatever happens, nothing is left running."""
    runs: list[Run] = []

    def started(log: Path, *command: str | Path) -> Run:
        runs.append(Run(environment, log, *command))
        return runs[-1]

    yield started
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()
