"""`lmcjax figure2`."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import tyro

from lmcjax.cli._plot import show
from lmcjax.cli._progress import show_progress
from lmcjax.cli._sweep import summary

if TYPE_CHECKING:
    from lmcjax.sweep import Sweep

ModelName: TypeAlias = Literal["mlp", "vgg", "resnet20", "transformer"]
ScaleName: TypeAlias = Literal["tiny", "default", "paper"]

_PAPER_STEPS = 6000
_PAPER = {
    "learning_rates": ("1e-4:1e-1:6",),
    "repetitions": 4,
    "num_points": 25,
    "moment_samples": None,
    "optimizer": "sgd",
}
_SMALL = {
    "learning_rates": ("0.001", "0.01"),
    "repetitions": 2,
    "num_points": 5,
    "moment_samples": 500,
    "optimizer": "adam",
}
SCALES: dict[ScaleName, dict[str, Any]] = {
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
"""The options that `--scale` sets, for the MLP."""

OTHER_SCALES: dict[ScaleName, dict[str, Any]] = {
    "tiny": {
        **_SMALL,
        "width": 4,
        "epochs": 1,
        "batch_size": 100,
        "num_points": 3,
        "moment_samples": 50,
    },
    "default": {**_SMALL, "width": 8, "epochs": 5, "batch_size": 100},
}
"""The options that `--scale` sets, for networks that cost more than the MLP."""


def _by_scale(field: str) -> Any:
    """Help for an option whose default comes with `--scale`."""
    default = SCALES["default"][field]
    if isinstance(default, tuple):
        metavar = "RATE..."
        shown = " ".join(default)
    else:
        metavar = "N"
        shown = str(default)
    return tyro.conf.arg(
        metavar=metavar, help_behavior_hint=f"(default: {shown}, or as --scale says)"
    )


@dataclasses.dataclass(frozen=True)
class Figure2:
    """Reproduce the paper's Figure 2.

    Trains pairs of networks at several learning rates. Matches each pair by weights, by weights in
    the covariance of the activations, and by activations. Measures the loss on the line between
    them. Writes results.nc, figure2.png and figure2.pdf, and prints the tables. For larger grids:
    lmcjax sweep.
    """

    dataset: str = "mnist5k"
    """mnist5k (5,000 real digits, no download), digits (8x8 pixels), fashion-mnist (from Debian's
    package dataset-fashion-mnist), or a folder with MNIST's four IDX files, gzipped or not."""
    scale: ScaleName = "default"
    """paper: width 512, 50 epochs, batch 500. tiny takes seconds, to see that everything works.
    Other options override it."""
    model: ModelName = "mlp"
    """mlp, or scaled down for small images: vgg (3 convolutions, 2 dense layers), resnet20,
    transformer (patches)."""
    apply: Annotated[
        str | None, tyro.conf.arg(metavar="MODULE:FUNCTION", help_behavior_hint="")
    ] = None
    """A network of your own, package.module:function. function(params, inputs) gives logits, and
    init(key) beside it gives params. What may be permuted is read off its program. Other defaults
    are those of --model vgg."""
    width: Annotated[int | None, _by_scale("width")] = None
    """Neurons in each hidden layer. Channels of the first stage or features of the stream, in
    other models (there 8)."""
    num_hidden_layers: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: 3)")
    ] = None
    """Hidden layers of the mlp, layers of the transformer."""
    epochs: Annotated[int | None, _by_scale("epochs")] = None
    """Passes over the training set."""
    batch_size: Annotated[int | None, _by_scale("batch_size")] = None
    """Samples per training step."""
    learning_rates: Annotated[tuple[str, ...], _by_scale("learning_rates")] = ()
    """Peak rates: a list, 0.001 0.01, or a range with a count, 1e-4:1e-1:6, spaced evenly in the
    logarithm."""
    repetitions: Annotated[int | None, _by_scale("repetitions")] = None
    """Pairs of networks per rate."""
    optimizer: Annotated[
        Literal["sgd", "sgd_plain", "adam", "adamw"] | None,
        tyro.conf.arg(
            metavar="{sgd,sgd_plain,adam,adamw}",
            help_behavior_hint="(default: sgd; other models: adam)",
        ),
    ] = None
    """sgd has momentum 0.9, sgd_plain none."""
    seed: int = 0
    """Seed of initial weights and shuffles. The same seed gives the same results."""
    num_points: Annotated[int | None, _by_scale("num_points")] = None
    """Points on the line between two networks (other models: 5)."""
    moment_samples: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: all)")
    ] = None
    """Training images on which activations are compared (other models: 500)."""
    out: Path = Path("figure2")
    """Folder for the results. Where the same command was stopped, it goes on."""
    overwrite: bool = False
    """Delete what the folder holds of an earlier sweep, and start again."""

    def run(self) -> None:
        """Compute what is missing, store, print."""
        sweep = self.sweep()
        from lmcjax.batching import use_all_cores
        from lmcjax.data import load_dataset
        from lmcjax.sweep import Programs, SweepFolder, run_sweep

        use_all_cores()  # before anything else of JAX
        dataset = load_dataset(self.dataset)
        programs = Programs(sweep, dataset)
        print(f"{summary(programs)}, into {self.out}", flush=True)
        num_steps = programs.num_steps
        if max(sweep.widths) >= 512 and num_steps < _PAPER_STEPS:
            print(
                f"Note: the paper trains {_PAPER_STEPS:,} steps on 60,000 images; "
                f"this data set gives {num_steps:,}."
            )
        if self.overwrite:
            # made first, since it finds mistakes, and a command with mistakes deletes nothing
            programs.program(sweep.widths[0], sweep.num_hidden_layers[0])
            SweepFolder(self.out).delete()
        with show_progress() as on_progress:
            results = run_sweep(sweep, dataset, self.out, on_progress=on_progress)
        show(results, self.out)

    def again(self) -> str:
        """The command that goes on where this one was stopped."""
        words = [word for word in sys.argv[1:] if word != "--overwrite"]
        return shlex.join(["lmcjax", *words])

    def sweep(self) -> "Sweep":
        """What is computed: the scale's values where no option was given.

        Raises:
            ValueError: options that do not go together, a value out of range, or learning rates
                that can't be read.
        """
        from lmcjax.experiments.figure2 import figure2_sweep

        self._check_model()
        return figure2_sweep(
            num_hidden_layers=3 if self.num_hidden_layers is None else self.num_hidden_layers,
            model=self.apply or self.model,
            seed=self.seed,
            **self._options(),
        )

    def _check_model(self) -> None:
        """Check the options that say what the networks are.

        Raises:
            ValueError: they do not go together.
        """
        is_own = self.apply is not None
        if is_own and (self.model != "mlp" or self.width or self.num_hidden_layers):
            raise ValueError(
                "--apply brings a network of its own: "
                "leave out --model, --width and --num-hidden-layers"
            )
        if self.num_hidden_layers is not None and self.model not in ("mlp", "transformer"):
            raise ValueError(
                f"--num-hidden-layers is of the mlp and the transformer, not of {self.model}"
            )

    def _options(self) -> dict[str, Any]:
        """The options of the scale, those that were given in place of its own.

        Raises:
            ValueError: a scale that the network does not have.
        """
        is_mlp = self.model == "mlp" and self.apply is None
        scales = SCALES if is_mlp else OTHER_SCALES
        if self.scale not in scales:
            raise ValueError(f"--scale {self.scale} is of the mlp; others have {', '.join(scales)}")
        options = dict(scales[self.scale])
        for name in options:
            given = getattr(self, name)
            if given not in (None, ()):
                options[name] = given
        return options
