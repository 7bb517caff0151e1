"""The analysis on errors that were planted around the bounds."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from lmcjax.experiments.claims import Verdict, verdict
from lmcjax.experiments.claims.bound_tightness import EXPERIMENT

DIMS = [1, 2, 3, 5, 8, 16, 32, 64]


def planted(factor: float, *, steeper: float = 1.0) -> xr.Dataset:
    """A bound m^(-2/d), one half of it, and errors a factor above the first.

    The errors fall `steeper` times as fast as the bound.
    """
    rng = np.random.default_rng(0)
    n, dim = np.array([32, 64, 128, 256, 512], float), np.array(DIMS, float)
    bound = n ** (-2 / dim[:, None])
    costs = (
        factor * bound[:, None] ** steeper * (1 + 0.005 * rng.normal(size=(len(dim), 12, len(n))))
    )
    return xr.Dataset(
        {
            "cost": (("dim", "draw", "n"), costs.astype(np.float32)),
            "bound": (("kind", "dim", "n"), np.stack([bound / 2, bound]).astype(np.float32)),
        },
        coords={"dim": DIMS, "n": n.astype(int), "kind": ["density", "differences"]},
    )


def verdicts(results: xr.Dataset, *parts: str) -> list[Verdict]:
    chosen = [c for c in EXPERIMENT.claims if all(part in c.statement for part in parts)]
    assert chosen
    return [verdict(c.estimate(results), c.limits) for c in chosen]


def test_a_bound_above_the_mean_is_found():
    assert set(verdicts(planted(1.1), "never above")) == {"reproduced"}
    assert verdicts(planted(0.7), "never above") == ["reproduced", "contradicted"]
    results = planted(1.1)
    results["cost"].loc[{"dim": 5, "n": 128}] *= 0.5
    assert verdicts(results, "never above") == ["reproduced", "contradicted"]


def test_exponents_and_tightness():
    as_claimed = planted(1.5)
    assert (
        set(verdicts(as_claimed, "falls like"))
        == set(verdicts(as_claimed, "tight"))
        == {"reproduced"}
    )
    too_steep = planted(1.5, steeper=1.6)
    assert (
        set(verdicts(too_steep, "falls like"))
        == set(verdicts(too_steep, "tight"))
        == {"contradicted"}
    )
    claim = next(c for c in EXPERIMENT.claims if "In d = 5" in c.statement)
    assert claim.estimate(too_steep).value == pytest.approx(-1.6 * 2 / 5, abs=0.003)


def test_loose_is_a_factor_of_two():
    assert verdicts(planted(1.5), "loose") == ["reproduced", "contradicted"]  # 3 and 1.5 times
    claim = next(c for c in EXPERIMENT.claims if "density is loose" in c.statement)
    assert claim.estimate(planted(1.5)).value == pytest.approx(3, rel=0.01)


def test_the_picture_has_every_dimension():
    figure = EXPERIMENT.draw(planted(1.5))
    assert isinstance(figure, Figure)
    assert {text.get_text() for text in figure.axes[0].get_legend().get_texts()} >= {
        "d = 1",
        "d = 64",
    }


@pytest.mark.slow
def test_end_to_end(tmp_path: Path):
    """The tiny run, through a netCDF file and back; the plain bound in closed form."""
    EXPERIMENT.run("tiny", tmp_path, lambda line: None).to_netcdf(
        tmp_path / "bound.nc", engine="h5netcdf"
    )
    results = xr.load_dataset(tmp_path / "bound.nc", engine="h5netcdf")
    of_line = results["bound"].sel(kind="density", dim=1)  # 1/3 (2 m / sqrt(2 pi))^-2
    np.testing.assert_allclose(of_line, np.pi / (6 * results["n"].values ** 2.0), rtol=1e-5)
    assert (results["bound"].sel(kind="differences") > results["bound"].sel(kind="density")).all()
    for claim in EXPERIMENT.claims:
        assert np.isfinite(claim.estimate(results)).all(), claim.statement
