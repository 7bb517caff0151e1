"""Running a sweep: batch after batch, each stored when it is finished."""

import contextlib
import itertools
import logging
import operator
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import xarray as xr

from lmcjax.data import Dataset
from lmcjax.sweep._batch import Batches
from lmcjax.sweep._config import Sweep
from lmcjax.sweep._folder import SweepFolder, identity
from lmcjax.sweep._plan import make_plan
from lmcjax.sweep._programs import Programs
from lmcjax.sweep._progress import OnProgress, Progress, stop_on_signals
from lmcjax.sweep._results import merge

_log = logging.getLogger("lmcjax")
_PATIENCE = (
    24 * 3600 * 1000
)  # milliseconds; that process 0 is dead is noticed by its heartbeats, long before
_TURN = itertools.count()  # a job may run several sweeps
_WAIT = 2.0  # seconds between looks at what others have finished


def run_sweep(
    sweep: Sweep,
    dataset: Dataset,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    join: bool = False,
    devices: Sequence[jax.Device] | None = None,
    checkpoint_seconds: float = 180.0,
    on_progress: OnProgress = lambda progress: None,
) -> xr.Dataset:
    """Train, match and measure everything in a sweep; called again, it computes only what is
    missing.

    Networks are trained in batches; a finished batch is written at once, and a long one leaves
    checkpoints. Killed at any moment and called again, it gives the same results, bit for bit, on
    the same devices. A run's numbers depend on its own cell and seed; which others share its batch
    changes them by rounding at most. SIGINT and SIGTERM stop it after the compiled call that is
    running. After `jax.distributed.initialize`, every process takes its share of the batches, on
    its own devices, and all return the merged results; `out` must be a folder that all of them see.

    Args:
        sweep: what to compute.
        dataset: on which data.
        out: folder of the sweep; None: nothing is kept.
        resume: compute batches again whose files are damaged, instead of raising.
        join: share the folder with other processes that join as well; each takes what nobody else
            is at.
        devices: default: all local ones.
        checkpoint_seconds: between two checkpoints of a training call; they cost a copy of its
            state on the disk.
        on_progress: called on the host after every compiled call.

    Returns:
        Labelled results with units; nan and `finite = False` where a run has diverged.

    Raises:
        ValueError: a sweep that does not fit the data, a folder of another sweep or other data
            (shows the differences), a damaged file, several processes without a folder; nothing is
            written then.
        BlockingIOError: another process computes in this folder.
        SweepInterrupted: a signal came.
        OSError: the folder can't be written; names the file. What was finished before stays.
    """
    if out is None:
        if jax.process_count() > 1:
            raise ValueError(
                "several processes share a folder that all of them see: out is missing"
            )
        with tempfile.TemporaryDirectory(prefix="lmcjax-") as temporary:
            return run_sweep(sweep, dataset, temporary, devices=devices, on_progress=on_progress)
    devices = tuple(jax.local_devices() if devices is None else devices)
    programs = Programs(sweep, dataset)
    folder, about = SweepFolder(out), identity(sweep, dataset)
    process, processes = jax.process_index(), jax.process_count()
    with contextlib.ExitStack() as stack:
        with _process_0_first("begin"):
            if process == 0:
                folder.check(about)
                plan = folder.plan() if folder.exists() else make_plan(programs, devices)
                stack.enter_context(folder.lock(shared=join))
                folder.begin(about, plan)
        if process > 0:
            folder.check(about)
        stop = stack.enter_context(stop_on_signals(folder.path))
        run = _Run(programs, folder, devices, checkpoint_seconds, on_progress, stop)
        run.check_batches(resume=resume)
        run.everything(process, processes, join=join)
        with _process_0_first("merge"):
            if process == 0:
                folder.write_results(merge(folder, programs))
        return xr.load_dataset(folder.results, engine="h5netcdf")


