"""What the page says of stored results, and what is run and what is not."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from lmcjax.experiments.claims import Claim, Estimate, Experiment, Limits, Size
from lmcjax.experiments.claims import _page as claims


def estimate(low: float, high: float) -> Callable[[xr.Dataset], Estimate]:
    return lambda results: Estimate((low + high) / 2, low, high, results.sizes["draw"])


CLAIMS = (
    Claim(
        "Inside | the range.",
        "a paper",
        "x, in m",
        Limits(0.0, 1.0),
        estimate(0.2, 0.4),
        why="By definition.",
    ),
    Claim("Elsewhere.", "a paper", "y", Limits(-np.inf, 0.0), estimate(0.1, 0.3)),
    Claim("Across.", "ours", "z", Limits(0.25, np.inf), estimate(0.2, 0.5)),
    Claim("Nothing.", "ours", "z", Limits(0.0, 1.0), estimate(np.nan, np.nan)),
)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Path]]:
    """Two experiments, `one` and `two`; every run of one is noted."""
    noted: list[tuple[str, str, Path]] = []

    def experiment(name: str) -> Experiment:
        def measure(grid: Size, folder: Path, tell: Callable[[str], None]) -> xr.Dataset:
            noted.append((name, grid, folder))
            return xr.Dataset({"x": ("draw", np.arange(4.0))})

        return Experiment(
            name=name,
            title=f"Title of {name}",
            about=f"About {name}.",
            sizes={"tiny": "tiny", "small": "small", "full": "full"},
            measure=measure,
            claims=CLAIMS,
            draw=lambda results: Figure((1, 1)),
        )

    monkeypatch.setattr(claims, "EXPERIMENTS", (experiment("one"), experiment("two")))
    return noted


def test_what_is_there_is_not_run_again(runs, tmp_path):
    lines: list[str] = []
    claims.run_experiments("tiny", tmp_path, ["one"], tell=lines.append)
    claims.run_experiments("tiny", tmp_path, tell=lines.append)
    assert runs == [(name, "tiny", tmp_path / "runs" / f"{name}-tiny") for name in ("one", "two")]
    assert lines == [
        "one: Title of one",
        f"one: there already, {tmp_path / 'one-tiny.nc'}",
        "two: Title of two",
    ]
    claims.run_experiments("small", tmp_path, ["one"])
    assert runs[2:] == [("one", "small", tmp_path / "runs" / "one-small")]
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(ValueError, match="no experiment 'three'; there are one, two"):
        claims.run_experiments("tiny", tmp_path, ["one", "three"])


def cells(page: str, statement: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(f"| {statement}"))
    return [cell.strip() for cell in line.strip("|").replace(r"\|", "/").split("|")]


def test_the_page(runs, tmp_path):
    """Rows, verdicts, the largest size, and experiments that were not run."""
    claims.run_experiments("tiny", tmp_path / "claims", ["one"])
    written = claims.write_page(tmp_path / "claims.md", tmp_path / "claims")
    assert written == [
        tmp_path / "claims.md",
        tmp_path / "claims" / "one.png",
        tmp_path / "claims" / "one.pdf",
    ]
    assert all(path.stat().st_size for path in written)
    page = written[0].read_text("utf-8")
    expected = [
        "Inside / the range.",
        "a paper",
        "x, in m",
        "0 to 1",
        "0.3 [0.2, 0.4]",
        "4",
        "tiny",
        "**reproduced**",
    ]
    assert cells(page, "Inside") == expected
    assert cells(page, "Elsewhere")[3:] == [
        "at most 0",
        "0.2 [0.1, 0.3]",
        "4",
        "tiny",
        "**contradicted**",
    ]
    assert cells(page, "Across")[3:] == [
        "at least 0.25",
        "0.35 [0.2, 0.5]",
        "4",
        "tiny",
        "**not reproduced**",
    ]
    assert cells(page, "Nothing")[4:] == ["nan [nan, nan]", "4", "tiny", "**not reproduced**"]
    assert "- Inside | the range. By definition." in page
    assert "![Title of one](claims/one.png)" in page
    assert "## Title of two\n\nAbout two.\n\nNot run yet." in page

    claims.run_experiments("small", tmp_path / "claims", ["one"])
    claims.write_page(tmp_path / "claims.md", tmp_path / "claims")
    assert cells((tmp_path / "claims.md").read_text("utf-8"), "Across")[6] == "small"


def test_a_claim_that_cannot_fail_is_refused(runs, tmp_path, monkeypatch):
    always = CLAIMS[0]._replace(limits=Limits(-np.inf, np.inf))
    experiment = dataclasses.replace(claims.EXPERIMENTS[0], claims=(always,))
    monkeypatch.setattr(claims, "EXPERIMENTS", (experiment,))
    claims.run_experiments("tiny", tmp_path)
    with pytest.raises(ValueError, match="holds whatever is measured"):
        claims.write_page(tmp_path / "claims.md", tmp_path)


def test_every_claim_of_ours_can_fail_and_is_told_apart():
    """No two rows of the page say and measure the same, and names of files differ."""
    names = [experiment.name for experiment in claims.EXPERIMENTS]
    assert len(set(names)) == len(names) > 0
    every = [claim for experiment in claims.EXPERIMENTS for claim in experiment.claims]
    assert all(claim.limits.low < claim.limits.high for claim in every)
    assert all(np.isfinite(claim.limits).any() for claim in every)
    assert len({(claim.statement, claim.quantity, claim.source) for claim in every}) == len(every)
    assert all(claim.statement.endswith(".") for claim in every)
    assert all(claim.why.endswith(".") for claim in every if claim.why)
