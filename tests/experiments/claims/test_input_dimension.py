"""Principal components against scikit-learn; claims on planted laws of width and dimension."""

import numpy as np
import pytest
import xarray as xr
from sklearn.decomposition import PCA

import lmcjax
from lmcjax.experiments.claims import verdict
from lmcjax.experiments.claims.input_dimension import (
    EXPERIMENT,
    joint_exponents,
    leading_components,
)

WIDTHS, DIMENSIONS = np.array([16, 32, 64, 128, 256]), np.array([2, 4, 8, 16, 32, 64])


def test_components_are_scikit_learns():
    digits = lmcjax.load_dataset("digits")
    ours = leading_components(digits, 5)
    reference = PCA(5).fit(digits.train.inputs.reshape(-1, 64))
    scores = reference.transform(digits.test.inputs.reshape(-1, 64))
    kept = ours.test.inputs.reshape(-1, 64)[:, :5]
    ratio = kept / scores
    np.testing.assert_allclose(np.abs(ratio), np.abs(ratio[0, 0]), rtol=1e-3)
    assert not ours.test.inputs.reshape(-1, 64)[:, 5:].any()
    np.testing.assert_allclose((ours.train.inputs**2).sum((1, 2, 3)).mean(), 64, rtol=1e-5)
    assert ours.input_shape == digits.input_shape
    with pytest.raises(ValueError, match="digits has 64 principal components, not 65"):
        leading_components(digits, 65)


def planted(rate, power: float) -> xr.Dataset:
    """Errors like d^power width^-rate(d); with k layers d^(k power)."""
    rng = np.random.default_rng(0)
    d, k, n = DIMENSIONS[:, None, None, None], np.arange(1, 4)[:, None, None], WIDTHS[:, None]
    errors = 0.1 * d ** (k * power) * n ** -rate(d) * np.exp(0.01 * rng.normal(size=(6, 3, 5, 4)))
    coords = {"dimension": DIMENSIONS, "depth": [1, 2, 3], "width": WIDTHS}
    return xr.Dataset(
        {"error": (("dimension", "depth", "width", "pair"), errors)}, coords, {"dataset": "planted"}
    )


def verdicts(results: xr.Dataset) -> list[str]:
    return [verdict(claim.estimate(results), claim.limits) for claim in EXPERIMENT.claims]


def test_the_joint_fit_finds_both_powers():
    results = planted(lambda d: 0.7, 0.3)
    errors = results["error"].sel(depth=2).transpose("pair", "dimension", "width").values
    np.testing.assert_allclose(joint_exponents(results, errors), (0.6, 0.7), atol=0.02)


def test_claims_back_the_summary_where_it_is_right():
    """width = (d^k / eps), and its sqrt(d) contradicted; the rate is the same in all dimensions."""
    found = verdicts(planted(lambda d: 1.0, 1.0))
    assert found[:5] == ["reproduced", "contradicted", *["reproduced"] * 3]
    assert "reproduced" not in found[6:7]


def test_the_width_that_is_needed_follows_from_both_powers():
    """error = d^0.3 width^-0.6: width = d^0.5 eps^-1.67."""
    estimates = [claim.estimate(planted(lambda d: 0.6, 0.3)) for claim in EXPERIMENT.claims[:5]]
    np.testing.assert_allclose(
        [found.value for found in estimates], [-1 / 0.6, 0.5, 0.5, 1, 1.5], atol=0.05
    )


def test_claims_back_the_paper_where_it_is_right():
    """width = eps^-d."""
    found = verdicts(planted(lambda d: 1 / d, 0.0))
    assert found[0] == "contradicted"
    assert found[5:] == ["reproduced"] * 4


def test_the_picture_has_its_panels():
    figure = EXPERIMENT.draw(planted(lambda d: 1 / d, 0.1))
    assert [axes.get_title() for axes in figure.axes] == [
        "1 hidden layer",
        "Width 256",
        "How fast errors fall",
    ]


@pytest.mark.slow
def test_the_tiny_size_runs(tmp_path):
    results = EXPERIMENT.run("tiny", tmp_path, lambda line: None)
    results.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    stored = xr.load_dataset(tmp_path / "results.nc", engine="h5netcdf")
    assert stored["error"].sizes == {"dimension": 2, "depth": 1, "width": 2, "pair": 2}
    assert (stored["error"] > 0).all()
    samples = {claim.estimate(stored).samples for claim in EXPERIMENT.claims}
    assert samples == {0, 2}  # deeper networks are not run
