"""`lmcjax sweep` and `lmcjax status`."""

import dataclasses
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lmcjax.cli._plot import show, wide_console
from lmcjax.cli._progress import duration, show_progress

if TYPE_CHECKING:
    from lmcjax.data import Dataset
    from lmcjax.sweep import Programs, Sweep


@dataclasses.dataclass(frozen=True)
class SweepCommand:
    """Train, match and measure a grid of networks: seeds x widths x depths x optimizers x learning
    rates. What is
    finished is stored at once; started again, only what is missing is computed.

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

    config: tyro.conf.Positional[Path | None] = None
    """TOML file that says what to compute."""
    out: Path | None = None
    """Folder for the results (default: runs/ and the name of the TOML file)."""
    resume: Path | None = None
    """Go on with the sweep in this folder; no CONFIG is needed, and damaged batches are computed
    again.
    """
    dry_run: bool = False
    """Print the plan, groups of networks that share a program, padding, memory, compilations, and
    stop.
    """
    join: bool = False
    """Share the folder with other processes started with --join: each takes what nobody else is at.
    """
    checkpoint_minutes: float = 3.0
    """Minutes between checkpoints of a training call."""
    distributed: bool = False
    """Run as one of several processes of one job, each with its share; on Slurm, Open MPI and TPU
    pods they find
    each other, elsewhere say how with the next three."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Where process 0 listens."""
    num_processes: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """How many there are."""
    process_id: Annotated[int | None, tyro.conf.arg(metavar="I")] = None
    """Which of them this is, from 0."""

    def run(self) -> None:
        """Compute what is missing, store, print."""
        if (self.config is None) == (self.resume is None):
            raise ValueError("sweep needs either CONFIG.toml or --resume FOLDER")
        if self.resume is not None and self.out is not None:
            raise ValueError("--resume names the folder already: leave out --out")
        if self.checkpoint_minutes <= 0:
            raise ValueError(f"--checkpoint-minutes is positive, not {self.checkpoint_minutes}")
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

    def _load(self) -> tuple["Sweep", "Dataset"]:
        from lmcjax.data import load_dataset
        from lmcjax.sweep import SweepFolder, read_sweep

        if self.resume is not None:
            folder = SweepFolder(self.resume)
            return folder.sweep(), load_dataset(folder.source())
        assert self.config is not None
        sweep, name = read_sweep(self.config)
        return sweep, load_dataset(name)

    def _start_distributed(self) -> None:
        given = (self.coordinator, self.num_processes, self.process_id)
        if not self.distributed:
            if any(value is not None for value in given):
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
            jax.distributed.initialize(*given)
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
        about, sweep, plan = folder.identity(), folder.sweep(), folder.plan()
        done = diverged = 0
        seconds = 0.0
        damaged, left = [], []
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
            done += len(finite)
            diverged += int((~finite).sum())
            seconds += sum(stored.seconds.values())
        missing = sum(len(plan.networks(sweep, batch)) for batch in left)
        who = folder.locks.holder()
        print(
            f"{self.folder}: {sweep.num_networks} networks, {sweep.num_pairs} pairs on {about['data']['name']}"
        )
        print(
            f"  done      {done} networks in {len(plan.batches) - len(left)} of {len(plan.batches)} batches"
        )
        print(f"  diverged  {diverged} of these")
        print(f"  left      {missing} networks in {len(left)} batches")
        for message in damaged:
            print(f"  damaged   {message}")
        print(f"  computing {who or 'nobody'}")
        if left and done:
            to_do = sum(plan.batches[batch].operations for batch in left)
            rate = seconds / (sum(batch.operations for batch in plan.batches) - to_do)
            print(
                f"  time      {duration(seconds)} of computing so far, about {duration(rate * to_do)} to go"
            )
        elif done:
            print(f"  time      {duration(seconds)} of computing; results in {folder.results}")
        if left and who is None:
            print(f"  go on     lmcjax sweep --resume {shlex.quote(str(self.folder))}")

    def again(self) -> str:
        """The same command."""
        return shlex.join(["lmcjax", "status", str(self.folder)])


def print_plan(programs: "Programs") -> None:
    """Groups, padding, memory, compilations: what a sweep would do here."""
    import jax
    from rich import box
    from rich.table import Table

    from lmcjax.sweep import make_plan

    sweep, devices = programs.sweep, jax.local_devices()
    plan = make_plan(programs, devices)
    columns = (
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
    table = Table(
        *columns, box=box.SIMPLE_HEAD, title=f"\n{summary(programs)}", title_justify="left"
    )
    for number, group in enumerate(plan.groups):
        batches = [batch for batch in plan.batches if batch.group == number]
        per_call = plan.per_call(sweep, batches[0], len(devices))
        widths = " ".join(map(str, group.widths))
        memory = f"{per_call * group.bytes_per_network / 1e6:,.0f}"
        cells = (
            group.num_hidden_layers,
            group.optimizer,
            widths,
            group.num_networks,
            len(batches),
            per_call,
            memory,
        )
        table.add_row(*map(str, cells), group.padding, f"{group.waste:.0%}")
    console = wide_console()
    console.print(table)
    architectures = len(sweep.widths) * len(sweep.num_hidden_layers)
    programs_compiled = len(plan.groups) + architectures * (1 + len(sweep.optimizers))
    operations = sum(batch.operations for batch in plan.batches)
    console.print(
        f"{len(devices)} x {devices[0].device_kind}; {programs_compiled} compilations: training {len(plan.groups)}, "
        f"initial weights {architectures * len(sweep.optimizers)}, comparison {architectures}; "
        f"{operations:.2g} floating-point operations"
    )
    for refusal in programs.refusals:
        console.print(f"Not padded: {refusal}")


def summary(programs: "Programs") -> str:
    """The size of a sweep in a line."""
    sweep, dataset = programs.sweep, programs.dataset
    return (
        f"{sweep.num_networks} networks ({sweep.model}), {sweep.num_pairs} pairs on {dataset.name} "
        f"({len(dataset.train.labels):,} training images), {programs.num_steps:,} steps each"
    )
