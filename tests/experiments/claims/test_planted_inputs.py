"""The analysis on deviations with planted gains; a pair against NumPy and SciPy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from lmcjax.experiments.claims import Verdict, verdict
from lmcjax.experiments.claims.planted_inputs import EXPERIMENT, compare_matchings, draw_normals

ALPHAS, BETAS, WIDTHS = np.array([0.0, 1, 2, 3]), np.array([0.0, 1, 2]), np.array([32, 128, 512])


def planted(
    *, gain: float, with_width: float = 0.0, midpoint: float = 0.7, activations: float = 1.5
) -> xr.Dataset:
    """Deviations with covariance / naive = exp(-gain alpha - with_width log m + 0.1 beta).

    Dimensions fall as the exponents rise.
    """
    rng = np.random.default_rng(0)
    width, alpha, beta = np.ix_(WIDTHS, ALPHAS, BETAS)
    log_ratio = -gain * alpha - with_width * np.log(width) + 0.1 * beta
    naive = np.exp(rng.normal(size=(*log_ratio.shape, 12)))
    noise = 1 + 0.01 * rng.normal(size=naive.shape)
    covariance = naive * np.exp(log_ratio)[..., None] * noise
    layer = np.stack([naive, covariance, activations * covariance * noise], -1)
    halfway = np.stack([naive, midpoint * naive * noise, naive], -1)
    dimension = np.ones_like(layer)
    dimension[..., 0] = 30 * np.exp(-beta)[..., None]
    dimension[..., 1] = 30 * np.exp(-alpha - beta)[..., None]
    over = ("width", "alpha", "beta", "pair", "matching")
    return xr.Dataset(
        {"layer": (over, layer), "midpoint": (over, halfway), "dimension": (over, dimension)},
        coords={
            "width": WIDTHS,
            "alpha": ALPHAS,
            "beta": BETAS,
            "matching": ["weights", "covariance", "activations"],
        },
    )


def verdicts(results: xr.Dataset, *parts: str) -> list[Verdict]:
    chosen = [c for c in EXPERIMENT.claims if all(part in c.statement for part in parts)]
    assert chosen
    return [verdict(c.estimate(results), c.limits) for c in chosen]


def test_a_gain_is_found_and_a_loss_contradicts():
    won = planted(gain=0.3)
    for part in (
        "layers agree better",
        "substantially",
        "half-way",
        "beats activation",
        "gains nothing",
        "concentrated",
    ):
        assert verdicts(won, part) == ["reproduced"], part
    lost = planted(gain=-0.3, midpoint=1.3, activations=0.7)
    for part in (
        "layers agree better",
        "substantially",
        "half-way",
        "beats activation",
        "concentrated",
    ):
        assert verdicts(lost, part) == ["contradicted"], part
    assert verdicts(planted(gain=0.05), "substantially") == [
        "contradicted"
    ]  # 10 % less is no fifth
    assert verdicts(planted(gain=0.3, with_width=0.1), "gains nothing") == ["contradicted"]


def test_slopes_in_width_and_dimension():
    results = planted(gain=0.3, with_width=0.2)
    slopes = {c.statement: c.estimate(results) for c in EXPERIMENT.claims}
    width, weights, own = (
        next(found for statement, found in slopes.items() if part in statement)
        for part in ("in wider layers", "weights' approximate dimension", "in its own norm")
    )
    assert width.value == pytest.approx(-0.2, abs=0.02)
    assert weights.value == pytest.approx(-0.1, abs=0.02)
    assert own.value == pytest.approx(0.3, abs=0.02)
    assert verdicts(results, "in wider layers") == ["reproduced"]
    assert verdicts(planted(gain=0.3, with_width=-0.2), "in wider layers") == ["contradicted"]
    assert verdicts(results, "weights' approximate dimension") == ["reproduced"]
    assert verdicts(results, "in its own norm") == ["contradicted"]


def test_the_picture():
    assert isinstance(EXPERIMENT.draw(planted(gain=0.3)), Figure)


@pytest.mark.slow
def test_a_pair():
    """In the limit of one dominant input, covariance matching sorts by it.

    Its cost in Sigma is never the larger.
    """
    compare = jax.jit(compare_matchings)
    normals = jax.tree.map(lambda leaf: leaf[0], draw_normals(16, 1))
    for alpha in (0.0, 3.0, 12.0):
        naive, covariance, _ = compare(normals, jnp.float32(alpha), jnp.float32(0.0)).sigma_cost
        assert covariance <= naive * (1.02 if alpha == 0 else 1)
    a, b = normals.hidden[:, 0] / np.sqrt(32)  # weights of the dominant input
    sorted_cost = 32 * np.mean((np.sort(a) - np.sort(b)) ** 2)
    assert covariance == pytest.approx(sorted_cost, rel=0.05)


@pytest.mark.slow
def test_end_to_end(tmp_path: Path):
    """The tiny run, through a netCDF file and back.

    Covariance matching has the least cost in the inputs' norm.
    """
    EXPERIMENT.run("tiny", tmp_path, lambda line: None).to_netcdf(
        tmp_path / "inputs.nc", engine="h5netcdf"
    )
    results = xr.load_dataset(tmp_path / "inputs.nc", engine="h5netcdf")
    cost = results["sigma_cost"].sel(alpha=2.0).mean("pair")
    assert (cost.sel(matching="covariance") < cost.sel(matching="weights")).all()
    dimension = results["dimension"].sel(matching="covariance").mean("pair")
    assert (dimension.sel(alpha=2.0) < dimension.sel(alpha=0.0)).all()
    for claim in EXPERIMENT.claims:
        assert np.isfinite(claim.estimate(results)).all(), claim.statement
