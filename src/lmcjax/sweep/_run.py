"""Running a sweep: batch after batch, each stored when it is finished."""

import contextlib
import itertools
import logging
import math
import operator
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
import xarray as xr

from lmcjax.batching import map_in_chunks, replicate
from lmcjax.data import Dataset
from lmcjax.sweep._config import Cell, Sweep
from lmcjax.sweep._folder import StoredBatch, SweepFolder, identity
from lmcjax.sweep._pairs import Compared, compiled_comparison
from lmcjax.sweep._plan import Batch, Group, Plan, make_plan
from lmcjax.sweep._programs import Programs
from lmcjax.sweep._results import merge
from lmcjax.sweep._train import Checkpoints, Trained, train_call
from lmcjax.symmetry import drop_padding, named_leaves

_log = logging.getLogger("lmcjax")
_PAIRS_ON_A_CPU = 2  # per device and call: more would gain nothing
_PATIENCE = 24 * 3600 * 1000  # milliseconds; that process 0 is dead is noticed by its heartbeats, long before
_TURN = itertools.count()  # a job may run several sweeps
_WAIT = 2.0  # seconds between looks at what others have finished


class SweepProgress(NamedTuple):
    """How far a sweep is."""

    networks_done: int  # trained, matched, measured and stored
    num_networks: int
    share: float  # of the sweep's arithmetic, with what is under way; 0 to 1
    stage: str  # of the batch under way: "train" or "compare"; "wait" for other processes
    training_loss: float  # nats, mean over the batch's networks in their last epoch; nan before the first
    barrier: float  # nats, mean test barrier without matching of the last batch that was finished here; nan before


OnProgress: TypeAlias = Callable[[SweepProgress], None]


