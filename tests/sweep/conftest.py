"""What the tests of storage, of crashes and of processes share."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xarray as xr


@pytest.fixture(scope="session")
def same_results() -> Callable[[xr.Dataset, xr.Dataset], bool]:
    """`same_results(a, b)`: bit for bit, labels and attributes too, but for the time it took."""

    def timeless(results: xr.Dataset) -> xr.Dataset:
        return results.assign_attrs(seconds="")

    return lambda a, b: timeless(a).identical(timeless(b))


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
        self.out, self.err = log.with_suffix(".out"), log.with_suffix(".err")
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
