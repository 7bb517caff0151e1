"""A whole sweep at a tiny size: axes, numbers by hand, pairs, networks."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import xarray as xr

import lmcjax
from lmcjax.sweep import Cell, Sweep, SweepProgress, load_networks, run_sweep

pytestmark = pytest.mark.usefixtures("quick_compilation")

SWEEP = Sweep(
    seeds=(7, 1, 4, 2),
    widths=(12, 8),
    num_hidden_layers=(1, 2),
    learning_rates=(0.01, 0.1),
    matchings=("covariance",),
    epochs=2,
    batch_size=60,
    num_points=3,
    moment_samples=200,
    keep_permutations=True,
    keep_networks=True,
)


@pytest.fixture(scope="module")
def dataset() -> lmcjax.Dataset:
    return lmcjax.load_dataset("digits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def results(dataset, folder) -> xr.Dataset:
    reports: list[SweepProgress] = []
    results = run_sweep(SWEEP, dataset, folder, on_progress=reports.append)
    shares = [report.share for report in reports]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert (reports[0].networks_done, reports[-1].networks_done) == (0, SWEEP.num_networks)
    assert {report.stage for report in reports} == {"train", "compare"}
    assert np.isfinite(reports[-1].training_loss)
    return results


def test_axes_units_and_provenance(results):
    cell = {"width": 2, "num_hidden_layers": 2, "optimizer": 1, "learning_rate": 2}
    path = {"pair": 2, "split": 2, "matching": 2, "t": 3}
    assert dict(results["path_loss"].sizes) == {**cell, **path}
    assert dict(results["training_loss"].sizes) == {**cell, "seed": 4, "epoch": 2}
    layers = {"pair": 2, "similarity": 1, "layer": 2}
    assert dict(results["approximate_dimension"].sizes) == {**cell, **layers}
    assert results["barrier"].attrs["units"] == "nats"
    assert results["seed_of"].values.tolist() == [[7, 1], [4, 2]]
    assert results["num_neurons"].sel(width=12, num_hidden_layers=1).values.tolist() == [12, 0]
    assert json.loads(results.attrs["config"])["widths"] == [12, 8]
    assert json.loads(results.attrs["versions"])["jax"] == jax.__version__
    assert results.attrs["training_steps"] == 2 * (1442 // 60)


def test_layers_that_an_architecture_lacks_are_missing(results):
    shallow = results.sel(num_hidden_layers=1)
    assert shallow["approximate_dimension"].sel(layer="Dense_1").isnull().all()
    assert (shallow["permutation"].sel(layer="Dense_1") == -1).all()
    assert results["approximate_dimension"].sel(num_hidden_layers=2).notnull().all()
    narrow = results["permutation"].sel(width=8, num_hidden_layers=2)
    assert (np.sort(narrow.isel(neuron=slice(8)), axis=-1) == np.arange(8)).all()
    assert (narrow.isel(neuron=slice(8, None)) == -1).all()


def test_quantities_hang_together(results):
    losses = results["path_loss"]
    chord = losses.isel(t=0) + (losses.isel(t=-1) - losses.isel(t=0)) * results["t"]
    np.testing.assert_allclose((losses - chord).max("t"), results["barrier"], atol=1e-5)
    np.testing.assert_allclose(losses.sel(t=0.5), results["midpoint_loss"], atol=1e-6)
    for matching in results.matching.values:  # permuting changes no network
        ends = losses.sel(matching=matching).isel(t=[0, -1])
        np.testing.assert_allclose(ends, results["endpoint_loss"], rtol=1e-4)
    assert results["finite"].all()
    assert results["training_finite"].all()
    assert results["converged"].all()


@pytest.mark.parametrize(
    ("width", "depth", "rate", "pair"),
    [(8, 2, 0.1, 1), pytest.param(12, 1, 0.01, 0, marks=pytest.mark.slow)],
)
def test_one_pair_by_hand(results, dataset, width, depth, rate, pair):
    """The README's ten lines give the networks, the matching and the losses that are stored."""
    network = lmcjax.FlaxNetwork(lmcjax.MLP((width,) * depth, 10), dataset.input_shape)
    config = lmcjax.TrainConfig(rate, network, num_steps=2 * (1442 // 60), batch_size=60)
    seeds = SWEEP.seeds[2 * pair : 2 * pair + 2]
    train = jax.jit(lmcjax.train)
    a = train(config, jax.random.key(seeds[0]), dataset.train).params
    b = train(config, jax.random.key(seeds[1]), dataset.train).params
    spec = lmcjax.mlp_spec(depth)
    evenly_spaced = np.arange(200) * len(dataset.train.labels) // 200
    samples = dataset.train.inputs[evenly_spaced]
    moments = lmcjax.activation_moments(network.apply, spec, a, b, samples)
    matching = lmcjax.match_layerwise(spec, a, b, similarity=lmcjax.Covariance(moments))
    loss = lmcjax.batched_loss(network.apply, lmcjax.cross_entropy_and_accuracy, dataset.test)
    aligned = lmcjax.permute(spec, matching.permutations, b)
    barrier = lmcjax.linear_barrier(loss, a, aligned, num_points=3)
    cell = {"width": width, "num_hidden_layers": depth, "learning_rate": rate, "optimizer": "sgd"}
    stored = results.sel({**cell, "matching": "covariance", "split": "test"}).isel(pair=pair)
    np.testing.assert_allclose(barrier.losses, stored["path_loss"], rtol=1e-4)
    np.testing.assert_allclose(barrier.height, stored["barrier"], atol=1e-4)
    for layer in range(depth):
        kept = stored["permutation"].sel(layer=f"Dense_{layer}").values[:width]
        np.testing.assert_array_equal(matching.permutations[f"Dense_{layer}"], kept)


def test_kept_networks_are_those_that_were_measured(results, dataset, folder):
    network, params = load_networks(folder, width=8, num_hidden_layers=2, learning_rate=0.1)
    loss = lmcjax.batched_loss(network.apply, lmcjax.cross_entropy_and_accuracy, dataset.test)
    losses = jax.vmap(loss)(params).loss
    cell = {"width": 8, "num_hidden_layers": 2, "learning_rate": 0.1}
    stored = results["endpoint_loss"].sel({**cell, "split": "test"}).squeeze()
    np.testing.assert_allclose(losses, stored.values.ravel(), rtol=1e-4)
    with pytest.raises(ValueError, match=r"no cell with .'width': 9.; there are"):
        load_networks(folder, width=9)
    with pytest.raises(ValueError, match="2 cells, say which:"):
        load_networks(folder, width=8, num_hidden_layers=2)


def test_called_again_it_computes_nothing(results, dataset, folder, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in (folder / "batches").iterdir()}
    monkeypatch.setattr("lmcjax.sweep._batch.train_call", None)
    xr.testing.assert_identical(run_sweep(SWEEP, dataset, folder), results)
    assert {path: path.stat().st_mtime_ns for path in (folder / "batches").iterdir()} == before


@pytest.mark.slow
def test_all_pairs_contain_the_disjoint_ones(results, dataset):
    """The same networks, every seed with every other; nothing is kept on disk."""
    one_cell = {"widths": 8, "num_hidden_layers": 1, "learning_rates": 0.1}
    sweep = dataclasses.replace(
        SWEEP, **one_cell, pairing="all", keep_permutations=False, keep_networks=False
    )
    everything = run_sweep(sweep, dataset).squeeze(Cell._fields)
    assert everything["seed_of"].values.tolist() == [[7, 1], [7, 4], [7, 2], [1, 4], [1, 2], [4, 2]]
    few = results.sel(width=8, num_hidden_layers=1, learning_rate=0.1, optimizer="sgd")
    np.testing.assert_allclose(everything["barrier"].isel(pair=[0, 5]), few["barrier"], atol=1e-4)
    assert "permutation" not in everything
