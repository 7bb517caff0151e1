"""A sweep on disk: what it is, its plan, its finished batches; every file whole or not there at
all.

sweep.json      what is computed, on which data, with which versions: the sweep's identity
plan.json       groups and batches
batches/        a file per finished batch
checkpoints/    of batches that are being trained
networks/       the trained networks, where they are kept
results.nc      everything, once all batches are finished
lock            held by whoever is computing
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr

from lmcjax.data import Dataset
from lmcjax.sweep._config import Sweep, sweep_from_table
from lmcjax.sweep._files import naming, read_arrays, write_arrays, write_whole
from lmcjax.sweep._plan import Plan, check_plan, plan_from_dict

_PACKAGES = ("lmcjax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")


_BEGINNING = {
    "lock",
    "changing.lock",
    "plan.json",
}  # what one that was stopped while it began may have left
_PATIENCE = 1.0  # seconds to wait for those who only look who computes


class StoredBatch(NamedTuple):
    """A finished batch."""

    arrays: dict[str, np.ndarray]
    seconds: dict[str, float]  # by stage


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of everything in a data set but its name."""
    digest = hashlib.sha256()
    for array in (*dataset.train, *dataset.test, np.asarray(dataset.num_classes)):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def identity(sweep: Sweep, dataset: Dataset) -> dict[str, Any]:
    """What two runs must have in common to be the same sweep: plain values, as JSON holds them."""
    return {
        "format": 1,
        "sweep": sweep.asdict(),
        "data": {
            "name": dataset.name,
            "source": dataset.source,
            "train_samples": len(dataset.train.labels),
            "test_samples": len(dataset.test.labels),
            "input_shape": list(dataset.input_shape),
            "num_classes": dataset.num_classes,
            "fingerprint": fingerprint(dataset),
        },
        "versions": {package: importlib.metadata.version(package) for package in _PACKAGES},
        "x64": bool(jnp.result_type(float) == jnp.float64),
    }


