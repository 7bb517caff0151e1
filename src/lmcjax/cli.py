"""The command line: `lmcjax figure2`, `lmcjax plot`."""

import contextlib
import dataclasses
import io
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import tyro

if TYPE_CHECKING:
    import xarray as xr

    from lmcjax.data import Dataset
    from lmcjax.experiments.figure2 import Figure2Config

ModelName: TypeAlias = Literal["mlp", "vgg", "resnet20", "transformer"]
_RATES = ("1e-4:1e-1:6",)
_PAPER = {"learning_rates": _RATES, "repetitions": 4, "num_points": 25, "moment_samples": None, "optimizer": "sgd"}
SCALES: dict[str, dict[str, Any]] = {
    "tiny": {
        **_PAPER,
        "width": 16,
        "epochs": 2,
        "batch_size": 50,
        "learning_rates": ("0.01", "0.1"),
        "repetitions": 2,
    },
    "default": {**_PAPER, "width": 128, "epochs": 20, "batch_size": 100},
    "paper": {**_PAPER, "width": 512, "epochs": 50, "batch_size": 500},
}
_SMALL = {
    "learning_rates": ("0.001", "0.01"),
    "repetitions": 2,
    "num_points": 5,
    "moment_samples": 500,
    "optimizer": "adam",
}
OTHER_SCALES: dict[str, dict[str, Any]] = {  # of models that cost more than the MLP
    "tiny": {**_SMALL, "width": 4, "epochs": 1, "batch_size": 100, "num_points": 3, "moment_samples": 50},
    "default": {**_SMALL, "width": 8, "epochs": 5, "batch_size": 100},
}
_PAPER_STEPS = 6000


def _by_scale(field: str) -> Any:
    """Help for an option whose default comes with `--scale`."""
    default = SCALES["default"][field]
    shown = " ".join(default) if isinstance(default, tuple) else default
    metavar = "RATE..." if isinstance(default, tuple) else "N"
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {shown}, or as --scale says)")


