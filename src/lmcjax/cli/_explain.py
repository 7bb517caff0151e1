"""`lmcjax explain`."""

import dataclasses
import shlex
from typing import Annotated, Any

import jax
import tyro
from rich.table import Column, Table
from rich.text import Text

from lmcjax.cli._figure2 import ModelName
from lmcjax.cli._plot import wide_console
from lmcjax.data import load_dataset
from lmcjax.models import build_network
from lmcjax.symmetry import Explanation, explain


def _no_default(metavar: str) -> Any:
    """Help for an option that may be left out."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclasses.dataclass(frozen=True)
class Explain:
    """Say which group of neurons permutes each axis of each parameter of a network, or else why
    nothing does, and which line of the program is the reason. Nothing is trained or run; it is read
    off the program.
    """

    model: Annotated[ModelName | None, _no_default("{mlp,vgg,resnet20,transformer}")] = None
    """One of the library's models, with --width and --num-hidden-layers."""
    apply: Annotated[str | None, _no_default("MODULE:FUNCTION")] = None
    """Or a network of your own, package.module:function: function(params, inputs) gives logits, and
    init(key) beside it gives params."""
    width: int = 128
    """Width of --model."""
    num_hidden_layers: int = 3
    """Hidden layers of --model."""
    dataset: str = "mnist5k"
    """What the inputs look like: mnist5k, digits, fashion-mnist, or a folder with MNIST's four IDX
    files."""

    def run(self) -> None:
        """Read the program, print.

        Raises:
            ValueError: neither --model nor --apply is given, or both are.
        """
        if (self.model is None) == (self.apply is None):
            raise ValueError("explain needs to know the network: give one of --model and --apply")
        dataset = load_dataset(self.dataset)
        network = build_network(
            self.apply or str(self.model),
            dataset.input_shape,
            dataset.num_classes,
            width=self.width,
            num_hidden_layers=self.num_hidden_layers,
        )
        params = jax.eval_shape(network.init, jax.random.key(0))
        explanation = explain(network.apply, params, dataset.train.inputs[:2])
        wide_console().print(_table(explanation))

    def again(self) -> str:
        """The same command."""
        command = ["lmcjax", "explain", "--dataset", self.dataset]
        for option in ("model", "apply"):
            value = getattr(self, option)
            if value is not None:
                command += [f"--{option}", value]
        command += ["--width", str(self.width)]
        command += ["--num-hidden-layers", str(self.num_hidden_layers)]
        return shlex.join(command)


def _table(explanation: Explanation) -> Table:
    heading, *rows = explanation.cells()
    columns = [Column(name, overflow="fold") for name in heading]  # nothing is cut off
    table = Table(*columns, title="What may be permuted")
    for row in rows:
        table.add_row(*map(Text, row))  # as it stands, whatever brackets there are
    return table