@contextlib.contextmanager
def _process_0_first(what: str) -> Iterator[None]:
    """What process 0 of a job does while the others wait; its failure is theirs too.

    By the key-value store of `jax.distributed`: collectives on a CPU fail where processes come 30
    seconds apart.

    Raises:
        ValueError: in the others, what went wrong in process 0.
    """
    if jax.process_count() == 1:
        yield
        return
    from jax._src.distributed import global_state  # it has no public name

    client: Any = global_state.client
    key, failure = f"lmcjax/{next(_TURN)}/{what}", "it was stopped"
    try:
        yield
        failure = ""
    except (ValueError, OSError) as error:
        failure = str(error)
        raise
    finally:
        if jax.process_index() == 0:
            client.key_value_set(key, failure)
    if jax.process_index() > 0 and (failure := client.blocking_key_value_get(key, _PATIENCE)):
        raise ValueError(f"process 0 could not {what}: {failure}")


class _Run:
    """The work of one process: which batches are finished, and whose turn the others are."""

    def __init__(
        self,
        programs: Programs,
        folder: SweepFolder,
        devices: tuple[jax.Device, ...],
        checkpoint_seconds: float,
        on_progress: OnProgress,
        stop: list[int],
    ) -> None:
        plan = folder.plan()
        work = sum(batch.operations for batch in plan.batches)
        self.progress = Progress(programs.sweep.num_networks, work, folder.path, stop, on_progress)
        self.batches = Batches(programs, folder, plan, devices, checkpoint_seconds, self.progress)
        self.folder, self.numbers = folder, range(len(plan.batches))
        self.finished: set[int] = set()

    def check_batches(self, *, resume: bool) -> None:
        """See which batches are finished."""
        for batch in self.numbers:
            try:
                self.folder.read_batch(batch)
                self._finish(batch)
            except FileNotFoundError:
                pass
            except ValueError as error:
                if not resume:
                    raise ValueError(f"{error}; resume to compute it again") from error
                _log.warning("%s; it is computed again", error)
                self.folder.batch_path(batch).unlink(missing_ok=True)

    def everything(self, process: int, processes: int, *, join: bool) -> None:
        """Compute all batches that are this process's to compute, and wait for those that are
        others'.
        """
        self.progress.report()
        while True:
            for batch in self.numbers:
                if batch in self.finished or batch % processes != process:
                    continue
                with self.folder.claim(batch) if join else contextlib.nullcontext(True) as mine:
                    if mine:
                        self.batch(batch)
            for batch in self.numbers:
                if batch not in self.finished and self.folder.batch_path(batch).is_file():
                    self._finish(batch)
            if len(self.finished) == len(self.numbers):
                return
            self.progress.stage = "wait"
            self.progress.report()
            time.sleep(_WAIT)
            self.progress.check_signals()

    def batch(self, number: int) -> None:
        """Compute and store one batch, in more and smaller calls if memory falls short."""
        while True:
            self.batches.plan = self.folder.plan()
            calls = self.batches.plan.batches[number].calls
            try:
                self.batches.compute(number)
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                per_call = self.batches.networks_per_call(number)
                if not _out_of_memory(error) or per_call <= len(self.batches.devices):
                    raise
                _log.warning(
                    "%d networks do not fit into the memory; half as many from now on", per_call
                )
                jax.clear_caches()
            else:
                self.folder.drop_checkpoints(number)
                self._finish(number)
                self.progress.under_way = 0.0
                self.progress.report()
                return
            self.folder.change_plan(operator.methodcaller("with_calls", number, 2 * calls))

    def _finish(self, batch: int) -> None:
        self.finished.add(batch)
        plan, units = self.batches.plan, self.batches.units[batch]
        self.progress.finish(sum(map(len, units)), plan.batches[batch].operations)


def _out_of_memory(error: BaseException) -> bool:
    return (
        isinstance(error, MemoryError)
        or "RESOURCE_EXHAUSTED" in str(error)
        or "Out of memory" in str(error)
    )
