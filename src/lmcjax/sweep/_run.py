"""Running a sweep: batch after batch, each stored when it is finished."""

import contextlib
import logging
import operator
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import xarray as xr

from lmcjax.data import Dataset
from lmcjax.sweep._batch import Batches
from lmcjax.sweep._batch_results import merge
from lmcjax.sweep._context import RunContext
from lmcjax.sweep._folder import SweepFolder
from lmcjax.sweep._grid import Sweep
from lmcjax.sweep._identity import identity
from lmcjax.sweep._locks import claim
from lmcjax.sweep._network_programs import Programs
from lmcjax.sweep._planning import make_plan
from lmcjax.sweep._processes import process_0_first
from lmcjax.sweep._reporting import OnProgress, ProgressReporter, SweepProgress
from lmcjax.sweep._signals import stop_on_signals
from lmcjax.sweep._sweep_plan import Plan

_log = logging.getLogger("lmcjax")
_WAIT = 2.0  # seconds between looks at what others have finished


def _ignore(progress: SweepProgress) -> None:
    """The default of `on_progress`."""


def run_sweep(
    sweep: Sweep,
    dataset: Dataset,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    join: bool = False,
    devices: Sequence[jax.Device] | None = None,
    checkpoint_seconds: float = 180.0,
    on_progress: OnProgress = _ignore,
) -> xr.Dataset:
    """Train, match and measure everything in a sweep; called again, only what is missing.

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
        join: share the folder with other processes that join as well; each takes batches that
            nobody else is at.
        devices: default: all local ones.
        checkpoint_seconds: between two checkpoints of a training call; they cost a copy of its
            state on the disk.
        on_progress: called on the host after every compiled call.

    Returns:
        Labelled results with units; nan and `finite = False` where a run has diverged.

    Raises:
        ValueError: a sweep that does not fit the data, a folder of another sweep, other data
            (shows the differences) or another format, a damaged file, several processes without a
            folder; nothing is written then.
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
    folder = SweepFolder(out)
    with (
        _begun(folder, programs, devices, join=join) as plan,
        stop_on_signals(folder.path) as signals,
    ):
        reporter = ProgressReporter(
            num_networks=sweep.num_networks,
            operations=sum(batch.operations for batch in plan.batches),
            folder=folder.path,
            signals=signals,
            on_progress=on_progress,
        )
        context = RunContext(programs, folder, devices, checkpoint_seconds, reporter)
        run = _Run(context, plan)
        run.check_batches(resume=resume)
        run.compute_everything(join=join)
        with process_0_first("merge"):
            if jax.process_index() == 0:
                folder.write_results(merge(folder, programs))
        return xr.load_dataset(folder.results, engine="h5netcdf")


@contextlib.contextmanager
def _begun(
    folder: SweepFolder, programs: Programs, devices: tuple[jax.Device, ...], *, join: bool
) -> Iterator[Plan]:
    """Begin a sweep in its folder, or go on with it; process 0 of a job holds the lock."""
    about = identity(programs.sweep, programs.dataset)
    with contextlib.ExitStack() as lock:
        with process_0_first("begin"):
            if jax.process_index() == 0:
                # Whatever may be refused is refused before the lock, the first file, is written
                folder.check(about)
                plan = folder.plan() if folder.exists() else make_plan(programs, devices)
                lock.enter_context(folder.locks.hold(shared=join))
                folder.begin(about, plan)
        if jax.process_index() > 0:
            folder.check(about)
        # Another one may have begun it in the meantime, by a plan of its own
        yield folder.plan()


class _Run:
    """The work of one process: which batches are finished, and whose turn the others are."""

    def __init__(self, context: RunContext, plan: Plan) -> None:
        self._folder = context.folder
        self._reporter = context.reporter
        self._devices = context.devices
        self._batches = Batches(context, plan)
        self._numbers = range(len(plan.batches))
        self._finished: set[int] = set()

    def check_batches(self, *, resume: bool) -> None:
        """See which batches are finished; with `resume`, delete those that are damaged."""
        for number in self._numbers:
            try:
                self._folder.read_batch(number)
                self._finish(number)
            except FileNotFoundError:
                pass
            except ValueError as error:
                if not resume:
                    raise ValueError(f"{error}; resume to compute it again") from error
                _log.warning("%s; it is computed again", error)
                self._folder.batch_path(number).unlink(missing_ok=True)

    def compute_everything(self, *, join: bool) -> None:
        """Compute all batches that are this process's to compute, and wait for the others."""
        self._reporter.report()
        while True:
            for number in self._numbers:
                is_ours = number % jax.process_count() == jax.process_index()
                if is_ours and number not in self._finished:
                    self._compute_unless_claimed(number, join=join)
            self._look_for_finished()
            if len(self._finished) == len(self._numbers):
                return
            self._reporter.stage = "wait"
            self._reporter.report()
            time.sleep(_WAIT)
            self._reporter.stop_if_signalled()

    def _compute_unless_claimed(self, number: int, *, join: bool) -> None:
        """Compute a batch; among processes that join, only if no other one is at it."""
        if not join:
            self._compute(number)
            return
        with claim(self._folder.batch_path(number)) as claimed:
            if claimed:
                self._compute(number)

    def _look_for_finished(self) -> None:
        """See what other processes have finished."""
        for number in self._numbers:
            if number not in self._finished and self._folder.batch_path(number).is_file():
                self._finish(number)

    def _compute(self, number: int) -> None:
        """Compute and store one batch, in more and smaller calls if memory falls short."""
        # Another process, or a run before, may have changed the plan
        self._batches.plan = self._folder.plan()
        while not self._fits_into_memory(number):
            calls = self._batches.plan.batches[number].calls
            self._folder.change_plan(operator.methodcaller("with_calls", number, 2 * calls))
            self._batches.plan = self._folder.plan()
        self._folder.drop_checkpoints(number)
        self._finish(number)
        self._reporter.operations_under_way = 0.0
        self._reporter.report()

    def _fits_into_memory(self, number: int) -> bool:
        """Compute and store one batch; False: memory fell short, and smaller calls may help."""
        try:
            self._batches.compute(number)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            per_call = self._batches.networks_per_call(number)
            if not _is_out_of_memory(error) or per_call <= len(self._devices):
                raise
            _log.warning(
                "%d networks do not fit into the memory; half as many from now on", per_call
            )
            jax.clear_caches()
            return False
        return True

    def _finish(self, number: int) -> None:
        """Count a batch that is stored."""
        self._finished.add(number)
        num_networks = sum(len(unit) for unit in self._batches.units[number])
        self._reporter.finish(num_networks, self._batches.plan.batches[number].operations)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    return "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)
