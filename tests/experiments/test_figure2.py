"""The experiment at a tiny size, end to end."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import xarray as xr

import lmcjax
from lmcjax.experiments.figure2 import Figure2Config, build_network, run_figure2
from lmcjax.symmetry import permute

CONFIG = Figure2Config(
    width=10,
    num_hidden_layers=2,
    epochs=3,
    batch_size=60,
    learning_rates=(0.01, 0.1),
    repetitions=3,
    num_points=5,
    networks_per_batch=5,
)


@pytest.fixture(scope="module")
def dataset() -> lmcjax.Dataset:
    return lmcjax.load_dataset("digits")


@pytest.fixture(scope="module")
def results(dataset) -> xr.Dataset:
    stages: dict[str, tuple[int, int]] = {}
    results = run_figure2(CONFIG, dataset, on_progress=lambda stage, done, total: stages.update({stage: (done, total)}))
    assert list(stages) == ["train", "match", "evaluate"]
    assert all(done == total for done, total in stages.values())
    return results


def test_axes_units_and_provenance(results):
    assert dict(results["path_loss"].sizes) == {
        "split": 2,
        "learning_rate": 2,
        "repetition": 3,
        "matching": 4,
        "t": 5,
    }
    assert dict(results["approximate_dimension"].sizes) == {
        "similarity": 3,
        "layer": 2,
        "learning_rate": 2,
        "repetition": 3,
    }
    assert results["path_loss"].attrs["units"] == "nats"
    assert json.loads(results.attrs["config"])["learning_rates"] == [0.01, 0.1]
    assert json.loads(results.attrs["versions"])["jax"] == jax.__version__
    assert results.attrs["training_steps"] == 3 * (1442 // 60)


def test_survives_its_file(results, tmp_path):
    results.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    xr.testing.assert_identical(results, xr.load_dataset(tmp_path / "results.nc", engine="h5netcdf"))


def test_quantities_hang_together(results):
    losses = results["path_loss"]
    chord = losses.isel(t=0) + (losses.isel(t=-1) - losses.isel(t=0)) * results["t"]
    np.testing.assert_allclose((losses - chord).max("t"), results["barrier"], atol=1e-5)
    np.testing.assert_allclose(losses.sel(t=0.5), results["midpoint_loss"], atol=1e-6)
    for matching in results.matching.values:  # permuting changes no network
        ends = losses.sel(matching=matching).isel(t=[0, -1]).transpose(*results["endpoint_loss"].dims[:-1], "t")
        np.testing.assert_allclose(ends, results["endpoint_loss"], rtol=1e-5)
    assert results["finite"].all()
    assert (results["similarity_reached"] >= results["similarity_of_identity"] - 1e-4).all()
    assert (results["approximate_dimension"] >= 1 - 1e-5).all()
    assert (results["approximate_dimension"] <= 10 + 1e-4).all()


def test_one_pair_by_hand(results, dataset):
    """The README's ten lines give what the experiment stored: same networks, same matching, same losses."""
    network = build_network(CONFIG, dataset)
    config = lmcjax.TrainConfig(0.1, network, num_steps=3 * (1442 // 60), batch_size=60)
    key = jax.random.fold_in(jax.random.key(0), 2)  # repetition 2
    a, b = (lmcjax.train(config, jax.random.fold_in(key, side), dataset.train).params for side in (0, 1))
    moments = lmcjax.activation_moments(network.taps, a, b, dataset.train.inputs)
    spec = lmcjax.mlp_spec(2)
    matching = lmcjax.match_layerwise(spec, a, b, similarity="covariance", moments=moments)
    loss = lmcjax.batched_loss(network.apply, lmcjax.cross_entropy_and_accuracy, dataset.test)
    barrier = lmcjax.linear_barrier(loss, a, permute(spec, matching.permutations, b), num_points=5)
    stored = results.sel(learning_rate=0.1, matching="covariance", split="test").isel(repetition=2)
    np.testing.assert_allclose(barrier.losses, stored["path_loss"], rtol=1e-4)
    np.testing.assert_allclose(barrier.height, stored["barrier"], atol=1e-4)


def test_same_seed_same_bits_whatever_the_batches(results, dataset):
    xr.testing.assert_equal(results, run_figure2(dataclasses.replace(CONFIG, networks_per_batch=None), dataset))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width is at least 1, not 0"),
        ({"epochs": -1}, "epochs is at least 1, not -1"),
        ({"num_points": 1}, "num_points is at least 2, not 1"),
        ({"learning_rates": ()}, "learning rates are positive numbers, at least one"),
        ({"learning_rates": (0.1, float("nan"))}, "learning rates are positive numbers"),
        ({"learning_rates": (0.1, 0.1)}, "given twice"),
        ({"networks_per_batch": 0}, "networks_per_batch is at least 1, not 0"),
    ],
)
def test_bad_configuration(options, message):
    with pytest.raises(ValueError, match=message):
        Figure2Config(**options)


def test_batch_larger_than_the_data(dataset):
    with pytest.raises(ValueError, match="batch size 5000 is larger than the training set of 1442 samples"):
        run_figure2(Figure2Config(batch_size=5000), dataset)
