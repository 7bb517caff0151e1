"""Every claim, tested: runs the experiments, and writes the page that says how each claim fared."""

import functools
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import xarray as xr

from lmcjax.experiments.claims import (
    bound_tightness,
    depth,
    empirical_measures,
    input_dimension,
    optimizers,
    planted_inputs,
    planted_spectra,
    two_layer,
)
from lmcjax.experiments.claims._claim import Claim, Limits, Verdict, verdict
from lmcjax.experiments.claims._experiment import Experiment, Size, Tell
from lmcjax.results import OnFailure, draw_picture

_log = logging.getLogger("lmcjax")

EXPERIMENTS: tuple[Experiment[Any], ...] = (
    two_layer.EXPERIMENT,
    depth.EXPERIMENT,
    optimizers.EXPERIMENT,
    input_dimension.EXPERIMENT,
    planted_spectra.EXPERIMENT,
    planted_inputs.EXPERIMENT,
    bound_tightness.EXPERIMENT,
    empirical_measures.EXPERIMENT,
)

# Lines of this file that end in a backslash go on in the next one
_HEADER = """# Claims, tested

Written from the results stored in `claims/*.nc`. Do not edit: `lmcjax claims --size small` \
measures what is missing and
writes this page again.

<!-- test
slow: lmcjax claims --size small
-->

Each claim says between which numbers a quantity lies. **Reproduced**: the whole 95 % \
interval of what was measured lies
there. **Contradicted**: all of it lies elsewhere. **Not reproduced**: neither, or nothing could \
be measured. Rule and
numbers were fixed before the runs. *n* counts independent pairs of networks, or draws. \
*Size* says which runs a row
shows: `small` is 15 minutes on 2 cores, `full` the paper's scale; a small run says little about \
limits of large widths.
"""


def _tell_nobody(line: str) -> None:
    pass


def run_experiments(
    size: Size, folder: Path, names: Sequence[str] = (), *, tell: Tell = _tell_nobody
) -> None:
    """Run the experiments that have no stored results yet, and store theirs.

    Results are stored in `<folder>/<name>-<size>.nc`, sweeps in `<folder>/runs/<name>-<size>`. A
    run that was stopped is resumed by the same call.

    Args:
        size: how much is run.
        folder: for results and sweeps.
        names: of experiments; none: all of them.
        tell: receives lines of progress.

    Raises:
        ValueError: no experiment of that name.
    """
    chosen = _chosen_experiments(names)
    folder.mkdir(parents=True, exist_ok=True)
    for experiment in chosen:
        path = _results_path(folder, experiment, size)
        if path.is_file():
            tell(f"{experiment.name}: there already, {path}")
            continue
        tell(f"{experiment.name}: {experiment.title}")
        start = time.monotonic()
        results = experiment.run(size, folder / "runs" / f"{experiment.name}-{size}", tell)
        seconds = time.monotonic() - start
        devices = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
        results = results.assign_attrs(size=size, seconds=seconds, devices=devices)
        # A file of that name is always whole
        part = path.with_suffix(".part")
        results.to_netcdf(part, engine="h5netcdf")
        part.replace(path)


def write_page(page: Path, folder: Path, *, on_failure: OnFailure = _log.warning) -> list[Path]:
    """Write the page of all stored results, the largest size of each, and then its figures.

    Args:
        page: the file to write.
        folder: of the stored results, and for the figures; in or below the page's folder.
        on_failure: is told of a figure that cannot be drawn. The page and the other figures are
            written all the same.

    Returns:
        What was written: the page, then the figures.

    Raises:
        ValueError: a stored file is damaged.
    """
    sections: list[str] = []
    overview_rows: list[list[str]] = []
    to_draw: list[tuple[Experiment[Any], xr.Dataset]] = []
    for experiment in EXPERIMENTS:
        results = _stored_results(folder, experiment)
        if results is None:
            sections.append(f"## {experiment.title}\n\n{experiment.about}\n\nNot run yet.\n")
            continue
        to_draw.append((experiment, results))
        picture = (folder / f"{experiment.name}.png").relative_to(page.parent).as_posix()
        rows = [_row(claim, results) for claim in experiment.claims]
        sections.append(_section(experiment, results, rows, picture))
        overview_rows.append(_overview_row(experiment, results, rows))
    overview = _table(["experiment", "size", *get_args(Verdict)], overview_rows)
    page.write_text("\n".join([_HEADER, overview, *sections]), encoding="utf-8")
    written = [page]
    for experiment, results in to_draw:
        draw = functools.partial(experiment.draw, results)
        written += draw_picture(draw, folder / experiment.name, on_failure)
    return written


def _overview_row(
    experiment: Experiment[Any], results: xr.Dataset, rows: list[list[str]]
) -> list[str]:
    """A link to an experiment, its size, and how many of its claims have each verdict."""
    verdicts = [row[-1] for row in rows]
    counts = [str(verdicts.count(f"**{kind}**")) for kind in get_args(Verdict)]
    link = f"[{experiment.title}](#{_anchor(experiment.title)})"
    return [link, results.attrs["size"], *counts]


def _section(
    experiment: Experiment[Any], results: xr.Dataset, rows: list[list[str]], picture: str
) -> str:
    made = "{size} size, {seconds:.0f} s on {devices}".format(**results.attrs)
    parts = [
        f"## {experiment.title}",
        f"{experiment.about} ({made}.)",
        f"![{experiment.title}]({picture})",
        _table(_COLUMNS, rows).rstrip(),
    ]
    reasons = []
    for claim in experiment.claims:
        reason = f"- {claim.statement} {claim.why}"
        if claim.why and reason not in reasons:
            reasons.append(reason)
    if reasons:
        parts.append("How the numbers claimed follow:")
        parts.append("\n".join(reasons))
    return "\n\n".join(parts) + "\n"


def _chosen_experiments(names: Sequence[str]) -> list[Experiment[Any]]:
    known = {experiment.name: experiment for experiment in EXPERIMENTS}
    for name in names:
        if name not in known:
            raise ValueError(f"no experiment {name!r}; there are {', '.join(known)}")
    if not names:
        return list(EXPERIMENTS)
    return [known[name] for name in names]


def _results_path(folder: Path, experiment: Experiment[Any], size: Size) -> Path:
    return folder / f"{experiment.name}-{size}.nc"


def _stored_results(folder: Path, experiment: Experiment[Any]) -> xr.Dataset | None:
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
    estimate = claim.estimate(results)
    return [
        claim.statement,
        claim.source,
        claim.quantity,
        _claimed(claim.limits),
        f"{_number(estimate.value)} [{_number(estimate.low)}, {_number(estimate.high)}]",
        str(estimate.samples),
        results.attrs["size"],
        f"**{verdict(estimate, claim.limits)}**",
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
    """The anchor of a heading, as GitHub makes it."""
    kept = [c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_"]
    return "".join(kept)


def _table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    rule = ["---"] * len(columns)
    lines = []
    for row in [columns, rule, *rows]:
        cells = [cell.replace("|", "\\|") for cell in row]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def _claimed(limits: Limits) -> str:
    low, high = limits
    if math.isinf(low) and math.isinf(high):
        raise ValueError("a claim that holds whatever is measured")
    if math.isinf(low):
        return f"at most {_number(high)}"
    if math.isinf(high):
        return f"at least {_number(low)}"
    return f"{_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return f"{value:.3g}"
