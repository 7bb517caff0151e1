"""Claims on planted power laws; dropout in closed form; the whole at its tiny size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from lmcjax.experiments.claims import verdict
from lmcjax.experiments.claims.two_layer import EXPERIMENT, dropout_error

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_the_error_of_dropout_in_closed_form():
    def apply(params, x):
        return x @ params["Dense_0"] @ params["Dense_1"]["kernel"]

    x = jnp.array([[1.0], [-3.0]])
    drop = jax.jit(lambda params: dropout_error(apply, params, x))
    # Of two equal neurons one is dropped and the other doubled: nothing changes
    pair = {"Dense_0": jnp.ones((1, 2)), "Dense_1": {"kernel": jnp.array([[3.0], [3.0]])}}
    np.testing.assert_allclose(drop(pair), 0, atol=1e-10)
    pair["Dense_1"]["kernel"] = jnp.array([[3.0], [0.0]])
    np.testing.assert_allclose(drop(pair), 9 * 5, rtol=1e-5)


def planted(power: float, noise: float = 0.02) -> xr.Dataset:
    """Errors like width^power in both kinds, distances like width^-0.02, dropout like the error."""
    rng = np.random.default_rng(0)
    widths = 2.0 ** np.arange(3, 13)
    kinds = ["mean field", "ReLU MLP"]

    def like(exponent, scale=1.0):
        factors = np.exp(noise * rng.normal(size=(2, len(widths), 4)))
        return ("kind", "width", "pair"), scale * widths[:, None] ** exponent * factors

    names = (
        "squared_error",
        "largest_squared_error",
        "unmatched_squared_error",
        "dropout_error",
        "barrier",
    )
    variables = {name: like(power) for name in names} | {
        "weight_distance": like(-0.02),
        "squared_output": like(0, 50.0),
    }
    return xr.Dataset(
        variables,
        coords={"kind": kinds, "width": widths},
        attrs={"dataset": "planted", "num_inputs": 64},
    )


def verdicts(results: xr.Dataset) -> dict[str, str]:
    """Verdicts on the claims about the mean-field network, by their statements."""
    claims = [claim for claim in EXPERIMENT.claims if claim.quantity.startswith("mean field")]
    return {claim.statement: verdict(claim.estimate(results), claim.limits) for claim in claims}


@pytest.mark.parametrize(
    ("power", "backed"), [(-1.0, "like that of an average"), (-2.0, "inversely proportional")]
)
def test_claims_tell_power_laws_apart(power, backed):
    found = verdicts(planted(power))
    for text, held in found.items():
        if "like that of an average" in text or "inversely proportional to the width" in text:
            assert held == ("reproduced" if backed in text else "contradicted"), text
        elif "no faster" in text or "square root of the width" in text:
            assert held == "contradicted", text
        else:
            assert held == "reproduced", text


def test_an_error_that_stays_contradicts_the_theorem():
    found = verdicts(planted(0.1))
    smaller_error = (
        "The wider two-layer networks are, the smaller the error of their linear connection after "
        "matching."
    )
    no_barrier = (
        "Two wide two-layer networks have no barrier of the loss between them after matching."
    )
    assert found[smaller_error] == "contradicted"
    assert found[no_barrier] == "contradicted"


def test_the_picture_shows_both_kinds():
    figure = EXPERIMENT.draw(planted(-1.0))
    assert [axes.get_title() for axes in figure.axes] == ["mean field", "ReLU MLP"]


@pytest.mark.slow
def test_the_tiny_size_runs(tmp_path):
    results = EXPERIMENT.run("tiny", tmp_path, lambda line: None)
    results.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    stored = xr.load_dataset(tmp_path / "results.nc", engine="h5netcdf")
    assert dict(stored.sizes) == {"kind": 2, "width": 2, "pair": 2}
    assert all(np.isfinite(stored[name]).all() for name in stored)
    assert (stored["squared_error"].mean() < stored["unmatched_squared_error"].mean()).item()
    assert (stored["squared_error"] <= stored["largest_squared_error"]).all()
    assert all(claim.estimate(stored).samples == 2 for claim in EXPERIMENT.claims)