@dataclasses.dataclass(frozen=True)
class Figure2:
    """Reproduce the paper's Figure 2: train pairs of networks at several learning rates, match each pair by weights,
    by weights in the covariance of the activations, and by activations, and measure the loss on the line between them.
    Writes results.nc, figure2.png and figure2.pdf, and prints the tables.
    """

    dataset: str = "mnist5k"
    """mnist5k (5,000 real digits, no download), digits (8x8 pixels), fashion-mnist (from Debian's package
    dataset-fashion-mnist), or a folder with MNIST's four IDX files, gzipped or not."""
    scale: Literal["tiny", "default", "paper"] = "default"
    """paper: width 512, 50 epochs, batch 500. tiny: seconds, to see that everything works. Other options override."""
    model: ModelName = "mlp"
    """mlp, or scaled down for small images: vgg (3 convolutions, 2 dense layers), resnet20, transformer (patches)."""
    apply: str | None = None
    """A network of your own, package.module:function: function(params, inputs) gives logits, and init(key) beside it
    gives params. What may be permuted is read off its program. Other defaults are those of --model vgg."""
    width: Annotated[int | None, _by_scale("width")] = None
    """Neurons in each hidden layer; channels of the first stage, or features of the stream (other models: 8)."""
    num_hidden_layers: int | None = None
    """Hidden layers of the mlp, layers of the transformer (default: 3)."""
    epochs: Annotated[int | None, _by_scale("epochs")] = None
    """Passes over the training set."""
    batch_size: Annotated[int | None, _by_scale("batch_size")] = None
    """Samples per training step."""
    learning_rates: Annotated[tuple[str, ...], _by_scale("learning_rates")] = ()
    """Peak rates: a list, 0.001 0.01, or a range with a count, 1e-4:1e-1:6, spaced evenly in the logarithm."""
    repetitions: Annotated[int | None, _by_scale("repetitions")] = None
    """Pairs of networks per rate."""
    optimizer: Annotated[
        Literal["sgd", "adam", "adamw"] | None,
        tyro.conf.arg(metavar="{sgd,adam,adamw}", help_behavior_hint="(default: sgd; other models: adam)"),
    ] = None
    """sgd has momentum 0.9."""
    seed: int = 0
    """Seed of initial weights and shuffles; the same seed gives the same results."""
    num_points: Annotated[int | None, _by_scale("num_points")] = None
    """Points on the line between two networks (other models: 5)."""
    moment_samples: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Training images on which activations are compared (other models: 500)."""
    networks_per_batch: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: by memory)")] = (
        None
    )
    """Networks per compiled call."""
    out: Path = Path("figure2")
    """Folder for the results."""
    overwrite: bool = False
    """Replace results that the folder already holds."""

    def run(self) -> None:
        """Compute, store, print."""
        from rich.console import Console

        config = self.config()
        _refuse_results(self.out, overwrite=self.overwrite)
        with Console().status("loading"):
            from lmcjax.batching import use_all_cores
            from lmcjax.data import load_dataset
            from lmcjax.experiments.figure2 import run_figure2

            use_all_cores()
            dataset = load_dataset(self.dataset)
        _print_plan(config, dataset)
        self.out.mkdir(parents=True, exist_ok=True)
        with _progress() as on_progress:
            results = run_figure2(config, dataset, on_progress=on_progress)
        _report(results, self.out)

    def config(self) -> "Figure2Config":
        """The experiment's configuration: the scale's values where no option was given.

        Raises:
            ValueError: a value out of range, or learning rates that can't be read.
        """
        from lmcjax.experiments.figure2 import Figure2Config

        if self.apply is not None and (self.model != "mlp" or self.width or self.num_hidden_layers):
            raise ValueError("--apply brings a network of its own: leave out --model, --width and --num-hidden-layers")
        if self.num_hidden_layers is not None and self.model not in ("mlp", "transformer"):
            raise ValueError(f"--num-hidden-layers is of the mlp and the transformer, not of {self.model}")
        plain = self.model == "mlp" and self.apply is None
        scales = SCALES if plain else OTHER_SCALES
        if self.scale not in scales:
            raise ValueError(f"--scale {self.scale} is of the mlp; others have {', '.join(scales)}")
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(Figure2Config)}
        options |= {name: value for name, value in scales[self.scale].items() if options[name] in (None, ())}
        options["num_hidden_layers"] = self.num_hidden_layers or 3
        options["model"] = self.apply or self.model
        return Figure2Config(**{**options, "learning_rates": parse_learning_rates(options["learning_rates"])})


@dataclasses.dataclass(frozen=True)
class Plot:
    """Print the tables and draw the figure again from stored results."""

    folder: tyro.conf.Positional[Path]
    """Folder with results.nc."""

    def run(self) -> None:
        """Read, print, draw."""
        import xarray as xr

        path = self.folder / "results.nc"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; run `lmcjax figure2 --out {self.folder}` first")
        try:
            results = xr.load_dataset(path, engine="h5netcdf")
        except OSError as error:
            raise ValueError(f"{path}: not a readable netCDF file: {error}") from error
        if missing := {"midpoint_loss", "barrier", "approximate_dimension"} - set(results):
            raise ValueError(f"{path}: not results of figure2, it lacks {sorted(missing)}")
        _show(results, self.folder)


def parse_learning_rates(words: Sequence[str]) -> tuple[float, ...]:
    """Rates from words: numbers, or `low:high:count`, evenly spaced in the logarithm, rounded to 3 digits.

    >>> parse_learning_rates(["1e-3", "1e-2:1:3"])
    (0.001, 0.01, 0.1, 1.0)

    Raises:
        ValueError: a word that is neither; names it.
    """
    rates: list[float] = []
    for word in words:
        try:
            if ":" not in word:
                rates.append(float(word))
                continue
            low, high, count = word.split(":")
            start, stop, steps = math.log10(float(low)), math.log10(float(high)), int(count)
            rates += [float(f"{10 ** (start + (stop - start) * i / (steps - 1)):.3g}") for i in range(steps)]
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            raise ValueError(
                f"learning rate {word!r} is neither a number nor a range low:high:count (count >= 2), like 1e-4:1e-1:6"
            ) from error
    return tuple(rates)


def _refuse_results(folder: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that already holds results."""
    held = [name for name in ("results.nc", "figure2.png", "figure2.pdf") if (folder / name).exists()]
    if held and not overwrite:
        raise FileExistsError(f"{folder} already holds {', '.join(held)}: choose another --out, or pass --overwrite")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar per stage: what is being done, how far, how long it took and how long is left."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    stages = {
        "train": "train networks",
        "match": "match neurons",
        "evaluate": "walk between networks",
    }
    columns = (
        TextColumn("{task.description:<21}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, speed_estimate_period=600) as progress:
        tasks = {stage: progress.add_task(name, total=None, start=False) for stage, name in stages.items()}
        waiting = list(tasks.values())
        progress.start_task(waiting.pop(0))

        def on_progress(stage: str, done: int, total: int) -> None:
            progress.update(tasks[stage], completed=done, total=total)
            if done == total and waiting:
                progress.start_task(waiting.pop(0))

        yield on_progress


def _print_plan(config: "Figure2Config", dataset: "Dataset") -> None:
    """Say what is about to be done, after checking that it can be."""
    import rich

    from lmcjax.experiments.figure2 import network_spec, train_config

    train = train_config(config, dataset)
    groups = network_spec(train.network, dataset).group_shapes()
    neurons = sum(math.prod(shape) for shape in groups.values())
    rich.print(
        f"{2 * config.num_pairs} networks ({config.model}, {neurons:,} neurons in {len(groups)} groups) on "
        f"{dataset.name} ({len(dataset.train.labels):,} training images), {train.num_steps:,} steps each"
    )
    steps = train.num_steps
    if config.width >= 512 and steps < _PAPER_STEPS:
        rich.print(f"Note: the paper trains {_PAPER_STEPS:,} steps on 60,000 images; this data set gives {steps:,}.")


def _report(results: "xr.Dataset", folder: Path) -> None:
    """Store the results, whole or not at all, then show them."""
    unfinished = folder / "results.nc.part"
    results.to_netcdf(unfinished, engine="h5netcdf")
    os.replace(unfinished, folder / "results.nc")
    _show(results, folder)


def _show(results: "xr.Dataset", folder: Path) -> None:
    """Print the tables, draw the figure, name the files."""
    from rich.console import Console

    from lmcjax.experiments.summary import all_tables
    from lmcjax.plots import plot_figure2, save_figure

    console = Console()
    for table in all_tables(results):
        console.print(table)
    for path in [folder / "results.nc", *save_figure(plot_figure2(results), folder / "figure2")]:
        print(path)


def _one_line(message: str) -> str:
    """An error box of several lines as one line of text, without the reference to the help."""
    lines = [line.strip("│╭╰╮╯─ ") for line in message.splitlines()]
    body: list[str] = []
    for line in lines[1:]:
        if not line and body:
            break
        body.append(line)
    return re.sub(r"\s+", " ", " ".join(body)).strip()


def _parse(arguments: Sequence[str] | None) -> Figure2 | Plot:
    """The chosen command with its options; a mistake ends the program with one line and exit code 2."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.extras.subcommand_cli_from_dict(
                {"figure2": Figure2, "plot": Plot},
                prog="lmcjax",
                description="Linear mode connectivity of neural networks by optimal transport.",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code:
            _fail(f"{_one_line(errors.getvalue())} (see lmcjax --help)")
        raise


def _fail(message: str) -> None:
    """End with one line of error and exit code 2."""
    print(f"lmcjax: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; mistakes of the user end with one line of error and exit code 2."""
    command = _parse(arguments)
    try:
        command.run()
    except (ValueError, OSError) as error:
        _fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        print("lmcjax: interrupted, nothing was written", file=sys.stderr)
        raise SystemExit(130) from None