class SweepInterrupted(KeyboardInterrupt):
    """A signal came; everything finished is stored, and the sweep can go on from there."""

    def __init__(self, number: int, folder: Path) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}; what is finished is stored in {folder}")


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
    """Train, match and measure everything in a sweep; called again, it computes only what is missing.

    Networks are trained in batches; a finished batch is written at once, and a long one leaves checkpoints. Killed at
    any moment and called again, it gives the same results, bit for bit, on the same devices. A run's numbers depend on
    its own cell and seed; which others share its batch changes them by rounding at most. SIGINT and SIGTERM stop it
    after the compiled call that is running. After `jax.distributed.initialize`, every process takes its share of the
    batches, on its own devices, and all return the merged results; `out` must be a folder that all of them see.

    Args:
        sweep: what to compute.
        dataset: on which data.
        out: folder of the sweep; None: nothing is kept.
        resume: compute batches again whose files are damaged, instead of raising.
        join: share the folder with other processes that join as well; each takes what nobody else is at.
        devices: default: all local ones.
        checkpoint_seconds: between two checkpoints of a training call; they cost a copy of its state on the disk.
        on_progress: called on the host after every compiled call.

    Returns:
        Labelled results with units; nan and `finite = False` where a run has diverged.

    Raises:
        ValueError: a sweep that does not fit the data, a folder of another sweep or other data (shows the
            differences), a damaged file, several processes without a folder; nothing is written then.
        BlockingIOError: another process computes in this folder.
        SweepInterrupted: a signal came.
        OSError: the folder can't be written; names the file. What was finished before stays.
    """
    if out is None:
        if jax.process_count() > 1:
            raise ValueError("several processes share a folder that all of them see: out is missing")
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
        stop = stack.enter_context(_stop_on_signals(folder.path))
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

    By the key-value store of `jax.distributed`: collectives on a CPU fail where processes come 30 seconds apart.

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
    """The work of one process."""

    def __init__(
        self,
        programs: Programs,
        folder: SweepFolder,
        devices: tuple[jax.Device, ...],
        checkpoint_seconds: float,
        on_progress: OnProgress,
        stop: list[int],
    ) -> None:
        self.programs, self.sweep, self.folder = programs, programs.sweep, folder
        self.devices, self.checkpoint_seconds, self.stop = devices, checkpoint_seconds, stop
        self.plan: Plan = folder.plan()
        self.units = [self.plan.units(self.sweep, batch) for batch in range(len(self.plan.batches))]
        self.finished: set[int] = set()
        self._networks_done, self._work_done = 0, 0.0
        self._work = sum(batch.operations for batch in self.plan.batches)
        self._most: dict[tuple[int, int], int] = {}
        self._on_progress = on_progress
        self._stage, self._under_way, self._loss, self._barrier = "train", 0.0, np.nan, np.nan
        samples = programs.dataset
        self.train, self.test = replicate((tuple(samples.train), tuple(samples.test)), devices)

    # What is done and what is left

    def check_batches(self, *, resume: bool) -> None:
        """See which batches are finished."""
        for batch in range(len(self.plan.batches)):
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
        """Compute all batches that are this process's to compute, and wait for those that are others'."""
        numbers = range(len(self.plan.batches))
        self.report()
        while True:
            for batch in numbers:
                if batch in self.finished or batch % processes != process:
                    continue
                with self.folder.claim(batch) if join else contextlib.nullcontext(True) as mine:
                    if mine:
                        self.batch(batch)
            for batch in numbers:
                if batch not in self.finished and self.folder.batch_path(batch).is_file():
                    self._finish(batch)
            if len(self.finished) == len(numbers):
                return
            self._stage = "wait"
            self.report()
            time.sleep(_WAIT)
            self.check_signals()

    def batch(self, number: int) -> None:
        """Compute and store one batch, in more and smaller calls if memory falls short."""
        while True:
            self.plan = self.folder.plan()
            calls = self.plan.batches[number].calls
            try:
                self._compute(number)
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                per_call = self._per_call(number)
                if not _out_of_memory(error) or per_call <= len(self.devices):
                    raise
                _log.warning("%d networks do not fit into the memory; half as many from now on", per_call)
                jax.clear_caches()
            else:
                self.folder.drop_checkpoints(number)
                self._finish(number)
                self._under_way = 0.0
                self.report()
                return
            self.folder.change_plan(operator.methodcaller("with_calls", number, 2 * calls))

    def check_signals(self) -> None:
        """Stop here if a signal came."""
        if self.stop:
            raise SweepInterrupted(self.stop[0], self.folder.path)

    def report(self) -> None:
        """Say how far we are."""
        share = min(1.0, (self._work_done + self._under_way) / self._work)
        networks = (self._networks_done, self.sweep.num_networks)
        self._on_progress(SweepProgress(*networks, share, self._stage, float(self._loss), float(self._barrier)))

    def _finish(self, batch: int) -> None:
        self.finished.add(batch)
        self._networks_done += sum(map(len, self.units[batch]))
        self._work_done += self.plan.batches[batch].operations

    # One batch

    def _cell(self, network: Any) -> Cell:
        return self.sweep.cells[network.cell]

    def _per_call(self, number: int) -> int:
        """Networks per compiled call of a batch."""
        return self.plan.per_call(self.sweep, self.plan.batches[number], len(self.devices))

    def _compute(self, number: int) -> None:
        batch = self.plan.batches[number]
        group = self.plan.groups[batch.group]
        start = time.perf_counter()
        trained = self._train(number, batch, group)
        middle = time.perf_counter()
        compared, permutations = self._compare(number, group, trained)
        seconds = {"train": middle - start, "compare": time.perf_counter() - middle}
        arrays = {"training_loss": trained.losses, "training_finite": trained.finite, **compared}
        if self.sweep.keep_permutations:
            arrays["permutation"] = permutations
        if self.sweep.keep_networks:
            self._store_networks(number, group, trained)
        self.folder.write_batch(number, StoredBatch(arrays, seconds))
        self._barrier = np.nanmean(compared["barrier"][:, 1, 0]) if np.isfinite(compared["barrier"]).any() else np.nan

    def _train(self, number: int, batch: Batch, group: Group) -> Trained:
        networks = self.plan.networks(self.sweep, number)
        per_call = self._per_call(number)
        parts = []
        self._stage, epoch_work = "train", self.programs.training_work(group.widths[-1], group.num_hidden_layers)
        for call, first in enumerate(range(0, len(networks), per_call)):
            chosen = [networks[min(i, len(networks) - 1)] for i in range(first, first + per_call)]
            real = min(per_call, len(networks) - first)

            def after_epoch(done: int, losses: np.ndarray, first: int = first, real: int = real) -> bool:
                self._under_way = (first * self.sweep.epochs + real * done) * epoch_work
                finite = losses[:real, -1][np.isfinite(losses[:real, -1])]
                self._loss = finite.mean() if finite.size else np.nan
                self.report()
                return not self.stop

            path = self.folder.checkpoint_path(number, f"{per_call}-{call}")
            trained = train_call(
                self.programs,
                group,
                [self._cell(network) for network in chosen],
                [self.sweep.seeds[network.seed] for network in chosen],
                self.train,
                self.devices,
                Checkpoints(path, self.checkpoint_seconds),
                after_epoch,
                keep=first + per_call < len(networks),
            )
            if trained is None:
                self.check_signals()
            parts.append(trained)
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(networks)], *parts)

    def _compare(self, number: int, group: Group, trained: Trained) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """All pairs of a batch in the order of its units, width by width."""
        self._stage = "compare"
        pairs: dict[int, list[tuple[int, int]]] = {}  # by width, rising as the units are
        first = 0
        for unit in self.units[number]:
            of_unit = itertools.combinations(range(first, first + len(unit)), 2)
            pairs.setdefault(self._cell(unit[0]).width, []).extend(of_unit)
            first += len(unit)
        parts, permutations = [], []
        for width, chosen in pairs.items():
            result = self._compare_width(number, group, width, trained, np.array(chosen))
            groups = self.programs.program(width, group.num_hidden_layers).spec.groups
            permutations.append(_in_one_array([result.permutations[g] for g in groups]))
            parts.append(result._replace(permutations={}))
        merged = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        arrays = {name: value for name, value in merged._asdict().items() if name != "permutations"}
        return arrays, _stack_padded(permutations)

    def _compare_width(self, number: int, group: Group, width: int, trained: Trained, pairs: np.ndarray) -> Compared:
        depth = group.num_hidden_layers
        own, wide = (self.programs.program(w, depth) for w in (width, group.widths[-1]))
        compare = compiled_comparison(
            own.network,
            own.spec,
            wide.spec,
            self.sweep.matchings,
            self.sweep.num_points,
            self.sweep.moment_samples,
            self.devices,
        )
        most = _PAIRS_ON_A_CPU * len(self.devices) if self.devices[0].platform == "cpu" else self._per_call(number) // 2
        chunk = max(1, min(most, self._most_pairs(self.plan.batches[number].group, width)))
        chunk = -(-chunk // len(self.devices)) * len(self.devices)
        base, work = self._under_way, self.programs.comparing_work(width, depth)

        def on_progress(done: int, total: int) -> None:
            self._under_way = base + done * work
            self.report()
            self.check_signals()

        sides = [jax.tree.map(lambda leaf, s=s: leaf[pairs[:, s]], trained.params) for s in (0, 1)]
        return map_in_chunks(compare, chunk, sides, (self.train, self.test), on_progress=on_progress)

    def _most_pairs(self, group: int, width: int) -> int:
        """Pairs of one width in any batch of a group: calls need not be larger."""
        if (group, width) not in self._most:
            batches = [
                units for units, batch in zip(self.units, self.plan.batches, strict=True) if batch.group == group
            ]
            counts = (sum(math.comb(len(u), 2) for u in units if self._cell(u[0]).width == width) for units in batches)
            self._most[group, width] = max(counts)
        return self._most[group, width]

    def _store_networks(self, number: int, group: Group, trained: Trained) -> None:
        arrays = {}
        wide = self.programs.program(group.widths[-1], group.num_hidden_layers).spec
        for i, network in enumerate(self.plan.networks(self.sweep, number)):
            spec = self.programs.program(self._cell(network).width, group.num_hidden_layers).spec
            params = jax.tree.map(lambda leaf, i=i: leaf[i], trained.params)
            for name, leaf in named_leaves(drop_padding(wide, spec, params)).items():
                arrays[f"{network.cell}/{network.seed}/{name}"] = np.asarray(leaf)
        self.folder.write_networks(number, arrays)


def _in_one_array(permutations: Sequence[Any]) -> np.ndarray:
    """`[pairs, matchings, groups, neurons]`, filled up with -1; stacked layers and heads lie end to end."""
    flat = [p.reshape(*p.shape[:2], -1) for p in permutations]
    return _stack_padded([p[:, :, None] for p in flat], axis=2)


def _stack_padded(arrays: list[np.ndarray], axis: int = 0) -> np.ndarray:
    """Arrays whose last axes differ in length, one after the other along an axis, filled up with -1."""
    longest = max(array.shape[-1] for array in arrays)
    filled = [np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, longest - a.shape[-1])], constant_values=-1) for a in arrays]
    return np.concatenate(filled, axis=axis)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)


@contextlib.contextmanager
def _stop_on_signals(folder: Path) -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM put themselves on; a second one interrupts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: Any) -> None:
        if received:
            raise SweepInterrupted(number, folder)
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
