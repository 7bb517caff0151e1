"""Figure 2 for each of several optimizers, and whether neurons stay independent."""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, PyTree
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmcjax.data import Dataset, load_dataset
from lmcjax.experiments.claims._experiment import Experiment, Size, Tell
from lmcjax.experiments.claims._runs import TrainedGrid, train_sweep
from lmcjax.experiments.claims._section_6_claims import CLAIMS
from lmcjax.models import Network
from lmcjax.results import COLOURS, MATCHING_LABELS, measured, plain_log_ticks, tidy
from lmcjax.statistics import independence_test, neuron_coordinates
from lmcjax.sweep import Sweep, load_networks
from lmcjax.symmetry import PermutationSpec, discover

_OPTIMIZERS = ("sgd", "sgd_plain", "adam", "adamw")
SIZES: dict[Size, TrainedGrid] = {
    "tiny": TrainedGrid(
        "digits",
        Sweep(
            seeds=range(8),
            widths=8,
            num_hidden_layers=2,
            learning_rates=(1e-2, 1e-1),
            optimizers=("sgd", "sgd_plain", "adam"),
            epochs=1,
            num_points=3,
            keep_networks=True,
        ),
    ),
    "small": TrainedGrid(
        "mnist5k",
        Sweep(
            seeds=range(16),
            widths=64,
            num_hidden_layers=3,
            learning_rates="1e-4:1e-1:6",
            optimizers=_OPTIMIZERS,
            epochs=10,
            num_points=5,
            moment_samples=1000,
            keep_networks=True,
        ),
    ),
    "full": TrainedGrid(
        "fashion-mnist",
        Sweep(
            seeds=range(16),
            widths=512,
            num_hidden_layers=3,
            learning_rates="1e-4:1e-1:6",
            optimizers=_OPTIMIZERS,
            epochs=50,
            batch_size=500,
            num_points=25,
            keep_networks=True,
        ),
    ),
}

_GROUPS = 4  # of networks, each tested for independence by itself
_PERMUTATIONS = 199
_PROBES = 8  # test images on which the neurons of different networks are told apart


class GroupTests(NamedTuple):
    """Tests of every layer of every group of networks of one cell."""

    effect: Array  # [layer, group], standard deviations over permutations
    p_value: Array  # [layer, group], two-sided


def measure(grid: TrainedGrid, folder: Path, tell: Tell) -> xr.Dataset:
    """Losses, barriers, dimensions and the dependence of neurons, by optimizer and rate."""
    dataset = load_dataset(grid.dataset)
    sweep = grid.sweep
    tell(f"optimizers: {sweep.num_networks} networks")
    swept = train_sweep(sweep, dataset, folder, tell)
    swept = swept.squeeze(("width", "num_hidden_layers"), drop=True)
    results = _swept_results(swept, dataset)
    tell("optimizers: testing for independence")
    effects, p_values = _test_cells(folder, dataset, sweep)
    dims = ("optimizer", "learning_rate", "layer", "group")
    effect_name = "standard deviations from what independent neurons give"
    results["independence_effect"] = (dims, effects, {"units": "1", "long_name": effect_name})
    results["independence_p_value"] = (dims, p_values, {"units": "1", "long_name": "two-sided"})
    return results.assign_attrs(dataset=dataset.name, width=sweep.widths[0], epochs=sweep.epochs)


def _swept_results(swept: xr.Dataset, dataset: Dataset) -> xr.Dataset:
    """What the claims ask of the results of the sweep."""
    own_loss = swept["endpoint_loss"].sel(split="test", drop=True).mean("network", skipna=False)
    own_loss = own_loss.where(np.isfinite(own_loss))
    dimension = swept["approximate_dimension"].transpose(..., "similarity", "layer")
    return xr.Dataset(
        {
            "barrier": measured(swept, "barrier").drop_vars("split"),
            "midpoint_loss": measured(swept, "midpoint_loss").drop_vars("split"),
            "own_loss": own_loss.assign_attrs(units="nats", long_name="test loss of the networks"),
            "dimension": dimension,
            "largest_dimension": _largest_dimension(swept, dataset),
        }
    )


def _largest_dimension(swept: xr.Dataset, dataset: Dataset) -> xr.DataArray:
    """The largest dimension that naive matching can have, by layer: the largest rank of W^T W."""
    num_neurons = swept["num_neurons"].values
    num_inputs = [int(np.prod(dataset.input_shape)), *num_neurons[:-1]]
    largest_rank = np.minimum(num_inputs, num_neurons)
    return xr.DataArray(largest_rank, dims="layer", attrs={"units": "1"})


def _test_cells(folder: Path, dataset: Dataset, sweep: Sweep) -> tuple[np.ndarray, np.ndarray]:
    """Effects and p-values of the tests of every cell, `[optimizer, rate, layer, group]`."""
    effects = []
    p_values = []
    for optimizer in sweep.optimizers:
        for learning_rate in sweep.learning_rates:
            tests = _test_networks(folder, dataset, optimizer, learning_rate)
            effects.append(tests.effect)
            p_values.append(tests.p_value)
    num_layers = len(effects[0])
    shape = (len(sweep.optimizers), len(sweep.learning_rates), num_layers, _GROUPS)
    return np.reshape(effects, shape), np.reshape(p_values, shape)


