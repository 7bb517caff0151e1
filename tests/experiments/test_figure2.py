"""The experiment at a tiny size, end to end."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

import lmcjax
from lmcjax.experiments.figure2 import Figure2Config, network_spec, run_figure2
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
    network = lmcjax.FlaxNetwork(lmcjax.MLP((CONFIG.width,) * 2, 10), dataset.input_shape)
    config = lmcjax.TrainConfig(0.1, network, num_steps=3 * (1442 // 60), batch_size=60)
    key = jax.random.fold_in(jax.random.key(0), 2)  # repetition 2
    a, b = (lmcjax.train(config, jax.random.fold_in(key, side), dataset.train).params for side in (0, 1))
    spec = lmcjax.mlp_spec(2)
    moments = lmcjax.activation_moments(network.apply, spec, a, b, dataset.train.inputs)
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
        ({"moment_samples": 1}, "moment_samples is at least 2, not 1"),
    ],
)
def test_bad_configuration(options, message):
    with pytest.raises(ValueError, match=message):
        Figure2Config(**options)


def test_batch_larger_than_the_data(dataset):
    with pytest.raises(ValueError, match="batch size 5000 is larger than the training set of 1442 samples"):
        run_figure2(Figure2Config(batch_size=5000), dataset)


@pytest.mark.parametrize(
    ("model", "groups"),
    [
        ("vgg", ["Conv_0", "Conv_1", "Conv_2", "Dense_0"]),
        ("transformer", None),
        ("docs.examples.row_reader:apply", None),
    ],
)
def test_other_networks_go_the_same_way(model, groups, monkeypatch):
    """Layers of different widths; permuting changes no network."""
    monkeypatch.chdir(Path(__file__).parents[2])
    full = lmcjax.load_dataset("mnist5k")
    few = [lmcjax.data.Samples(*(array[:80] for array in split)) for split in (full.train, full.test)]
    dataset = full._replace(train=few[0], test=few[1])
    config = Figure2Config(
        model=model,
        width=4,
        num_hidden_layers=1,
        epochs=1,
        batch_size=40,
        learning_rates=(0.01,),
        repetitions=1,
        num_points=2,
        moment_samples=20,
        optimizer="adam",
    )
    results = run_figure2(config, dataset)
    assert groups is None or results["layer"].values.tolist() == groups
    ends = results["path_loss"].isel(t=[0, -1])
    expected = results["endpoint_loss"].expand_dims(matching=results.matching, axis=3)
    np.testing.assert_allclose(ends, expected, rtol=1e-4)
    assert (results["similarity_reached"] >= results["similarity_of_identity"] - 1e-3).all()
    sizes = (results["permutation"] >= 0).sum("neuron").squeeze(("learning_rate", "repetition"))
    assert (sizes == sizes.isel(matching=0)).all()
    if model == "vgg":
        assert sizes.isel(matching=0).values.tolist() == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet", r"'resnet' is not one of \('mlp', 'vgg', 'resnet20', 'transformer'\)"),
        ("no.such.module:apply", "cannot import 'no.such.module'"),
        ("math:sqrt", "'math' has no function 'init'"),
        ("math:apply", "'math' has no function 'apply'"),
    ],
)
def test_networks_that_there_are_not(model, message, dataset):
    with pytest.raises(ValueError, match=message):
        run_figure2(Figure2Config(model=model), dataset)


def test_a_network_without_symmetries_is_refused_before_it_is_trained(dataset):
    network = lmcjax.FunctionNetwork(
        lambda key: {"w": jax.numpy.ones((64, 10))}, lambda p, x: x.reshape(-1, 64) @ p["w"]
    )
    with pytest.raises(ValueError, match="no neurons of this network can be permuted"):
        network_spec(network, dataset)
