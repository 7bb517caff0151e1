"""The mean-field network against its formula; claims on planted power laws; the whole at its tiny
size.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from lmcjax.experiments.claims._claim import verdict
from lmcjax.experiments.claims._runs import linear_error
from lmcjax.experiments.claims.mean_field import mean_field
from lmcjax.experiments.claims.two_layer import EXPERIMENT, _dropout_error
from lmcjax.symmetry import discover
from lmcjax.training import TrainConfig, init_state, train_steps

pytestmark = pytest.mark.usefixtures("quick_compilation")


def network(width: int):
    return mean_field(width=width, num_hidden_layers=1, input_shape=(2, 2, 1), num_classes=3)


def test_the_mean_field_network_is_an_average_of_neurons(rng):
    net, x = network(6), rng.uniform(size=(5, 2, 2, 1)).astype(np.float32)
    stored = net.init(jax.random.key(0))
    w, b, a = (
        np.asarray(leaf) * 6**0.5
        for leaf in (*stored["Dense_0"].values(), *stored["Dense_1"].values())
    )
    w, b = (w, b) if w.ndim == 2 else (b, w)
    expected = np.mean(
        [np.tanh(x.reshape(5, 4) @ w[:, i] + b[i])[:, None] * a[i] for i in range(6)], axis=0
    )
    np.testing.assert_allclose(net.apply(stored, x), expected, atol=1e-6)
    assert discover(net.apply, stored, x).groups == ("Dense_0",)
    wider = network(9).init(jax.random.key(0))
    np.testing.assert_allclose(wider["Dense_1"]["kernel"][:6] * 3, a, rtol=1e-6)
    with pytest.raises(ValueError, match="has 1 hidden layer, not 2"):
        mean_field(width=6, num_hidden_layers=2, input_shape=(4,), num_classes=3)


def test_neurons_move_by_the_rate_whatever_the_width(rng):
    """Twice the neurons, each twice there: the same function, and the same step of every neuron."""
    x, y = rng.uniform(size=(8, 4)).astype(np.float32), np.arange(8, dtype=np.int32) % 3
    narrow = network(3).init(jax.random.key(1))
    double = {
        "Dense_0": {
            "kernel": jnp.tile(narrow["Dense_0"]["kernel"], 2),
            "bias": jnp.tile(narrow["Dense_0"]["bias"], 2),
        },
        "Dense_1": {"kernel": jnp.tile(narrow["Dense_1"]["kernel"], (2, 1))},
    }
    double = jax.tree.map(lambda leaf: leaf / 2**0.5, double)

    def after(net, params):
        config = TrainConfig(
            0.5, net, num_steps=5, batch_size=8, optimizer="sgd_plain", warmup_steps=0
        )
        state, _ = train_steps(init_state(config, jax.random.key(0), params), (x, y), 5)
        return state.params

    moved, moved_double = after(network(3), narrow), after(network(6), double)
    np.testing.assert_allclose(
        moved_double["Dense_0"]["kernel"][:, :3] * 2**0.5, moved["Dense_0"]["kernel"], rtol=1e-4
    )
    assert np.abs(moved["Dense_0"]["kernel"] - narrow["Dense_0"]["kernel"]).max() > 1e-3


def test_errors_of_a_path_and_of_dropout_in_closed_form():
    """f = a b x: the path is a parabola, t (1 - t) (a - a')(b - b') x off its chord."""

    def apply(params, x):
        return x @ params["Dense_0"] @ params["Dense_1"]["kernel"]

    x = jnp.array([[1.0], [-3.0]])
    a = {"Dense_0": jnp.full((1, 1), 2.0), "Dense_1": {"kernel": jnp.full((1, 1), 1.0)}}
    b = {"Dense_0": jnp.full((1, 1), 4.0), "Dense_1": {"kernel": jnp.full((1, 1), 5.0)}}
    found = jax.jit(lambda: linear_error(apply, a, b, x))()
    np.testing.assert_allclose(found["squared_error"], (2 * 4 / 4) ** 2 * 5, rtol=1e-5)
    np.testing.assert_allclose(found["largest_squared_error"], (2 * 4 / 4) ** 2 * 9, rtol=1e-5)
    np.testing.assert_allclose(found["squared_output"], (2**2 + 20**2) / 2 * 5, rtol=1e-5)
    # of two equal neurons one is dropped and the other doubled: nothing changes
    pair = {"Dense_0": jnp.ones((1, 2)), "Dense_1": {"kernel": jnp.array([[3.0], [3.0]])}}
    drop = jax.jit(lambda p: _dropout_error(apply, p, x))
    np.testing.assert_allclose(drop(pair), 0, atol=1e-10)
    pair["Dense_1"]["kernel"] = jnp.array([[3.0], [0.0]])
    np.testing.assert_allclose(drop(pair), 9 * 5, rtol=1e-5)


def planted(power: float, noise: float = 0.02) -> xr.Dataset:
    """Errors like width^power in both kinds, distances like width^-0.02, dropout like the error."""
    rng, widths, kinds = (
        np.random.default_rng(0),
        2.0 ** np.arange(3, 13),
        ["mean field", "ReLU MLP"],
    )

    def like(exponent, scale=1.0):
        shape = (2, len(widths), 4)
        return (
            ("kind", "width", "pair"),
            scale * widths[:, None] ** exponent * np.exp(noise * rng.normal(size=shape)),
        )

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
    """Of the mean-field network, by the beginning of the statement."""
    claims = [claim for claim in EXPERIMENT.claims if claim.quantity.startswith("mean field")]
    return {claim.statement: verdict(claim.measure(results), claim.holds) for claim in claims}


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
    assert found[
        "The wider two-layer networks are, the smaller the error of their linear connection after matching."
    ] == ("contradicted")
    assert (
        found[
            "Two wide two-layer networks have no barrier of the loss between them after matching."
        ]
        == "contradicted"
    )


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
    assert all(claim.measure(stored).samples == 2 for claim in EXPERIMENT.claims)
