"""Learning rate, optimizer and matching: Figure 2 for each optimizer, and whether weights stay
independent.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from lmcjax.data import Dataset, load_dataset
from lmcjax.experiments.claims._claim import Experiment, Size
from lmcjax.experiments.claims._runs import train_sweep
from lmcjax.experiments.claims._section_6 import CLAIMS
from lmcjax.experiments.summary import MATCHING_NAMES, measured
from lmcjax.plots import COLOURS, plain_log_ticks, tidy
from lmcjax.statistics import independence_test, neuron_coordinates
from lmcjax.sweep import Sweep, load_networks
from lmcjax.symmetry import discover

_OPTIMIZERS = ("sgd", "sgd_plain", "adam", "adamw")
_GROUPS = 4  # of networks, each tested for independence by itself
_PERMUTATIONS = 199
_SIZES: dict[Size, dict[str, Any]] = {
    "tiny": {
        "dataset": "digits", "widths": 8, "num_hidden_layers": 2, "learning_rates": (1e-2, 1e-1), "seeds": range(8),
        "epochs": 1, "optimizers": ("sgd", "sgd_plain", "adam"), "num_points": 3,
    },
    "small": {
        "dataset": "mnist5k", "widths": 64, "num_hidden_layers": 3, "learning_rates": "1e-4:1e-1:6", "seeds": range(16),
        "epochs": 10, "optimizers": _OPTIMIZERS, "num_points": 5, "moment_samples": 1000,
    },
    "full": {
        "dataset": "fashion-mnist", "widths": 512, "num_hidden_layers": 3, "learning_rates": "1e-4:1e-1:6",
        "seeds": range(16), "epochs": 50, "batch_size": 500, "optimizers": _OPTIMIZERS, "num_points": 25,
    },
}  # fmt: skip


def _run(size: Size, folder: Path, tell: Callable[[str], None]) -> xr.Dataset:
    options = dict(_SIZES[size])
    dataset = load_dataset(options.pop("dataset"))
    sweep = Sweep(keep_networks=True, **options)
    tell(f"optimizers: {sweep.num_networks} networks")
    swept = train_sweep(sweep, dataset, folder, tell).squeeze(
        ("width", "num_hidden_layers"), drop=True
    )
    own = swept["endpoint_loss"].sel(split="test", drop=True).mean("network", skipna=False)
    results = xr.Dataset(
        {
            "barrier": measured(swept, "barrier").drop_vars("split"),
            "midpoint_loss": measured(swept, "midpoint_loss").drop_vars("split"),
            "own_loss": own.where(np.isfinite(own)).assign_attrs(
                units="nats", long_name="test loss of the networks"
            ),
            "dimension": swept["approximate_dimension"].transpose(..., "similarity", "layer"),
            "largest_dimension": _largest_dimension(dataset, swept),
        }
    )
    tell("optimizers: testing for independence")
    found = [
        [_independence(folder, dataset, o, r) for r in sweep.learning_rates]
        for o in sweep.optimizers
    ]
    for name, text in (
        ("effect", "standard deviations from what independent neurons give"),
        ("p_value", "two-sided"),
    ):
        values = np.array([[cell[name] for cell in row] for row in found])
        dims = ("optimizer", "learning_rate", "layer", "group")
        results[f"independence_{name}"] = (dims, values, {"units": "1", "long_name": text})
    return results.assign_attrs(dataset=dataset.name, width=sweep.widths[0], epochs=sweep.epochs)


def _largest_dimension(dataset: Dataset, swept: xr.Dataset) -> xr.DataArray:
    """Of naive matching, by layer: the rank that W^T W may have."""
    neurons = swept["num_neurons"].values
    inputs = [int(np.prod(dataset.input_shape)), *neurons[:-1]]
    return xr.DataArray(np.minimum(inputs, neurons), dims="layer", attrs={"units": "1"})


def _independence(
    folder: Path, dataset: Dataset, optimizer: str, rate: float
) -> dict[str, np.ndarray]:
    """`independence_test` of every layer of each of a few groups of networks of one cell, `[layer,
    group]`.
    """
    network, params = load_networks(folder, optimizer=optimizer, learning_rate=rate)
    inputs = jnp.asarray(dataset.test.inputs)
    spec = discover(network.apply, jax.tree.map(lambda leaf: leaf[0], params), inputs[:2])
    probes = inputs[:: max(1, len(inputs) // 8)][:8]
    return jax.device_get(_test_groups(network, spec, params, probes))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _test_groups(network: Any, spec: Any, params: Any, probes: jax.Array) -> dict[str, jax.Array]:
    neurons = jax.vmap(lambda p: neuron_coordinates(network.apply, spec, p, probes))(params)
    tests = []
    for layer in spec.groups:
        groups = neurons[layer].reshape(_GROUPS, -1, *neurons[layer].shape[1:])
        keys = jax.random.split(jax.random.key(0), _GROUPS)
        tests.append(
            jax.lax.map(
                lambda one: independence_test(*one, num_permutations=_PERMUTATIONS), (keys, groups)
            )
        )
    return {
        name: jnp.stack([getattr(test, name) for test in tests]) for name in ("effect", "p_value")
    }


def _draw(results: xr.Dataset) -> Figure:
    optimizers, rates = results["optimizer"].values, results["learning_rate"].values
    figure = Figure(figsize=(3.6 * len(optimizers), 9.5), layout="constrained")
    panels = figure.subplots(3, len(optimizers), sharey="row", squeeze=False)
    for column, optimizer in zip(panels.T, optimizers, strict=True):
        one = results.sel(optimizer=optimizer)
        for matching in one["matching"].values:
            values = one["midpoint_loss"].sel(matching=matching)
            column[0].plot(
                rates,
                values.mean("pair"),
                "o-",
                color=COLOURS[matching],
                label=MATCHING_NAMES[matching],
            )
            column[0].fill_between(
                rates,
                values.min("pair"),
                values.max("pair"),
                color=COLOURS[matching],
                alpha=0.15,
                linewidth=0,
            )
        column[0].plot(
            rates,
            one["own_loss"].mean("pair"),
            "x:",
            color="black",
            label="the networks themselves",
        )
        column[0].set(xscale="log", yscale="log", title=str(optimizer))
        plain_log_ticks(column[0])
        for similarity in one["similarity"].values:
            for layer, line in zip(one["layer"].values, ("-", "--", ":"), strict=False):
                values = one["dimension"].sel(similarity=similarity, layer=layer).mean("pair")
                column[1].plot(
                    rates, values, line, color=COLOURS[similarity], label=f"{similarity}, {layer}"
                )
        column[1].axhline(10, color="grey", linewidth=1, linestyle=":")
        column[1].set(xscale="log", yscale="log")
        for layer, line in zip(one["layer"].values, ("o-", "s--", "^:"), strict=False):
            values = one["independence_effect"].sel(layer=layer).mean("group")
            column[2].plot(
                rates, values, line, color=COLOURS["network"], label=str(layer), markersize=4
            )
        column[2].axhspan(-2, 2, color=COLOURS["activations"], alpha=0.2, linewidth=0)
        column[2].set(xscale="log", yscale="symlog", xlabel="peak learning rate")
    for row, label in zip(
        panels,
        ("test loss half-way (nats)", "approximate dimension", "dependence of neurons (std)"),
        strict=True,
    ):
        row[0].set_ylabel(label)
        row[-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in panels.ravel():
        tidy(axes)
    figure.suptitle(
        f"{results.attrs['dataset']}, width {results.attrs['width']}, {results.attrs['epochs']} epochs, "
        f"{results.sizes['pair']} pairs; green: within 2 standard deviations of independence",
        fontsize=10,
    )
    return figure


EXPERIMENT = Experiment(
    "optimizers",
    "Learning rate, optimizer and matching",
    "Figure 2 for four optimizers, SGD with momentum 0.9 (the paper's), SGD without, Adam and AdamW, at six peak "
    "rates from 1e-4 to 1e-1: MLPs with three hidden layers of 64 neurons on 5,000 MNIST digits, 10 epochs (full: 512 "
    "neurons, Fashion-MNIST, 50 epochs), 16 networks, so 8 pairs, in each of the 24 cells. Measured on test images: "
    "the loss half-way, the barrier, and the approximate dimensions of what each matching compares. Then neurons are "
    "tested for independence, 4 times with 4 networks each: do the neurons of one network resemble each other more, "
    "or less, than those of different networks do, in standard deviations over permutations? Of layers beyond the "
    "first the test also sees what all neurons of a network share, so that claims are about the first. In the small "
    "size SGD has hardly learned anything at rates below 1e-3, where all matchings agree.",
    _run,
    CLAIMS,
    _draw,
)
