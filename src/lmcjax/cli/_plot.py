"""`lmcjax plot`, and how results are shown after they were made."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console

    from lmcjax.sweep import SweepFolder

_NEEDED = {"midpoint_loss", "barrier", "endpoint_loss", "seed_of"}


@dataclasses.dataclass(frozen=True)
class Plot:
    """Print the tables and draw the figures again from stored results, or from what is finished of a sweep."""

    folder: tyro.conf.Positional[Path]
    """Folder of lmcjax sweep or figure2."""

    def run(self) -> None:
        """Read, print, draw."""
        import xarray as xr

        from lmcjax.sweep import SweepFolder

        path = self.folder / "results.nc"
        if not path.is_file():
            show(_unfinished(SweepFolder(self.folder)), self.folder)
            return
        try:
            results = xr.load_dataset(path, engine="h5netcdf")
        except OSError as error:
            raise ValueError(f"{path}: not a readable netCDF file: {error}") from error
        if missing := _NEEDED - set(results):
            raise ValueError(f"{path}: not results of a sweep, it lacks {sorted(missing)}")
        show(results, self.folder)

    def again(self) -> str:
        """The same command."""
        return f"lmcjax plot {self.folder}"


def _unfinished(folder: "SweepFolder") -> "xr.Dataset":
    """What there is of a sweep that is not finished."""
    from lmcjax.data import load_dataset
    from lmcjax.sweep import Programs, merge

    results = merge(folder, Programs(folder.sweep(), load_dataset(folder.source())), partial=True)
    if "barrier" not in results:
        raise ValueError(f"{folder.path}: nothing is finished yet")
    print(f"{folder.path}: unfinished, what is missing is left out")
    return results


def wide_console() -> "Console":
    """A console for tables: where there is no terminal, or a narrow one, lines are longer than that."""
    from rich.console import Console

    console = Console()
    console.width = max(console.width, 130)
    return console


def show(results: "xr.Dataset", folder: Path) -> None:
    """Print the tables, draw the figure, name the files."""
    from lmcjax.experiments.figure2 import figure2_results, is_figure2
    from lmcjax.experiments.summary import figure2_tables, sweep_tables
    from lmcjax.plots import plot_figure2, plot_sweep, save_figure

    console = wide_console()
    if is_figure2(results):
        results = figure2_results(results)
        tables, figure, name = figure2_tables(results), plot_figure2(results), "figure2"
    else:
        tables, figure, name = sweep_tables(results), plot_sweep(results), "sweep"
    for table in tables:
        console.print(table)
    results_file = folder / "results.nc"
    for path in [*([results_file] if results_file.is_file() else []), *save_figure(figure, folder / name)]:
        print(path)