def _test_networks(
    folder: Path, dataset: Dataset, optimizer: str, learning_rate: float
) -> GroupTests:
    """Test the networks of one cell, in groups."""
    network, params = load_networks(folder, optimizer=optimizer, learning_rate=learning_rate)
    inputs = jnp.asarray(dataset.test.inputs)
    first_params = jax.tree.map(lambda leaf: leaf[0], params)
    spec = discover(network.apply, first_params, inputs[:2])
    step = max(1, len(inputs) // _PROBES)
    probes = inputs[::step][:_PROBES]
    return jax.device_get(_test_groups(network, spec, params, probes))


@functools.partial(jax.jit, static_argnames=("network", "spec"))
def _test_groups(
    network: Network, spec: PermutationSpec, params: PyTree, probes: Array
) -> GroupTests:
    def coordinates_of_network(params: PyTree) -> dict[str, Array]:
        return neuron_coordinates(network.apply, spec, params, probes)

    def test_group(key_and_neurons: tuple[Array, Array]) -> GroupTests:
        key, neurons = key_and_neurons
        test = independence_test(key, neurons, num_permutations=_PERMUTATIONS)
        return GroupTests(test.effect, test.p_value)

    coordinates = jax.vmap(coordinates_of_network)(params)
    keys = jax.random.split(jax.random.key(0), _GROUPS)
    by_layer = []
    for layer in spec.groups:
        neurons = coordinates[layer]
        grouped = neurons.reshape(_GROUPS, -1, *neurons.shape[1:])
        by_layer.append(jax.lax.map(test_group, (keys, grouped)))
    return GroupTests(
        effect=jnp.stack([test.effect for test in by_layer]),
        p_value=jnp.stack([test.p_value for test in by_layer]),
    )


def draw(results: xr.Dataset) -> Figure:
    """Losses, dimensions and dependence by rate, in rows; a column for each optimizer."""
    optimizers = results["optimizer"].values
    figure = Figure(figsize=(3.6 * len(optimizers), 9.5), layout="constrained")
    panels = figure.subplots(3, len(optimizers), sharey="row", squeeze=False)
    for (top, middle, bottom), optimizer in zip(panels.T, optimizers, strict=True):
        of_optimizer = results.sel(optimizer=optimizer)
        _draw_losses(top, of_optimizer)
        top.set_title(str(optimizer))
        _draw_dimensions(middle, of_optimizer)
        _draw_dependence(bottom, of_optimizer)
    labels = ("test loss half-way (nats)", "approximate dimension", "dependence of neurons (std)")
    for row, label in zip(panels, labels, strict=True):
        row[0].set_ylabel(label)
        row[-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in panels.ravel():
        tidy(axes)
    attrs = results.attrs
    figure.suptitle(
        f"{attrs['dataset']}, width {attrs['width']}, {attrs['epochs']} epochs, "
        f"{results.sizes['pair']} pairs; green: within 2 standard deviations of independence",
        fontsize=10,
    )
    return figure


def _draw_losses(axes: Axes, results: xr.Dataset) -> None:
    rates = results["learning_rate"].values
    for matching in results["matching"].values:
        losses = results["midpoint_loss"].sel(matching=matching)
        colour = COLOURS[matching]
        label = MATCHING_LABELS[matching]
        axes.plot(rates, losses.mean("pair"), "o-", color=colour, label=label)
        lowest = losses.min("pair")
        highest = losses.max("pair")
        axes.fill_between(rates, lowest, highest, color=colour, alpha=0.15, linewidth=0)
    own_loss = results["own_loss"].mean("pair")
    axes.plot(rates, own_loss, "x:", color="black", label="the networks themselves")
    axes.set(xscale="log", yscale="log")
    plain_log_ticks(axes)


def _draw_dimensions(axes: Axes, results: xr.Dataset) -> None:
    rates = results["learning_rate"].values
    for similarity in results["similarity"].values:
        for layer, line in zip(results["layer"].values, ("-", "--", ":"), strict=False):
            mean = results["dimension"].sel(similarity=similarity, layer=layer).mean("pair")
            label = f"{similarity}, {layer}"
            axes.plot(rates, mean, line, color=COLOURS[similarity], label=label)
    axes.axhline(10, color="grey", linewidth=1, linestyle=":")
    axes.set(xscale="log", yscale="log")


def _draw_dependence(axes: Axes, results: xr.Dataset) -> None:
    rates = results["learning_rate"].values
    for layer, line in zip(results["layer"].values, ("o-", "s--", "^:"), strict=False):
        mean = results["independence_effect"].sel(layer=layer).mean("group")
        axes.plot(rates, mean, line, color=COLOURS["network"], label=str(layer), markersize=4)
    axes.axhspan(-2, 2, color=COLOURS["activations"], alpha=0.2, linewidth=0)
    axes.set(xscale="log", yscale="symlog", xlabel="peak learning rate")


EXPERIMENT = Experiment(
    name="optimizers",
    title="Learning rate, optimizer and matching",
    about="Figure 2 for four optimizers, SGD with momentum 0.9 (the paper's), SGD without, Adam "
    "and AdamW, at six peak rates from 1e-4 to 1e-1: MLPs with three hidden layers of 64 neurons "
    "on 5,000 MNIST digits, 10 epochs (full: 512 neurons, Fashion-MNIST, 50 epochs), 16 networks, "
    "so 8 pairs, in each of the 24 cells. Measured on test images: the loss half-way, the barrier, "
    "and the approximate dimensions of what each matching compares. Then neurons are tested for "
    "independence, 4 times with 4 networks each: do the neurons of one network resemble each other "
    "more, or less, than those of different networks do, in standard deviations over permutations? "
    "Of layers beyond the first the test also sees what all neurons of a network share, so that "
    "claims are about the first. In the small size SGD has hardly learned anything at rates below "
    "1e-3, where all matchings agree.",
    sizes=SIZES,
    measure=measure,
    claims=CLAIMS,
    draw=draw,
)
