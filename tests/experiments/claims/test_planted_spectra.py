"""The analysis on errors with a planted crossover."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from lmcjax.experiments.claims import Verdict, verdict
from lmcjax.experiments.claims.planted_spectra import EXPERIMENT

pytestmark = pytest.mark.usefixtures("quick_compilation")

K, DIMS = [1, 2, 3, 5], [8, 8, 32, 32]


def planted(*, rates: tuple[float, ...] | None = None, after: float = -0.25) -> xr.Dataset:
    """A part that falls like m^-rate beside a floor of eta^2.

    At the largest eta the whole falls like m^after.
    """
    rng = np.random.default_rng(0)
    n = np.geomspace(16, 512, 6).astype(int)
    rates = rates or tuple(2 / k for k in K)
    met = np.geomspace(400, 30, 4)  # widths of the crossovers
    eta = np.stack([[1e-4, *met ** (-rate / 2), 0.9] for rate in rates])
    head = np.stack([np.broadcast_to(n**-rate, (6, 10, 6)) for rate in rates]) * 1.0
    tail = np.broadcast_to(eta[:, :, None, None] ** 2, head.shape) * 1.0
    head[:, -1] = 0.1 * n**after
    tail[:, -1] = 0.9 * n**after
    head *= 1 + 0.01 * rng.normal(size=head.shape)
    over = ("k", "level", "draw", "n")
    return xr.Dataset(
        {
            "head": (over, head),
            "tail": (over, tail),
            "eta": (("k", "level"), eta),
            "dim": ("k", DIMS),
        },
        coords={"k": K, "n": n},
    )


def verdicts(results: xr.Dataset, *parts: str) -> list[Verdict]:
    chosen = [c for c in EXPERIMENT.claims if all(part in c.statement for part in parts)]
    assert chosen
    return [verdict(c.estimate(results), c.limits) for c in chosen]


def test_the_papers_exponents_are_found():
    results = planted()
    assert verdicts(results, "k = 1 ", "do not count") == [
        "reproduced",
        "contradicted",
    ]  # -2, and not -1
    assert verdicts(results, "k = 1.", "goes like") == [
        "reproduced",
        "contradicted",
    ]  # eta^-1, and not eta^-2
    for k in (2, 3, 5):
        assert verdicts(results, f"k = {k} ", "do not count") == ["reproduced"]
        assert verdicts(results, f"k = {k}.", "goes like") == ["reproduced"]
    assert set(verdicts(results, "rate of all d = 8")) == {"reproduced"}


def test_other_exponents_contradict():
    results = planted(rates=(1.0, 0.5, 0.4, 0.25), after=-0.5)
    assert verdicts(results, "k = 1 ", "do not count") == ["contradicted", "reproduced"]
    assert verdicts(results, "k = 1.", "goes like") == ["contradicted", "reproduced"]
    for k in (2, 3, 5):
        assert verdicts(results, f"k = {k} ", "do not count") == ["contradicted"]
        assert verdicts(results, f"k = {k}.", "goes like") == ["contradicted"]
    assert set(verdicts(results, "rate of all d = 8")) == {"contradicted"}


def test_where_curves_do_not_cross_nothing_is_measured():
    results = planted()
    results["tail"][:, 1] = 1e-9
    assert set(verdicts(results, "goes like")) == {"not reproduced"}
    assert isinstance(EXPERIMENT.draw(results), Figure)


@pytest.mark.slow
def test_end_to_end(tmp_path: Path):
    """The tiny run, through a netCDF file and back.

    The tail is what two independent normals differ by, at most.
    """
    EXPERIMENT.run("tiny", tmp_path, lambda line: None).to_netcdf(
        tmp_path / "planted.nc", engine="h5netcdf"
    )
    results = xr.load_dataset(tmp_path / "planted.nc", engine="h5netcdf")
    floor = 2 * results["eta"] ** 2 * (results["dim"] - results["k"])
    mean = results.mean("draw")
    assert (mean["tail"] < 1.2 * floor).all()
    assert (mean["tail"].isel(level=0) > 0.7 * floor.isel(level=0)).all()
    assert (mean["head"] < 2 * results["k"]).all()
    for claim in EXPERIMENT.claims:
        assert claim.estimate(results).samples == 4
