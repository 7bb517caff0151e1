"""What an experiment is: what it measures, how it is judged, how it is drawn."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar

import xarray as xr

from lmcjax.experiments.claims._claim import Claim

if TYPE_CHECKING:  # a run that draws nothing does not load matplotlib
    from matplotlib.figure import Figure

Size: TypeAlias = Literal["tiny", "small", "full"]
"""How much is run.

- `tiny`: seconds, shows that the experiment runs;
- `small`: all experiments in 15 minutes on 2 cores;
- `full`: the paper's scale, for a GPU.
"""

Tell: TypeAlias = Callable[[str], None]
"""Receives a line of text whenever there is progress to report."""

Grid = TypeVar("Grid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Generic[Grid]):
    """Measurements, the claims that they decide, and a picture of them.

    Attributes:
        name: on the command line, and of the stored files.
        title: the heading on the page.
        about: a paragraph for the page that says what is run.
        sizes: the grid of widths, dimensions, ... that each size stands for.
        measure: runs a grid. Its arguments are the grid, a folder where unfinished work is kept and
            resumed, and a receiver of progress.
        claims: how the results are judged.
        draw: a figure of the results.
    """

    name: str
    title: str
    about: str
    sizes: Mapping[Size, Grid]
    measure: Callable[[Grid, Path, Tell], xr.Dataset]
    claims: tuple[Claim, ...]
    draw: Callable[[xr.Dataset], "Figure"]

    def run(self, size: Size, folder: Path, tell: Tell) -> xr.Dataset:
        """Measure at one size; what an earlier run left unfinished in the folder is resumed."""
        return self.measure(self.sizes[size], folder, tell)
