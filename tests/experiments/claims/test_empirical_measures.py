"""The analysis on power laws that were planted; what the draws show is in docs/claims.md."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from lmcjax.experiments.claims import Verdict, verdict
from lmcjax.experiments.claims.empirical_measures import EXPERIMENT
from lmcjax.theory import empirical_wasserstein_rate

SIZES = [32, 64, 128, 256, 512]


def planted(
    gaussian: tuple[float, ...], uniform: tuple[float, ...], noise: float = 0.02
) -> xr.Dataset:
    """Costs that follow the exponents given, d = 1, 2, 3, 5, 8, from n = 64 on.

    At n = 32, which is not fitted, they are far off.
    """
    rng = np.random.default_rng(0)
    n = np.array(SIZES, float)
    costs = n ** np.array([gaussian, uniform])[:, :, None, None] * (
        1 + noise * rng.normal(size=(2, 5, 12, len(n)))
    )
    costs[..., 0] *= 10
    coords = {"law": ["gaussian", "uniform"], "dim": [1, 2, 3, 5, 8], "n": SIZES}
    return xr.Dataset(
        {"cost": (("law", "dim", "draw", "n"), costs.astype(np.float32))}, coords=coords
    )


def verdicts(results: xr.Dataset) -> dict[str, Verdict]:
    return {c.statement: verdict(c.estimate(results), c.limits) for c in EXPERIMENT.claims}


def among(found: dict[str, Verdict], *parts: str) -> set[Verdict]:
    chosen = {v for statement, v in found.items() if all(part in statement for part in parts)}
    assert chosen
    return chosen


SMOOTH = (-1.0, -1.0, -2 / 3, -0.4, -0.25)


def test_planted_exponents_decide_between_the_readings():
    found = verdicts(planted(SMOOTH, SMOOTH))
    assert among(found, "smooth densities") == among(found, "sub-Gaussian") == {"reproduced"}
    assert (
        among(found, "as if it were attained")
        == among(found, "square root of the width")
        == {"contradicted"}
    )
    assert among(found, "at least as fast") == among(found, "improves") == {"reproduced"}

    worst = (-0.5, -0.5, -0.5, -0.4, -0.25)
    found = verdicts(planted(worst, SMOOTH))
    assert among(found, "Gaussian law", "as if it were attained") == {"reproduced"}
    for dim in (1, 2, 3):
        assert among(found, "Gaussian law", f"d = {dim}", "smooth densities") == {"contradicted"}
    assert among(found, "at least as fast") == {"not reproduced"}

    found = verdicts(planted((-1.0,) * 5, (-0.3,) * 5))
    assert among(found, "square root of the width") == {"reproduced"}
    assert among(found, "d = 5", "of Fournier and Guillin and") == {
        "contradicted",
        "not reproduced",
    }
    assert among(found, "at least as fast") == among(found, "sub-Gaussian") == {"contradicted"}
    assert among(found, "A lower dimension improves") == {"not reproduced"}
    assert among(found, "as much as -2/d") == {"contradicted"}


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_smooth_densities_have_the_rate_of_theory(dim):
    claim = next(
        c
        for c in EXPERIMENT.claims
        if f"Gaussian law in d = {dim}" in c.statement and "smooth densities" in c.statement
    )
    expected = empirical_wasserstein_rate(1.0, dim).smooth_exponent
    assert np.mean(claim.limits) == pytest.approx(float(expected))


def test_exponents_are_those_of_a_line_through_the_means():
    results = planted((-0.9, -0.8, -0.7, -0.4, -0.2), SMOOTH, noise=0.0001)
    claim = next(c for c in EXPERIMENT.claims if "Gaussian law in d = 3" in c.statement)
    found = claim.estimate(results)
    assert found.value == pytest.approx(-0.7, abs=1e-4)
    assert found.low < found.value < found.high < found.low + 1e-3
    assert found.samples == 12


def test_the_picture_has_every_dimension():
    figure = EXPERIMENT.draw(planted(SMOOTH, SMOOTH))
    assert isinstance(figure, Figure)
    assert {text.get_text() for text in figure.axes[0].get_legend().get_texts()} >= {
        "d = 1",
        "d = 8",
    }


@pytest.mark.slow
def test_end_to_end(tmp_path: Path):
    """The tiny run, through a netCDF file and back.

    W_2^2 of few points is below the variance, and falls.
    """
    lines: list[str] = []
    EXPERIMENT.run("tiny", tmp_path, lines.append).to_netcdf(
        tmp_path / "rates.nc", engine="h5netcdf"
    )
    results = xr.load_dataset(tmp_path / "rates.nc", engine="h5netcdf")
    assert len(lines) == 10
    mean = results["cost"].mean("draw")
    assert (mean.sel(law="gaussian") < 2 * results["dim"]).all()
    assert (mean.isel(n=-1) < mean.isel(n=0)).all()
    for claim in EXPERIMENT.claims:
        assert np.isfinite(claim.estimate(results)).all(), claim.statement
