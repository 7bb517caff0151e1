"""Every claim, tested: runs the experiments, and writes the page that says how each claim fared."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import jax
import xarray as xr

from lmcjax.experiments.claims import (
    depth,
    input_dimension,
    lower_bound,
    optimizers,
    planted_inputs,
    planted_spectra,
    rates,
    two_layer,
)
from lmcjax.experiments.claims._claim import Claim, Experiment, Size, Verdict, verdict
from lmcjax.plots import save_figure

EXPERIMENTS: tuple[Experiment, ...] = (
    two_layer.EXPERIMENT,
    depth.EXPERIMENT,
    optimizers.EXPERIMENT,
    input_dimension.EXPERIMENT,
    planted_spectra.EXPERIMENT,
    planted_inputs.EXPERIMENT,
    lower_bound.EXPERIMENT,
    rates.EXPERIMENT,
)

_HEADER = """# Claims, tested

Written by `lmcjax claims` from the results stored in `claims/*.nc`. Do not edit: `lmcjax claims --size small` measures
what is missing and writes this page again.

Each claim says between which numbers a quantity lies. **Reproduced**: the whole 95 % interval of what was measured lies
there. **Contradicted**: all of it lies elsewhere. **Not reproduced**: neither, or nothing could be measured. Rule and
numbers were fixed before the runs. *n* counts independent pairs of networks, or draws. *Size* says which runs a row
shows: `small` is 15 minutes on 2 cores, `full` the paper's scale; a small run says little about limits of large widths.
"""


def run_experiments(
    size: Size,
    folder: Path,
    names: Sequence[str] = (),
    *,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Run what has no stored results yet, and store each experiment's in
    `<folder>/<name>-<size>.nc`.

    Sweeps stand in `<folder>/runs/<name>-<size>`; stopped, the same call goes on.

    Raises:
        ValueError: no experiment of that name.
    """
    chosen = _chosen(names)
    folder.mkdir(parents=True, exist_ok=True)
    for experiment in chosen:
        path = _results_path(folder, experiment, size)
        if path.is_file():
            tell(f"{experiment.name}: there already, {path}")
            continue
        tell(f"{experiment.name}: {experiment.title}")
        start = time.monotonic()
        results = experiment.run(size, folder / "runs" / f"{experiment.name}-{size}", tell)
        devices = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
        part = path.with_suffix(".part")
        results.assign_attrs(
            size=size, seconds=time.monotonic() - start, devices=devices
        ).to_netcdf(part, engine="h5netcdf")
        part.replace(path)


def write_page(page: Path, folder: Path) -> list[Path]:
    """The page of all stored results with its figures, the largest size of each; returns what was
    written.
    """
    sections: list[str] = []
    tally: list[list[str]] = []
    written: list[Path] = []
    for experiment in EXPERIMENTS:
        results = _stored(folder, experiment)
        if results is None:
            sections.append(f"## {experiment.title}\n\n{experiment.about}\n\nNot run yet.\n")
            continue
        figures = save_figure(experiment.draw(results), folder / experiment.name)
        written += figures
        rows = [_row(claim, results) for claim in experiment.claims]
        sections.append(
            _section(experiment, results, rows, figures[0].relative_to(page.parent).as_posix())
        )
        counts = [str(sum(row[-1] == f"**{kind}**" for row in rows)) for kind in get_args(Verdict)]
        tally.append(
            [f"[{experiment.title}](#{_anchor(experiment.title)})", results.attrs["size"], *counts]
        )
    overview = _table(["experiment", "size", *get_args(Verdict)], tally)
    page.write_text("\n".join([_HEADER, overview, *sections]), encoding="utf-8")
    return [page, *written]


def _section(
    experiment: Experiment, results: xr.Dataset, rows: list[list[str]], picture: str
) -> str:
    made = "{size} size, {seconds:.0f} s on {devices}".format(**results.attrs)
    reasons = dict.fromkeys(
        f"- {claim.statement} {claim.why}\n" for claim in experiment.claims if claim.why
    )
    parts = [
        f"## {experiment.title}",
        f"{experiment.about} ({made}.)",
        f"![{experiment.title}]({picture})",
        _table(_COLUMNS, rows).rstrip(),
        *(["How the numbers claimed follow:", "".join(reasons).rstrip()] if reasons else []),
    ]
    return "\n\n".join(parts) + "\n"


def _chosen(names: Sequence[str]) -> list[Experiment]:
    known = {experiment.name: experiment for experiment in EXPERIMENTS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no experiment {unknown[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in names] or list(EXPERIMENTS)


def _results_path(folder: Path, experiment: Experiment, size: Size) -> Path:
    return folder / f"{experiment.name}-{size}.nc"


def _stored(folder: Path, experiment: Experiment) -> xr.Dataset | None:
    """The results of the largest size that was run."""
    for size in reversed(get_args(Size)):
        path = _results_path(folder, experiment, size)
        if path.is_file():
            try:
                return xr.load_dataset(path, engine="h5netcdf")
            except OSError as error:
                raise ValueError(f"{path}: not a readable netCDF file: {error}") from error
    return None


def _row(claim: Claim, results: xr.Dataset) -> list[str]:
    found = claim.measure(results)
    return [
        claim.statement,
        claim.source,
        claim.quantity,
        _claimed(*claim.holds),
        f"{_number(found.value)} [{_number(found.low)}, {_number(found.high)}]",
        str(found.samples),
        results.attrs["size"],
        f"**{verdict(found, claim.holds)}**",
    ]


_COLUMNS = [
    "claim",
    "source",
    "measured quantity",
    "claimed",
    "measured [95 %]",
    "n",
    "size",
    "verdict",
]


def _anchor(title: str) -> str:
    """Of a heading, as GitHub makes it."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def _table(columns: list[str], rows: list[list[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [columns, *rows]]
    return (
        "\n".join(
            f"| {' | '.join(row)} |" for row in [cells[0], ["---"] * len(columns), *cells[1:]]
        )
        + "\n"
    )


def _claimed(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        raise ValueError("a claim that holds whatever is measured")
    if math.isinf(low):
        return f"at most {_number(high)}"
    return f"at least {_number(low)}" if math.isinf(high) else f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:.3g}"
