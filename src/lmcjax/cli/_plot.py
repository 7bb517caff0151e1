"""`lmcjax plot`, and how results are shown after they were made."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure
    from rich.console import Console

    from lmcjax.results import OnFailure
    from lmcjax.sweep import SweepFolder

_NEEDED = {"midpoint_loss", "barrier", "endpoint_loss", "seed_of"}
_TABLE_WIDTH = 130  # characters, at least


@dataclasses.dataclass(frozen=True)
class Plot:
    """Print the tables and draw the figures again.

    Shows stored results, or what is finished of a sweep.
    """

    folder: tyro.conf.Positional[Path]
    """Folder of lmcjax sweep or figure2."""

    def run(self) -> None:
        """Read, print, draw; a figure that can't be drawn ends the command with exit code 1."""
        if not show(self._results(), self.folder):
            raise SystemExit(1)

    def again(self) -> str:
        """The same command."""
        return shlex.join(["lmcjax", "plot", str(self.folder)])

    def _results(self) -> "xr.Dataset":
        """The results in the folder.

        Raises:
            ValueError: the file is damaged or holds something else, or nothing is finished yet.
        """
        import xarray as xr

        from lmcjax.sweep import SweepFolder

        path = self.folder / "results.nc"
        if not path.is_file():
            return _unfinished(SweepFolder(self.folder))
        try:
            results = xr.load_dataset(path, engine="h5netcdf")
        except OSError as error:
            raise ValueError(f"{path}: not a readable netCDF file: {error}") from error
        missing = _NEEDED - set(results)
        if missing:
            raise ValueError(f"{path}: not results of a sweep, it lacks {sorted(missing)}")
        return results


def _unfinished(folder: "SweepFolder") -> "xr.Dataset":
    """The results so far of a sweep that is not finished.

    Raises:
        ValueError: there are none.
    """
    from lmcjax.data import load_dataset
    from lmcjax.sweep import Programs, merge

    programs = Programs(folder.sweep(), load_dataset(folder.source()))
    results = merge(folder, programs, partial=True)
    if "barrier" not in results:
        raise ValueError(f"{folder.path}: nothing is finished yet")
    print(f"{folder.path}: unfinished, what is missing is left out")
    return results


def wide_console() -> "Console":
    """A console for tables, which does not break their rows, however narrow the terminal is."""
    from rich.console import Console

    console = Console()
    console.width = max(console.width, _TABLE_WIDTH)
    return console


def show(results: "xr.Dataset", folder: Path) -> bool:
    """Print the tables and the name of the file of results, then draw the figure.

    The figure comes last, so that what is wrong with it costs nothing else.

    Returns:
        Whether the figure was drawn. If it was not, a line on stderr says why, and how to draw it
        again.
    """
    from lmcjax.results import (
        draw_picture,
        figure2_tables,
        has_one_architecture,
        of_one_architecture,
        sweep_tables,
    )

    one_architecture = has_one_architecture(results)
    if one_architecture:
        results = of_one_architecture(results)
        tables = figure2_tables(results)
        name = "figure2"
    else:
        tables = sweep_tables(results)
        name = "sweep"
    console = wide_console()
    for table in tables:
        console.print(table)
    results_file = folder / "results.nc"
    if results_file.is_file():
        print(results_file, flush=True)

    def draw() -> "Figure":
        # imported here, so that a broken matplotlib is a picture that fails
        from lmcjax.results import plot_figure2, plot_sweep

        return plot_figure2(results) if one_architecture else plot_sweep(results)

    pictures = draw_picture(draw, folder / name, complain(Plot(folder).again()))
    for path in pictures:
        print(path)
    return bool(pictures)


def complain(again: str) -> "OnFailure":
    """A function for `draw_picture` that prints why a picture failed, and how to draw it again.

    Args:
        again: the command that draws it.
    """

    def on_failure(message: str) -> None:
        print(f"lmcjax: {message}; to draw it again: {again}", file=sys.stderr)

    return on_failure
