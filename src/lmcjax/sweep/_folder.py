"""A sweep on disk. Every file is there whole or not at all.

sweep.json      what is computed, on which data, with which versions: the sweep's identity
plan.json       groups and batches
batches/        a file per finished batch
checkpoints/    of batches that are being trained
networks/       the trained networks, where they are kept
results.nc      everything, once all batches are finished
lock            held by whoever is computing
"""

import errno
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from lmcjax.sweep._files import (
    FORMAT,
    check_format,
    errors_name,
    read_arrays,
    write_arrays,
    write_whole,
)
from lmcjax.sweep._grid import Sweep
from lmcjax.sweep._identity import differences
from lmcjax.sweep._locks import CHANGE_LOCK, FOLDER_LOCK, FolderLocks
from lmcjax.sweep._sweep_plan import Plan, check_plan, plan_from_dict
from lmcjax.sweep._toml import sweep_from_table

# Pictures that the command line draws into the folder
_PICTURES = ("figure2.png", "figure2.pdf", "sweep.png", "sweep.pdf")


class StoredBatch(NamedTuple):
    """A finished batch."""

    arrays: dict[str, np.ndarray]  # by the names of the results' variables
    seconds: dict[str, float]  # by stage


class SweepFolder:
    """The files of one sweep."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.locks = FolderLocks(self.path)

    @property
    def results(self) -> Path:
        """Where the merged results are, once there are any."""
        return self.path / "results.nc"

    def exists(self) -> bool:
        """Whether a sweep has been started here."""
        return (self.path / "sweep.json").is_file()

    def check(self, about: Mapping[str, Any]) -> None:
        """Check that a sweep of this `identity` can begin or go on here, without writing anything.

        Raises:
            ValueError: another sweep was begun here (shows every difference), or its files are of
                another format.
            FileExistsError: the folder holds other things.
        """
        if self.exists():
            differing = differences(about, self.identity())
            if differing:
                raise ValueError(f"{self.path} holds another sweep: {'; '.join(differing)}")
        elif self.path.is_dir():
            foreign = [p.name for p in self.path.iterdir() if not _may_precede_a_sweep(p)]
            if foreign:
                raise FileExistsError(
                    errno.EEXIST,
                    f"not the folder of a sweep, it holds {sorted(foreign)[:3]}",
                    str(self.path),
                )

    def begin(self, about: Mapping[str, Any], plan: Plan) -> None:
        """Write down what is computed and by which plan, unless that has been done.

        Raises:
            ValueError, FileExistsError: as `check`.
        """
        with self.locks.change():
            self.check(about)
            if self.exists():
                return
            with errors_name(self.path):
                (self.path / "batches").mkdir(exist_ok=True)
            self._write_plan(plan)
            # The last one: with it, the sweep has begun
            self._write_json("sweep.json", about)

    def identity(self) -> dict[str, Any]:
        """Read what the folder's sweep computes, see `identity`.

        Raises:
            FileNotFoundError: there is no sweep here.
            ValueError: its file can't be read, or is of another format.
        """
        return self._read_json("sweep.json")

    def sweep(self) -> Sweep:
        """Read the folder's sweep; errors as `identity`."""
        table = self.identity().get("sweep")
        try:
            if not isinstance(table, dict):
                raise ValueError("it does not describe a sweep")
            return sweep_from_table(table)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.path / 'sweep.json'}: damaged: {error}") from error

    def source(self) -> str:
        """Read the name of the sweep's data, as `load_dataset` takes it.

        Raises:
            ValueError: the data were made by a program, and have no such name.
        """
        data = self.identity()["data"]
        if not data["source"]:
            raise ValueError(
                f"{self.path}: its data, {data['name']!r}, have no name to load them by"
            )
        return data["source"]

    @functools.cached_property
    def digest(self) -> str:
        """A hash of the identity, which every batch carries."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def plan(self) -> Plan:
        """Read the plan.

        Raises:
            FileNotFoundError: there is no sweep here.
            ValueError: the plan can't be read, is of another format, or does not cover the sweep.
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
        with self.locks.change():
            self._write_plan(change(self.plan()))

    def _write_plan(self, plan: Plan) -> None:
        self._write_json("plan.json", {"format": FORMAT, **plan.asdict()})

    def _write_json(self, name: str, values: Mapping[str, Any]) -> None:
        write_whole(self.path / name, json.dumps(values, indent=1).encode())

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.is_file():
            raise FileNotFoundError(
                errno.ENOENT, "no sweep has been started here, there is no such file", str(path)
            )
        try:
            values = json.loads(path.read_text("utf-8"))
            if not isinstance(values, dict):
                raise ValueError("it holds no names and values")
        except ValueError as error:
            raise ValueError(f"{path}: damaged: {error}") from error
        check_format(path, values.get("format"))
        return values

    def batch_path(self, batch: int) -> Path:
        """The file of a finished batch."""
        return self.path / "batches" / f"{batch:05d}.safetensors"

    def write_batch(self, batch: int, stored: StoredBatch) -> None:
        """Store a finished batch, with the sweep that it belongs to."""
        about = {"sweep": self.digest, "batch": batch, "seconds": stored.seconds}
        write_arrays(self.batch_path(batch), stored.arrays, about)

    def read_batch(self, batch: int) -> StoredBatch:
        """Read a finished batch.

        Raises:
            FileNotFoundError: it is not finished.
            ValueError: the file is truncated, damaged, of another format, sweep or batch; names it.
        """
        path = self.batch_path(batch)
        arrays, about = read_arrays(path)
        if about.get("sweep") != self.digest or about.get("batch") != batch:
            raise ValueError(f"{path}: not batch {batch} of this sweep")
        return StoredBatch(arrays, about["seconds"])

    def _networks_path(self, batch: int) -> Path:
        return self.path / "networks" / f"{batch:05d}.safetensors"

    def write_networks(self, batch: int, leaves: Mapping[str, np.ndarray]) -> None:
        """Store a batch's trained networks."""
        path = self._networks_path(batch)
        path.parent.mkdir(exist_ok=True)
        write_arrays(path, leaves, {"sweep": self.digest})

    def read_networks(self, batch: int) -> dict[str, np.ndarray]:
        """Read a batch's trained networks; errors as `read_batch`."""
        path = self._networks_path(batch)
        leaves, about = read_arrays(path)
        if about.get("sweep") != self.digest:
            raise ValueError(f"{path}: not of this sweep")
        return leaves

    def _checkpoints_path(self, batch: int) -> Path:
        return self.path / "checkpoints" / f"{batch:05d}"

    def checkpoint_path(self, batch: int, call: str) -> Path:
        """The file with the state of a compiled call's training."""
        return self._checkpoints_path(batch) / f"{call}.safetensors"

    def drop_checkpoints(self, batch: int) -> None:
        """Delete the checkpoints of a batch."""
        shutil.rmtree(self._checkpoints_path(batch), ignore_errors=True)

    def write_results(self, results: xr.Dataset) -> None:
        """Store the merged results."""
        # Made in memory first: HDF5 itself crashes on a full disk
        contents = bytes(results.to_netcdf(engine="h5netcdf"))
        write_whole(self.results, contents)

    def delete(self) -> None:
        """Delete the sweep's files and the pictures made of it, and nothing else."""
        for name in ("batches", "checkpoints", "networks"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("sweep.json", "plan.json", "results.nc", *_PICTURES):
            (self.path / name).unlink(missing_ok=True)


def _may_precede_a_sweep(path: Path) -> bool:
    """Whether a run that was stopped before it wrote sweep.json may have left a file."""
    if path.name == "batches":
        return path.is_dir() and not any(path.iterdir())
    return path.name in (FOLDER_LOCK, CHANGE_LOCK, "plan.json") or path.suffix == ".part"
