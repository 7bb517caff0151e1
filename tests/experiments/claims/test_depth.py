"""Needed widths planted by depth give back their law; what is beyond the grid is said so."""

import numpy as np
import pytest
import xarray as xr

from lmcjax.experiments.claims import verdict
from lmcjax.experiments.claims.depth import EXPERIMENT, THRESHOLD

pytestmark = pytest.mark.usefixtures("quick_compilation")

WIDTHS = 2.0 ** np.arange(3, 15)
DEPTHS = np.arange(1, 6)


def planted(needed: np.ndarray, widths: np.ndarray = WIDTHS) -> xr.Dataset:
    """Barriers that fall through the threshold at given widths, linear in the log of the width."""
    rng = np.random.default_rng(0)
    octaves = (
        np.log2(needed)[None, :, None]
        + 0.03 * rng.normal(size=(6, len(needed), 1))
        - np.log2(widths)
    )
    barrier = np.broadcast_to(THRESHOLD + 0.01 * octaves, (3, *octaves.shape))
    coords = {
        "matching": ["weights", "covariance", "activations"],
        "depth": DEPTHS[: len(needed)],
        "width": widths,
    }
    bound = np.where(np.arange(len(needed)) == 0, 64.0, np.inf)
    return xr.Dataset(
        {
            "barrier": (("matching", "pair", "depth", "width"), barrier),
            "log10_width_bound": ("depth", bound),
        },
        coords=coords,
        attrs={"dataset": "planted", "num_inputs": 64},
    )


def verdicts(results: xr.Dataset, *statements: str) -> dict[str, str]:
    claims = [
        c for c in EXPERIMENT.claims if "covariance" in c.quantity and c.statement in statements
    ]
    return {claim.statement: verdict(claim.estimate(results), claim.limits) for claim in claims}


GROWS = "The deeper the networks, the wider they have to be."
EXPONENTIAL = "The width that is needed grows exponentially with the depth, not like a power of it."
WIDE = "Networks of any depth are connected if they are wide enough."
FACTOR = "k hidden layers need width d^k: every further layer makes it d times as wide."
AT_MOST = "Width O(d^k) is enough: a further layer makes it at most d times as wide."
TOWER = (
    "What the theorem's tower says is enough is also needed: each layer is exponential in the one "
    "before."
)


@pytest.mark.parametrize(
    ("needed", "held"),
    [
        (
            10 * 4.0 ** (DEPTHS - 1),
            {GROWS: True, EXPONENTIAL: True, FACTOR: False, AT_MOST: True, TOWER: False},
        ),
        (10 * DEPTHS**3.0, {EXPONENTIAL: False}),
        (5000 / DEPTHS, {GROWS: False}),
        (2 ** (3.2 * 2.1 ** np.arange(2.0)), {GROWS: True, TOWER: True}),
    ],
)
def test_claims_tell_laws_of_growth_apart(needed, held):
    found = verdicts(planted(needed), WIDE, *held)
    assert found[WIDE] == "reproduced"
    for statement, expected in held.items():
        assert found[statement] == ("reproduced" if expected else "contradicted"), statement


def test_a_factor_d_per_layer_is_recognised():
    found = verdicts(planted(2 ** np.array([3.5, 9.5, 15.5]), 2.0 ** np.arange(3, 17)), FACTOR)
    assert found[FACTOR] == "reproduced"


def test_depths_beyond_the_grid_are_left_out_or_count_as_the_widest():
    results = planted(np.array([16.0, 4096.0, 1e6, 1e7]))
    claims = {
        claim.statement: claim for claim in EXPERIMENT.claims if "covariance" in claim.quantity
    }
    assert np.isnan(claims[EXPONENTIAL].estimate(results).value)
    grows = claims[GROWS].estimate(results)
    assert grows.value == pytest.approx(np.polyfit([1, 2, 3, 4], [4, 12, 14, 14], 1)[0], abs=0.05)
    assert verdict(claims[WIDE].estimate(results), claims[WIDE].limits) == "contradicted"
    assert len(EXPERIMENT.draw(results).axes) == 3


@pytest.mark.slow
def test_the_tiny_size_runs(tmp_path):
    results = EXPERIMENT.run("tiny", tmp_path, lambda line: None)
    results.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    stored = xr.load_dataset(tmp_path / "results.nc", engine="h5netcdf")
    assert stored["barrier"].sizes == {"width": 2, "depth": 2, "pair": 2, "matching": 4}
    assert np.isfinite(stored["barrier"]).all()
    assert all(claim.estimate(stored).samples == 2 for claim in EXPERIMENT.claims)