def differences(here: Mapping[str, Any], stored: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Where two nested dicts differ, one line each."""
    found = []
    for name in sorted(here.keys() | stored.keys()):
        one, other = here.get(name), stored.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, f"{prefix}{name}.")
        elif one != other:
            found.append(f"{prefix}{name}: {other!r} there, {one!r} here")
    return found


class SweepFolder:
    """The files of one sweep."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def results(self) -> Path:
        """Where the merged results are, once there are any."""
        return self.path / "results.nc"

    def exists(self) -> bool:
        """Whether a sweep has been started here."""
        return (self.path / "sweep.json").is_file()

    def check(self, about: Mapping[str, Any]) -> None:
        """Check that a sweep of this `identity` can be begun here, or be gone on with. Nothing is
        written.

        Raises:
            ValueError: another sweep was begun here; shows every difference.
            FileExistsError: the folder holds other things.
        """
        if self.exists():
            if differing := differences(about, self.identity()):
                raise ValueError(f"{self.path} holds another sweep: {'; '.join(differing)}")
        elif self.path.is_dir() and (
            foreign := sorted(p.name for p in self.path.iterdir() if not _of_beginning(p))
        ):
            raise FileExistsError(
                errno.EEXIST, f"not the folder of a sweep, it holds {foreign[:3]}", str(self.path)
            )

    def begin(self, about: Mapping[str, Any], plan: Plan) -> None:
        """Write down what is computed and by which plan, unless that has been done; errors as of
        `check`.
        """
        with self._changing():
            self.check(about)
            if not self.exists():
                with naming(self.path):
                    (self.path / "batches").mkdir(exist_ok=True)
                self._write_plan(plan)
                write_whole(self.path / "sweep.json", json.dumps(about, indent=1).encode())

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One process at a time, for a moment."""
        with naming(self.path):
            file = open(self.path / "changing.lock", "a")  # noqa: SIM115 - closed below
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def identity(self) -> dict[str, Any]:
        """What the folder's sweep computes.

        Raises:
            FileNotFoundError: there is no sweep here.
            ValueError: its file can't be read.
        """
        return self._read_json("sweep.json")

    def sweep(self) -> Sweep:
        """The folder's sweep."""
        table = self.identity().get("sweep")
        try:
            if not isinstance(table, dict):
                raise ValueError("it says nothing of a sweep")
            return sweep_from_table(table)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.path / 'sweep.json'}: damaged: {error}") from error

    def source(self) -> str:
        """The name of the sweep's data, as `load_dataset` takes it.

        Raises:
            ValueError: the data were made by a program, and have none.
        """
        data = self.identity()["data"]
        if not data["source"]:
            raise ValueError(
                f"{self.path}: its data, {data['name']!r}, have no name to load them by"
            )
        return data["source"]

    @functools.cached_property
    def digest(self) -> str:
        """The identity in short, as every batch carries it."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def plan(self) -> Plan:
        """The stored plan.

        Raises:
            FileNotFoundError: there is no sweep here.
            ValueError: the plan can't be read, or does not cover the sweep.
        """
        values = self._read_json("plan.json")
        try:
            plan = plan_from_dict(values)
            check_plan(plan, self.sweep())
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{self.path / 'plan.json'}: damaged: {error!r}") from error
        return plan

    def change_plan(self, change: Callable[[Plan], Plan]) -> None:
        """Replace the stored plan by a changed one."""
        with self._changing():
            self._write_plan(change(self.plan()))

    def _write_plan(self, plan: Plan) -> None:
        write_whole(self.path / "plan.json", json.dumps(plan.asdict(), indent=1).encode())

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.is_file():
            raise FileNotFoundError(
                errno.ENOENT, "no sweep has been started here, there is no such file", str(path)
            )
        try:
            values = json.loads(path.read_text("utf-8"))
            if not isinstance(values, dict):
                raise ValueError("no names and values")
            return values
        except ValueError as error:
            raise ValueError(f"{path}: damaged: {error}") from error

    def batch_path(self, batch: int) -> Path:
        """The file of a finished batch."""
        return self.path / "batches" / f"{batch:05d}.safetensors"

    def write_batch(self, batch: int, stored: StoredBatch) -> None:
        """Store a finished batch, with the sweep that it belongs to."""
        about = {"sweep": self.digest, "batch": batch, "seconds": stored.seconds}
        write_arrays(self.batch_path(batch), stored.arrays, about)

    def read_batch(self, batch: int) -> StoredBatch:
        """A finished batch.

        Raises:
            FileNotFoundError: it is not finished.
            ValueError: the file is truncated, damaged, or of another sweep or batch; names it.
        """
        path = self.batch_path(batch)
        arrays, about = read_arrays(path)
        if (about.get("sweep"), about.get("batch")) != (self.digest, batch):
            raise ValueError(f"{path}: not batch {batch} of this sweep")
        return StoredBatch(arrays, about["seconds"])

    def write_networks(self, batch: int, leaves: Mapping[str, np.ndarray]) -> None:
        """Store a batch's trained networks."""
        (self.path / "networks").mkdir(exist_ok=True)
        write_arrays(
            self.path / "networks" / f"{batch:05d}.safetensors", leaves, {"sweep": self.digest}
        )

    def read_networks(self, batch: int) -> dict[str, np.ndarray]:
        """A batch's trained networks; errors as of `read_batch`."""
        path = self.path / "networks" / f"{batch:05d}.safetensors"
        leaves, about = read_arrays(path)
        if about.get("sweep") != self.digest:
            raise ValueError(f"{path}: not of this sweep")
        return leaves

    def checkpoint_path(self, batch: int, call: str) -> Path:
        """The file with the state of a compiled call's training."""
        return self.path / "checkpoints" / f"{batch:05d}" / f"{call}.safetensors"

    def write_results(self, results: xr.Dataset) -> None:
        """Store the merged results."""
        write_whole(
            self.results, bytes(results.to_netcdf(engine="h5netcdf"))
        )  # HDF5 itself crashes on a full disk

    def delete(self) -> None:
        """Delete the sweep's files and the pictures made of it, and nothing else."""
        for name in ("batches", "checkpoints", "networks"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        pictures = (
            f"{stem}.{suffix}" for stem in ("figure2", "sweep") for suffix in ("png", "pdf")
        )
        for name in ("sweep.json", "plan.json", "results.nc", *pictures):
            (self.path / name).unlink(missing_ok=True)

    def drop_checkpoints(self, batch: int) -> None:
        """Forget the checkpoints of a batch."""
        shutil.rmtree(self.path / "checkpoints" / f"{batch:05d}", ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, *, shared: bool = False) -> Iterator[None]:
        """Be the only one who computes here, or one of those who share.

        The lock is the operating system's: it ends with the process, however that ends.

        Raises:
            BlockingIOError: someone else computes here; says who.
        """
        with naming(self.path / "lock"):
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(self.path / "lock", "ab+", buffering=0)  # noqa: SIM115 - closed below
        with file:
            patience = time.monotonic() + _PATIENCE
            while True:
                try:
                    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() < patience:
                        time.sleep(0.05)
                        continue
                    file.seek(0)
                    who = file.read().decode().strip() or "another process"
                    raise BlockingIOError(
                        errno.EWOULDBLOCK, f"{who} is computing here", str(self.path)
                    ) from None
            with naming(self.path / "lock"):
                file.truncate(0)  # those who share leave no name, nor that of one who is gone
                if not shared:
                    file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield

    def computing(self) -> str | None:
        """Who computes here, if anyone."""
        try:
            with open(
                self.path / "lock", "r+"
            ) as file:  # NFS locks exclusively only what is open for writing
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return (self.path / "lock").read_text().strip() or "several processes"
        return None

    @contextlib.contextmanager
    def claim(self, batch: int) -> Iterator[bool]:
        """Whether this process, among those that share the folder, is to compute a batch: nobody
        else is at it.
        """
        path = self.path / "batches" / f"{batch:05d}.lock"
        with open(path, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield not self.batch_path(batch).is_file()


def _of_beginning(path: Path) -> bool:
    """Whether a file may be there before sweep.json is."""
    if path.name == "batches":
        return path.is_dir() and not any(path.iterdir())
    return path.name in _BEGINNING or path.suffix == ".part"
