"""The experiment at a tiny size, end to end; what its numbers are is shown in
tests/sweep/test_results.py.
"""

from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr

import lmcjax
from lmcjax.experiments.figure2 import figure2_sweep
from lmcjax.results import has_one_architecture, of_one_architecture
from lmcjax.sweep import Sweep, run_sweep

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = {"epochs": 1, "batch_size": 40, "repetitions": 1, "num_points": 2, "moment_samples": 20}


@pytest.fixture(scope="module")
def few_digits() -> lmcjax.Dataset:
    full = lmcjax.load_dataset("mnist5k")
    splits = [
        lmcjax.data.Samples(*(array[:80] for array in split)) for split in (full.train, full.test)
    ]
    return full._replace(train=splits[0], test=splits[1])


def test_a_figure_is_a_sweep():
    sweep = figure2_sweep(seed=1, repetitions=3)
    rates = (0.0001, 0.000398, 0.00158, 0.00631, 0.0251, 0.1)
    assert sweep == Sweep(range(6, 12), 128, 3, rates)
    assert not set(sweep.seeds) & set(figure2_sweep(seed=0, repetitions=3).seeds)
    with pytest.raises(ValueError, match="repetitions is at least 1, not 0"):
        figure2_sweep(repetitions=0)


@pytest.mark.slow
def test_results_by_learning_rate_alone(few_digits):
    sweep = figure2_sweep(
        width=4, num_hidden_layers=1, learning_rates=(0.01, 0.1), **TINY | {"repetitions": 2}
    )
    results = run_sweep(sweep, few_digits)
    assert has_one_architecture(results)
    figure = of_one_architecture(results)
    assert dict(figure["midpoint_loss"].sizes) == {
        "learning_rate": 2,
        "pair": 2,
        "split": 2,
        "matching": 4,
    }
    assert figure["training_loss"].dims == ("learning_rate", "pair", "network", "epoch")
    for pair, network in ((0, 0), (1, 0), (1, 1)):
        of_seed = (
            results["training_loss"]
            .squeeze(["width", "num_hidden_layers", "optimizer"])
            .isel(seed=2 * pair + network)
        )
        np.testing.assert_array_equal(
            figure["training_loss"].isel(pair=pair, network=network), of_seed
        )
    several = xr.concat([results, results.assign_coords(width=[8])], "width", data_vars="all")
    with pytest.raises(ValueError, match="Figure 2 is of one architecture"):
        of_one_architecture(several)


@pytest.mark.parametrize(
    ("model", "groups"),
    [
        pytest.param("vgg", ["Conv_0", "Conv_1", "Conv_2", "Dense_0"], marks=pytest.mark.slow),
        pytest.param("transformer", None, marks=pytest.mark.slow),
        ("docs.examples.row_reader:apply", None),
    ],
)
def test_other_networks_go_the_same_way(model, groups, monkeypatch, few_digits):
    """Layers of different widths; permuting changes no network."""
    monkeypatch.chdir(Path(__file__).parents[2])
    sweep = figure2_sweep(
        model=model,
        width=4,
        num_hidden_layers=1,
        learning_rates=(0.01,),
        optimizer="adam",
        keep_permutations=True,
        **TINY,
    )
    results = of_one_architecture(run_sweep(sweep, few_digits))
    assert groups is None or results["layer"].values.tolist() == groups
    ends = results["path_loss"].isel(t=[0, -1])
    expected = results["endpoint_loss"].expand_dims(matching=results.matching, axis=3)
    np.testing.assert_allclose(ends, expected, rtol=1e-4)
    assert (results["similarity_reached"] >= results["similarity_of_identity"] - 1e-3).all()
    sizes = (results["permutation"] >= 0).sum("neuron").squeeze(("learning_rate", "pair"))
    assert (sizes == results["num_neurons"]).all()
    if model == "vgg":
        assert results["num_neurons"].values.tolist() == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet", r"'resnet' is not one of \('mlp', 'vgg', 'resnet20', 'transformer'\)"),
        ("no.such.module:apply", "cannot import 'no.such.module'"),
        ("math:sqrt", "'math' has no function 'init'"),
        ("math:apply", "'math' has no function 'apply'"),
    ],
)
def test_networks_that_there_are_not(model, message):
    with pytest.raises(ValueError, match=message):
        figure2_sweep(model=model)


def test_a_network_without_symmetries_is_refused_before_it_is_trained(
    few_digits, tmp_path, monkeypatch
):
    (tmp_path / "no_neurons.py").write_text(
        "import jax.numpy as jnp\n"
        "init = lambda key: {'w': jnp.ones((784, 10))}\n"
        "apply = lambda p, x: x.reshape(-1, 784) @ p['w']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="no neurons of this network can be permuted"):
        run_sweep(figure2_sweep(model="no_neurons:apply", **TINY), few_digits, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert jax.device_count() == 2
