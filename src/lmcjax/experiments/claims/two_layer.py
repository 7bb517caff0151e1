"""Two-layer networks: how the error of linear mode connectivity falls with the width."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, PyTree
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmcjax.data import load_dataset
from lmcjax.evaluation import batched_loss, cross_entropy_and_accuracy, linear_barrier
from lmcjax.experiments.claims._claim import (
    Claim,
    Estimate,
    Limits,
    at_most,
    within_a_quarter,
)
from lmcjax.experiments.claims._drawing import label_end, number_ticks
from lmcjax.experiments.claims._estimates import bootstrap_estimate, mean_estimate
from lmcjax.experiments.claims._experiment import Experiment, Size, Tell
from lmcjax.experiments.claims._fits import exponents, upper_half
from lmcjax.experiments.claims._runs import (
    Measurements,
    TrainedGrid,
    TrainedPair,
    linear_error,
    measure_pairs,
    stack_cells,
    train_sweep,
)
from lmcjax.matching import match_coordinate_descent, weight_distance
from lmcjax.results import COLOURS, tidy
from lmcjax.sweep import Sweep
from lmcjax.symmetry import permute


class NetworkKind(NamedTuple):
    """A kind of two-layer network, and how it is trained."""

    model: str
    optimizer: str
    learning_rate: float  # at its peak
    is_mean: bool  # whether squared distances of parameters are means over neurons, or sums


_MEAN_FIELD = "mean field"
_MLP = "ReLU MLP"
_KINDS = {
    _MEAN_FIELD: NetworkKind(
        "lmcjax.experiments.claims.mean_field:mean_field", "sgd_plain", 1.0, is_mean=True
    ),
    _MLP: NetworkKind("mlp", "sgd", 0.025, is_mean=False),
}

_SMALL = Sweep(
    seeds=range(8),
    widths=(8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
    num_hidden_layers=1,
    matchings=(),
    num_points=2,
    epochs=50,
    keep_networks=True,
)
_TINY = dataclasses.replace(_SMALL, seeds=range(4), widths=(8, 16), epochs=1)
_FULL = dataclasses.replace(_SMALL, seeds=range(16), epochs=20)
SIZES: dict[Size, TrainedGrid] = {
    "tiny": TrainedGrid("digits", _TINY),
    "small": TrainedGrid("digits", _SMALL),
    "full": TrainedGrid("fashion-mnist", _FULL),
}

_MASKS = 16  # random halves of the neurons that are dropped


def measure(grid: TrainedGrid, folder: Path, tell: Tell) -> xr.Dataset:
    """Errors of the linear connection of every pair, for both kinds and every width."""
    dataset = load_dataset(grid.dataset)
    cells = {}
    for name, kind in _KINDS.items():
        sweep = dataclasses.replace(
            grid.sweep,
            model=kind.model,
            optimizers=kind.optimizer,
            learning_rates=kind.learning_rate,
        )
        sweep_folder = folder / name.replace(" ", "-")
        train_sweep(sweep, dataset, sweep_folder, tell)
        for width in sweep.widths:
            found = measure_pairs(sweep_folder, dataset, _measure_pair, width=width)
            if not kind.is_mean:
                found["weight_distance"] = found["weight_distance"] / width
            cells[name, width] = found
            tell(f"{name}, width {width}: measured")

    results = stack_cells(cells, ("kind", "width"))
    for name, meaning in _MEANINGS.items():
        units = "nats" if name in ("barrier", "own_loss") else "1"
        results[name].attrs.update(long_name=meaning, units=units)
    num_inputs = math.prod(dataset.input_shape)
    return results.assign_attrs(dataset=dataset.name, num_inputs=num_inputs)


_MEANINGS = {
    "squared_error": "max over t of mean over x of |f_t - chord|^2, matched by all weights",
    "largest_squared_error": "max over t and x of |f_t - chord|^2, matched by all weights",
    "unmatched_squared_error": "max over t of mean over x of |f_t - chord|^2, not matched",
    "squared_output": "mean squared norm of the outputs",
    "dropout_error": "mean squared change of the outputs, half of the neurons dropped",
    "weight_distance": "squared distance of matched neurons, mean over neurons",
    "barrier": "test barrier, matched by all weights",
    "own_loss": "test loss of the networks",
}


def _measure_pair(pair: TrainedPair) -> Measurements:
    apply = pair.apply
    a = pair.params_a
    b = pair.params_b
    inputs, _ = pair.test

    matching = match_coordinate_descent(pair.spec, a, b)
    aligned = permute(pair.spec, matching.permutations, b)
    # One loop over both, so that the path is compiled once
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), aligned, b)
    errors = jax.lax.map(lambda other: linear_error(apply, a, other, inputs), both)

    loss = batched_loss(apply, cross_entropy_and_accuracy, pair.test)
    barrier = linear_barrier(loss, a, aligned, num_points=11)
    dropout_a = dropout_error(apply, a, inputs)
    dropout_b = dropout_error(apply, b, inputs)
    return {
        "squared_error": errors["squared_error"][0],
        "largest_squared_error": errors["largest_squared_error"][0],
        "squared_output": errors["squared_output"][0],
        "unmatched_squared_error": errors["squared_error"][1],
        "barrier": barrier.height,
        "own_loss": (barrier.losses[0] + barrier.losses[-1]) / 2,
        "dropout_error": (dropout_a + dropout_b) / 2,
        "weight_distance": weight_distance(a, aligned),
    }


def dropout_error(apply: Callable[[PyTree, Array], Array], params: PyTree, inputs: Array) -> Array:
    """`mean_x |f(x) - f_half(x)|^2`, where f_half drops a random half of the hidden neurons.

    The outgoing weights of the other half are doubled. It is the mean over several random halves.
    """
    outputs = apply(params, inputs)
    last_layer = params["Dense_1"]
    outgoing = last_layer["kernel"]
    half_of_neurons = jnp.arange(len(outgoing)) % 2

    def error_of_mask(key: Array) -> Array:
        kept = jax.random.permutation(key, half_of_neurons)
        halved_layer = {**last_layer, "kernel": 2 * kept[:, None] * outgoing}
        halved = {**params, "Dense_1": halved_layer}
        return jnp.sum((apply(halved, inputs) - outputs) ** 2, axis=-1).mean()

    keys = jax.random.split(jax.random.key(0), _MASKS)
    return jax.lax.map(error_of_mask, keys).mean()


def _exponents(results: xr.Dataset, kind: str, quantity: str) -> np.ndarray:
    """The exponent of the width in a quantity, over the upper half of the widths, by pair."""
    values = results[quantity].sel(kind=kind).transpose("pair", "width")
    upper = upper_half(values.sizes["width"])
    return exponents(values["width"].values[upper], values.values[:, upper])


def _exponent(
    results: xr.Dataset, kind: str, quantity: str = "squared_error", factor: float = 1.0
) -> Estimate:
    """The exponent of the width in a quantity, times a factor: 1/2 for that in its root."""
    return mean_estimate(factor * _exponents(results, kind, quantity))


def _error_exponent_times_inputs(results: xr.Dataset, kind: str) -> Estimate:
    """The exponent of the width in the root mean squared error, times the number of inputs."""
    return _exponent(results, kind, factor=results.attrs["num_inputs"] / 2)


def _distance_exponent_times_coordinates(results: xr.Dataset, kind: str) -> Estimate:
    """The exponent of the width in the distance of matched neurons, times their coordinates."""
    coordinates = results.attrs["num_inputs"] + 11  # a bias and 10 outgoing weights
    return _exponent(results, kind, "weight_distance", factor=coordinates / 2)


def _exponent_ratio(results: xr.Dataset, kind: str) -> Estimate:
    """The exponent of the width in the error of dropping neurons, over that in the linear error."""

    def of_pairs(dropped: np.ndarray, matched: np.ndarray) -> float:
        return float(np.mean(dropped) / np.mean(matched))

    dropped = _exponents(results, kind, "dropout_error")
    matched = _exponents(results, kind, "squared_error")
    return bootstrap_estimate(of_pairs, dropped, matched)


def _barrier_at_widest(results: xr.Dataset, kind: str) -> Estimate:
    return mean_estimate(results["barrier"].sel(kind=kind).isel(width=-1))


def _relative_error_at_widest(results: xr.Dataset, kind: str) -> Estimate:
    relative_error = (results["squared_error"] / results["squared_output"]) ** 0.5
    return mean_estimate(relative_error.sel(kind=kind).isel(width=-1))


_WIDTHS = "widths in the upper half of the grid"
_SQUARED_ERROR = f"exponent of the width in the mean squared error, {_WIDTHS}"
_ROOT_TIMES_INPUTS = (
    f"exponent of the width in the root mean squared error, times the inputs, {_WIDTHS}"
)
_QUARTER = "A quarter to either side of the exponent."


def _connection_claims(kind: str, theorem: str) -> tuple[Claim, ...]:
    """That wide networks are connected, as Theorem 3.1 says."""
    return (
        Claim(
            "The wider two-layer networks are, the smaller the error of their linear connection "
            "after matching.",
            theorem,
            f"{kind}: {_SQUARED_ERROR}",
            at_most(0.0),
            functools.partial(_exponent, kind=kind),
        ),
        Claim(
            "Wide enough two-layer networks are linearly connected: the error falls below any "
            "bound, 10 % of the outputs say.",
            theorem,
            f"{kind}: root mean squared error over that of the outputs, widest networks",
            Limits(0.0, 0.1),
            functools.partial(_relative_error_at_widest, kind=kind),
            "The theorem gives some width for every bound; the widest networks of the grid stand "
            "for it.",
        ),
        Claim(
            "Two wide two-layer networks have no barrier of the loss between them after matching.",
            f"{theorem}; summary, Key Results",
            f"{kind}: test barrier of the widest networks, nats",
            Limits(0.0, 0.05),
            functools.partial(_barrier_at_widest, kind=kind),
            "Below 0.05 nats; a classifier that knows nothing has a loss of 2.3.",
        ),
        Claim(
            "The error of dropping half of the neurons scales with the width like that of linear "
            "connection.",
            "paper, Appendix B.14",
            f"{kind}: ratio of the exponents of the two mean squared errors, {_WIDTHS}",
            Limits(0.75, 4 / 3),
            functools.partial(_exponent_ratio, kind=kind),
            "Equal exponents, to a quarter.",
        ),
    )


def _rate_claims(kind: str) -> tuple[Claim, ...]:
    """How fast the error falls with the width."""
    return (
        Claim(
            "Width O(sqrt(d) / eps) connects with error eps: the error is inversely proportional "
            "to the width.",
            "summary, Key Results",
            f"{kind}: {_SQUARED_ERROR}",
            within_a_quarter(-2.0),
            functools.partial(_exponent, kind=kind),
            f"eps is the root mean squared error, so its square falls like width^-2. {_QUARTER}",
        ),
        Claim(
            "The error falls like that of an average over neurons, the square like 1 / width "
            "(Monte Carlo).",
            "this library, an alternative",
            f"{kind}: {_SQUARED_ERROR}",
            within_a_quarter(-1.0),
            functools.partial(_exponent, kind=kind),
            _QUARTER,
        ),
        Claim(
            "Width eps^-m_0 is enough: the error falls at least as fast as width^(-1/m_0).",
            "paper, Theorem 5.2",
            f"{kind}: {_ROOT_TIMES_INPUTS}",
            at_most(-1.0),
            functools.partial(_error_exponent_times_inputs, kind=kind),
            "eps is the root mean squared error, m_0 the number of inputs, so that their product "
            "with the exponent is -1.",
        ),
        Claim(
            "Width eps^-m_0 is also needed: the error falls no faster than width^(-1/m_0).",
            "paper, Theorems 5.2 and 5.3",
            f"{kind}: {_ROOT_TIMES_INPUTS}",
            Limits(-2.0, 0.0),
            functools.partial(_error_exponent_times_inputs, kind=kind),
            "-1, and twice that left for constants and finite widths.",
        ),
    )


def _distance_claims(kind: str) -> tuple[Claim, ...]:
    """How fast matched neurons come closer with the width."""
    return (
        Claim(
            "Matched neurons come closer with the width at the rate of a smooth density in all of "
            "their coordinates.",
            "this library, an alternative: Ledoux and Zhu (2021)",
            f"{kind}: exponent of the width in the distance of matched neurons, times "
            f"coordinates, {_WIDTHS}",
            Limits(-2.0, -0.5),
            functools.partial(_distance_exponent_times_coordinates, kind=kind),
            "W_2 falls like width^(-1/d), d = inputs, a bias and 10 outgoing weights; to a factor "
            "of 2.",
        ),
        Claim(
            "The neurons' distribution converges in Wasserstein distance inversely to the square "
            "root of the width.",
            "summary, Mechanism 1",
            f"{kind}: exponent of the width in W_2 of the neurons, {_WIDTHS}",
            Limits(-0.6, -0.4),
            functools.partial(_exponent, kind=kind, quantity="weight_distance", factor=0.5),
            "-1/2, and a tenth to either side.",
        ),
    )


CLAIMS = (
    *_connection_claims(_MEAN_FIELD, "paper, Theorem 3.1"),
    *_rate_claims(_MEAN_FIELD),
    *_distance_claims(_MEAN_FIELD),
    *_connection_claims(_MLP, "paper, Theorem 3.1, asked of a scaling that it does not treat"),
    *_rate_claims(_MLP),
    *_distance_claims(_MLP),
    Claim(
        "The error also falls for the worst input, as the theorem says of almost every input.",
        "paper, Theorem 3.1",
        f"{_MEAN_FIELD}: exponent of the width in the largest squared error, {_WIDTHS}",
        at_most(0.0),
        functools.partial(_exponent, kind=_MEAN_FIELD, quantity="largest_squared_error"),
    ),
)


def draw(results: xr.Dataset) -> Figure:
    """Errors and distances by width, a panel for each kind of network."""
    figure = Figure(figsize=(13.5, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    for axes, kind in zip(panels, results["kind"].values, strict=True):
        of_kind = results.sel(kind=kind)
        widths = of_kind["width"].values
        _draw_curves(axes, of_kind)
        _draw_theories(axes, of_kind)
        axes.set(xscale="log", yscale="log", title=str(kind), xlabel="width, hidden neurons")
        first_fitted = widths[upper_half(len(widths))][0]
        axes.axvspan(first_fitted, widths[-1], color="black", alpha=0.04, linewidth=0)
        number_ticks(axes, widths)
        tidy(axes)
    panels[0].set_ylabel("squared error of the outputs; squared distance")
    panels[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.2, 0.5))
    figure.suptitle(
        f"{results.attrs['dataset']}: one hidden layer, {results.sizes['pair']} pairs; "
        "bands are ranges, fits are over the shaded widths",
        fontsize=10,
    )
    return figure


_CURVES = {  # labels and colours
    "unmatched_squared_error": ("error, not matched", COLOURS["none"]),
    "squared_error": ("error, matched", COLOURS["weights"]),
    "dropout_error": ("half of the neurons dropped", COLOURS["covariance"]),
    "weight_distance": ("distance of matched neurons", COLOURS["activations"]),
}


def _draw_curves(axes: Axes, results: xr.Dataset) -> None:
    widths = results["width"].values
    for name, (label, colour) in _CURVES.items():
        values = results[name].values
        axes.plot(widths, values.mean(-1), "o-", color=colour, label=label, markersize=4)
        lowest = values.min(-1)
        highest = values.max(-1)
        axes.fill_between(widths, lowest, highest, color=colour, alpha=0.15, linewidth=0)


def _draw_theories(axes: Axes, results: xr.Dataset) -> None:
    """Power laws through the error at the first of the fitted widths."""
    widths = results["width"].values
    upper = upper_half(len(widths))
    fitted = widths[upper]
    start = results["squared_error"].values.mean(-1)[upper][0]
    num_inputs = results.attrs["num_inputs"]
    theories = {
        f"paper: -2/{num_inputs}": -2 / num_inputs,
        "Monte Carlo: -1": -1.0,
        "summary: -2": -2.0,
    }
    for label, power in theories.items():
        line = start * (fitted / fitted[0]) ** power
        axes.plot(fitted, line, "--", color="black", linewidth=1)
        label_end(axes, label, float(widths[-1]), line[-1])


EXPERIMENT = Experiment(
    name="two_layer",
    title="Two-layer networks: LMC error against width",
    about="Pairs of networks with one hidden layer are trained on 8 x 8 digits at widths 8, 16, "
    "..., 4,096 (full: Fashion-MNIST), 8 networks, so 4 pairs, at each. Two kinds: the mean-field "
    "network of Theorem 3.1, an average of bounded neurons a tanh(w x + b) trained by SGD without "
    "momentum at a rate that grows with the width; and a ReLU MLP with the paper's protocol. Both "
    "are trained on the cross-entropy. B's neurons are matched to A's by all of their weights, "
    "incoming, bias and outgoing, which for one hidden layer is one exact assignment. The error "
    "is that of Theorem 3.1 on test images: how far the outputs on the line are from the line "
    "between the outputs, the largest of 11 points. Exponents are fitted per pair to the upper "
    "half of the widths and averaged over pairs.",
    sizes=SIZES,
    measure=measure,
    claims=CLAIMS,
    draw=draw,
)
