"""`lmcjax sweep` and `lmcjax status`."""

import dataclasses
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro

from lmcjax.cli._plot import show, wide_console
from lmcjax.cli._progress import duration, show_progress

if TYPE_CHECKING:
    from lmcjax.data import Dataset
    from lmcjax.sweep import Plan, Programs, Sweep, SweepFolder


@dataclasses.dataclass(frozen=True)
class SweepCommand:
    """Train, match and measure a grid of networks.

    The grid is seeds x widths x depths x optimizers x learning rates. What is finished is stored
    at once. Started again, the command computes only what is missing.

    CONFIG.toml holds the options of lmcjax.Sweep, for example:

        dataset = "mnist5k"
        seeds = 8
        widths = [32, 64, 128]
        num_hidden_layers = [1, 2]
        learning_rates = "1e-3:1e-1:3"
        matchings = ["weights", "covariance", "activations"]
        pairing = "disjoint"                   # or "all" pairs of a cell
        epochs = 20
    """

    config: Annotated[
        tyro.conf.Positional[Path | None],
        tyro.conf.arg(metavar="[CONFIG.toml]", help_behavior_hint=""),
    ] = None
    """TOML file that says what to compute."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FOLDER", help_behavior_hint="(default: runs/ and the name of the TOML file)"
        ),
    ] = None
    """Folder for the results."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Go on with the sweep in this folder. No CONFIG is needed. Damaged batches are computed
    again."""
    dry_run: bool = False
    """Print the plan and stop: groups of networks that share a program, padding, memory,
    compilations."""
    join: bool = False
    """Share the folder with other processes started with --join. Each takes a batch that no other
    is at work on."""
    checkpoint_minutes: float = 3.0
    """Minutes between checkpoints of a training call."""
    distributed: bool = False
    """Run as one of several processes of one job, each with its share. On Slurm, Open MPI and TPU
    pods they find each other. Elsewhere, the next three options say how."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Where process 0 listens."""
    num_processes: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Number of processes."""
    process_id: Annotated[int | None, tyro.conf.arg(metavar="I")] = None
    """Number of this process, from 0."""

    def run(self) -> None:
        """Compute what is missing, store, print."""
        self._check_options()
        from lmcjax.batching import use_all_cores

        self._start_distributed()  # before anything else of JAX
        use_all_cores()
        import jax

        from lmcjax.sweep import Programs, run_sweep

        sweep, dataset = self._load()
        programs = Programs(sweep, dataset)
        if self.dry_run:
            print_plan(programs)
            return
        print(f"{summary(programs)}, into {self.folder()}", flush=True)
        with show_progress() as on_progress:
            results = run_sweep(
                sweep,
                dataset,
                self.folder(),
                resume=self.resume is not None,
                join=self.join,
                checkpoint_seconds=60 * self.checkpoint_minutes,
                on_progress=on_progress,
            )
        if jax.process_index() == 0:
            show(results, self.folder())

    def folder(self) -> Path:
        """Where the sweep is."""
        if self.resume is not None:
            return self.resume
        assert self.config is not None
        return self.out or Path("runs") / self.config.stem

    def again(self) -> str:
        """The command that goes on with this sweep."""
        return shlex.join(["lmcjax", "sweep", "--resume", str(self.folder())])

    def _check_options(self) -> None:
        """Check options that need no file.

        Raises:
            ValueError: some do not go together, or a value is out of range.
        """
        if (self.config is None) == (self.resume is None):
            raise ValueError("sweep needs either CONFIG.toml or --resume FOLDER")
        if self.resume is not None and self.out is not None:
            raise ValueError("--resume names the folder already: leave out --out")
        if self.checkpoint_minutes <= 0:
            raise ValueError(f"--checkpoint-minutes is positive, not {self.checkpoint_minutes}")

    def _load(self) -> tuple["Sweep", "Dataset"]:
        """The sweep and its data, as the folder or the TOML file says."""
        from lmcjax.data import load_dataset
        from lmcjax.sweep import SweepFolder, read_sweep

        if self.resume is not None:
            folder = SweepFolder(self.resume)
            return folder.sweep(), load_dataset(folder.source())
        assert self.config is not None
        sweep, dataset_name = read_sweep(self.config)
        return sweep, load_dataset(dataset_name)

    def _start_distributed(self) -> None:
        """Connect with the other processes of the job, if this is one of several.

        Raises:
            ValueError: options that do not go together, or processes that do not find each other.
        """
        connection = (self.coordinator, self.num_processes, self.process_id)
        if not self.distributed:
            if any(value is not None for value in connection):
                raise ValueError(
                    "--coordinator, --num-processes and --process-id belong to --distributed"
                )
            return
        if self.coordinator is not None and not re.fullmatch(r"\S+:\d+", self.coordinator):
            raise ValueError(f"--coordinator is HOST:PORT, not {self.coordinator!r}")
        if self.join:
            raise ValueError(
                "--join is for processes that know nothing of each other: leave out --distributed"
            )
        import jax

        try:
            jax.distributed.initialize(*connection)
        except RuntimeError as error:
            raise ValueError(f"the processes did not find each other: {error}") from error


@dataclasses.dataclass(frozen=True)
class Status:
    """Say how far the sweep in a folder is: done, diverged, left, time to go."""

    folder: tyro.conf.Positional[Path]
    """Folder of a sweep."""

    def run(self) -> None:
        """Read and print."""
        from lmcjax.sweep import SweepFolder

        folder = SweepFolder(self.folder)
        dataset_name = folder.identity()["data"]["name"]
        sweep = folder.sweep()
        plan = folder.plan()
        stored = _read_batches(folder, plan)
        num_batches = len(plan.batches)
        num_left = sum(len(plan.networks(sweep, batch)) for batch in stored.left)
        computing = folder.locks.holder()
        print(
            f"{self.folder}: {sweep.num_networks} networks, {sweep.num_pairs} pairs "
            f"on {dataset_name}"
        )
        num_done = num_batches - len(stored.left)
        print(f"  done      {stored.networks} networks in {num_done} of {num_batches} batches")
        print(f"  diverged  {stored.diverged} of these")
        print(f"  left      {num_left} networks in {len(stored.left)} batches")
        for message in stored.damaged:
            print(f"  damaged   {message}")
        print(f"  computing {computing or 'nobody'}")
        if stored.networks:
            print(f"  time      {_describe_time(stored, plan, folder)}")
        if stored.left and computing is None:
            print(f"  go on     lmcjax sweep --resume {shlex.quote(str(self.folder))}")

    def again(self) -> str:
        """The same command."""
        return shlex.join(["lmcjax", "status", str(self.folder)])


class _StoredBatches(NamedTuple):
    """What a sweep has stored so far."""

    networks: int
    diverged: int
    seconds: float  # of computing, in all
    left: list[int]  # batches that are missing or damaged
    damaged: list[str]  # what is wrong with those that are


def _read_batches(folder: "SweepFolder", plan: "Plan") -> _StoredBatches:
    """Count what is stored of the batches of a plan."""
    networks = 0
    diverged = 0
    seconds = 0.0
    left: list[int] = []
    damaged: list[str] = []
    for batch in range(len(plan.batches)):
        try:
            stored = folder.read_batch(batch)
        except FileNotFoundError:
            left.append(batch)
            continue
        except ValueError as error:
            damaged.append(str(error))
            left.append(batch)
            continue
        finite = stored.arrays["training_finite"]
        networks += len(finite)
        diverged += int((~finite).sum())
        seconds += sum(stored.seconds.values())
    return _StoredBatches(networks, diverged, seconds, left, damaged)


def _describe_time(stored: _StoredBatches, plan: "Plan", folder: "SweepFolder") -> str:
    """The time spent, and the time to go or where the results are."""
    spent = f"{duration(stored.seconds)} of computing"
    if not stored.left:
        return f"{spent}; results in {folder.results}"
    # Networks differ in size, so time goes by operations, not by networks.
    all_operations = sum(batch.operations for batch in plan.batches)
    operations_left = sum(plan.batches[batch].operations for batch in stored.left)
    seconds_per_operation = stored.seconds / (all_operations - operations_left)
    return f"{spent} so far, about {duration(seconds_per_operation * operations_left)} to go"


_PLAN_COLUMNS = (
    "layers",
    "optimizer",
    "widths",
    "networks",
    "batches",
    "networks per call",
    "MB per call",
    "padding",
    "waste",
)


def print_plan(programs: "Programs") -> None:
    """Print what a sweep would do here: groups, padding, memory, compilations."""
    import jax
    from rich import box
    from rich.table import Table

    from lmcjax.sweep import make_plan

    sweep = programs.sweep
    devices = jax.local_devices()
    plan = make_plan(programs, devices)
    table = Table(
        *_PLAN_COLUMNS,
        box=box.SIMPLE_HEAD,
        title=f"\n{summary(programs)}",
        title_justify="left",
    )
    for number, group in enumerate(plan.groups):
        batches = [batch for batch in plan.batches if batch.group == number]
        per_call = plan.per_call(sweep, batches[0], len(devices))
        megabytes = per_call * group.bytes_per_network / 1e6
        table.add_row(
            str(group.num_hidden_layers),
            group.optimizer,
            " ".join(map(str, group.widths)),
            str(group.num_networks),
            str(len(batches)),
            str(per_call),
            f"{megabytes:,.0f}",
            group.padding,
            f"{group.waste:.0%}",
        )
    console = wide_console()
    console.print(table)

    # Training takes a program per group, comparison one per architecture, initial weights one per
    # architecture and optimizer.
    num_training = len(plan.groups)
    num_comparison = len(sweep.widths) * len(sweep.num_hidden_layers)
    num_initial = num_comparison * len(sweep.optimizers)
    num_compilations = num_training + num_comparison + num_initial
    operations = sum(batch.operations for batch in plan.batches)
    console.print(
        f"{len(devices)} x {devices[0].device_kind}; {num_compilations} compilations: "
        f"training {num_training}, initial weights {num_initial}, comparison {num_comparison}; "
        f"{operations:.2g} floating-point operations"
    )
    for refusal in programs.refusals:
        console.print(f"Not padded: {refusal}")


def summary(programs: "Programs") -> str:
    """The size of a sweep in a line."""
    sweep = programs.sweep
    dataset = programs.dataset
    num_images = len(dataset.train.labels)
    return (
        f"{sweep.num_networks} networks ({sweep.model}), {sweep.num_pairs} pairs on {dataset.name} "
        f"({num_images:,} training images), {programs.num_steps:,} steps each"
    )
