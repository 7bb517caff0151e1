"""Two-layer networks: how the error of linear mode connectivity falls with the width."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, PyTree
from matplotlib.figure import Figure

from lmcjax.data import load_dataset
from lmcjax.evaluation import batched_loss, cross_entropy_and_accuracy, linear_barrier
from lmcjax.experiments.claims._claim import Claim, Estimate, Experiment, Size
from lmcjax.experiments.claims._drawing import label_end, number_ticks
from lmcjax.experiments.claims._estimates import (
    bootstrap_estimate,
    exponents,
    mean_estimate,
    upper_half,
)
from lmcjax.experiments.claims._runs import linear_error, measure_pairs, stack_cells, train_sweep
from lmcjax.matching import match_weights, weight_distance
from lmcjax.plots import COLOURS, tidy
from lmcjax.sweep import Sweep
from lmcjax.symmetry import PermutationSpec, permute

_KINDS = {  # model, optimizer, peak rate
    "mean field": ("lmcjax.experiments.claims.mean_field:mean_field", "sgd_plain", 1.0),
    "ReLU MLP": ("mlp", "sgd", 0.025),
}
_SIZES: dict[Size, dict[str, Any]] = {
    "tiny": {"dataset": "digits", "widths": (8, 16), "seeds": range(4), "epochs": 1},
    "small": {
        "dataset": "digits",
        "widths": tuple(2**i for i in range(3, 13)),
        "seeds": range(8),
        "epochs": 50,
    },
    "full": {
        "dataset": "fashion-mnist",
        "widths": tuple(2**i for i in range(3, 13)),
        "seeds": range(16),
        "epochs": 20,
    },
}
_MASKS = 16  # random halves of the neurons that are dropped


def _dropout_error(apply: Callable[[PyTree, Array], Array], params: PyTree, inputs: Array) -> Array:
    """`mean_x |f(x) - f_half(x)|^2` over random halves of the neurons, the others' outgoing weights
    doubled.
    """
    outputs, outgoing = apply(params, inputs), params["Dense_1"]["kernel"]

    def drop(key: Array) -> Array:
        kept = jax.random.permutation(key, jnp.arange(len(outgoing)) % 2)
        halved = {
            **params,
            "Dense_1": {**params["Dense_1"], "kernel": 2 * kept[:, None] * outgoing},
        }
        return jnp.sum((apply(halved, inputs) - outputs) ** 2, axis=-1).mean()

    return jax.lax.map(drop, jax.random.split(jax.random.key(0), _MASKS)).mean()


def _measure(
    apply: Callable[[PyTree, Array], Array],
    spec: PermutationSpec,
    a: PyTree,
    b: PyTree,
    train: tuple[Array, Array],
    test: tuple[Array, Array],
) -> dict[str, Array]:
    del train
    inputs, _ = test
    aligned = permute(spec, match_weights(spec, a, b, certify=False).permutations, b)
    both = jax.tree.map(lambda *sides: jnp.stack(sides), aligned, b)
    found = jax.lax.map(lambda other: linear_error(apply, a, other, inputs), both)
    along = linear_barrier(
        batched_loss(apply, cross_entropy_and_accuracy, test), a, aligned, num_points=11
    )
    return {
        **{name: values[0] for name, values in found.items()},
        "unmatched_squared_error": found["squared_error"][1],
        "barrier": along.height,
        "own_loss": (along.losses[0] + along.losses[-1]) / 2,
        "dropout_error": (_dropout_error(apply, a, inputs) + _dropout_error(apply, b, inputs)) / 2,
        "weight_distance": weight_distance(a, aligned),
    }


_ATTRS = {
    "squared_error": "max over t of mean over x of |f_t - chord|^2, matched by all weights",
    "largest_squared_error": "max over t and x of |f_t - chord|^2, matched by all weights",
    "unmatched_squared_error": "max over t of mean over x of |f_t - chord|^2, not matched",
    "squared_output": "mean squared norm of the outputs",
    "dropout_error": "mean squared change of the outputs, half of the neurons dropped",
    "weight_distance": "squared distance of matched neurons, mean over neurons",
    "barrier": "test barrier, matched by all weights",
    "own_loss": "test loss of the networks",
}


def _run(size: Size, folder: Path, tell: Callable[[str], None]) -> xr.Dataset:
    options = dict(_SIZES[size])
    dataset = load_dataset(options.pop("dataset"))
    cells = {}
    for kind, (model, optimizer, rate) in _KINDS.items():
        sweep = Sweep(
            model=model, optimizers=optimizer, learning_rates=rate, num_hidden_layers=1, matchings=(), num_points=2,
            keep_networks=True, **options,
        )  # fmt: skip
        place = folder / kind.replace(" ", "-")
        train_sweep(sweep, dataset, place, tell)
        for width in sweep.widths:
            found = measure_pairs(place, dataset, _measure, width=width)
            if kind != "mean field":  # its stored parameters have the mean over neurons in them
                found["weight_distance"] = found["weight_distance"] / width
            cells[kind, width] = found
            tell(f"{kind}, width {width}: measured")
    results = stack_cells(cells, ("kind", "width"))
    for name, text in _ATTRS.items():
        results[name].attrs.update(
            long_name=text, units="nats" if name in ("barrier", "own_loss") else "1"
        )
    return results.assign_attrs(dataset=dataset.name, num_inputs=int(np.prod(dataset.input_shape)))


def _curves(results: xr.Dataset, name: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Widths in the upper half, and values `[pairs, widths]`."""
    values = results[name].sel(kind=kind).transpose("pair", "width")
    part = upper_half(values.sizes["width"])
    return values["width"].values[part], values.values[:, part]


def _exponent(
    results: xr.Dataset, name: str, kind: str, power: float = 1.0, coordinates: int | None = None
) -> Estimate:
    """Of the root of the values (`power` 1/2); times the inputs and so many further coordinates,
    unless None.
    """
    times = 1 if coordinates is None else results.attrs["num_inputs"] + coordinates
    return mean_estimate(times * power * exponents(*_curves(results, name, kind)))


def _ratio(results: xr.Dataset, kind: str) -> Estimate:
    both = [exponents(*_curves(results, name, kind)) for name in ("dropout_error", "squared_error")]
    return bootstrap_estimate(
        lambda dropped, matched: float(np.mean(dropped) / np.mean(matched)), *both
    )


def _at_widest(results: xr.Dataset, kind: str, values: xr.DataArray) -> Estimate:
    return mean_estimate(values.sel(kind=kind).isel(width=-1))


def _barrier_at_widest(results: xr.Dataset, kind: str) -> Estimate:
    return _at_widest(results, kind, results["barrier"])


def _relative_error(results: xr.Dataset, kind: str) -> Estimate:
    return _at_widest(results, kind, (results["squared_error"] / results["squared_output"]) ** 0.5)


_WIDTHS = "widths in the upper half of the grid"
_SQUARED = f"exponent of the width in the mean squared error, {_WIDTHS}"
_TIMES_INPUTS = {
    "power": 0.5,
    "coordinates": 0,
    "quantity": f"exponent of the width in the root mean squared error, times the inputs, {_WIDTHS}",
}
_EXACT = "A quarter to either side of the exponent."


def _exponent_claim(
    statement: str, source: str, kind: str, holds: tuple[float, float], why: str = "", **how: Any
) -> Claim:
    quantity = f"{kind}: {how.pop('quantity', _SQUARED)}"
    return Claim(
        statement,
        source,
        quantity,
        holds,
        functools.partial(_exponent, **{"name": "squared_error", **how}, kind=kind),
        why,
    )


def _claims() -> tuple[Claim, ...]:
    infinity = float("inf")
    field, mlp = _KINDS
    claims = []
    theorems = {
        field: "paper, Theorem 3.1",
        mlp: "paper, Theorem 3.1, asked of a scaling that it does not treat",
    }
    for kind, theorem in theorems.items():
        claims += [
            _exponent_claim(
                "The wider two-layer networks are, the smaller the error of their linear connection after matching.",
                theorem, kind, (-infinity, 0.0),
            ),
            Claim(
                "Wide enough two-layer networks are linearly connected: the error falls below any bound, 10 % of the "
                "outputs say.",
                theorem, f"{kind}: root mean squared error over that of the outputs, widest networks",
                (0.0, 0.1), functools.partial(_relative_error, kind=kind),
                "The theorem gives some width for every bound; the widest networks of the grid stand for it.",
            ),
            Claim(
                "Two wide two-layer networks have no barrier of the loss between them after matching.",
                f"{theorem}; summary, Key Results", f"{kind}: test barrier of the widest networks, nats",
                (0.0, 0.05), functools.partial(_barrier_at_widest, kind=kind),
                "Below 0.05 nats; a classifier that knows nothing has a loss of 2.3.",
            ),
            Claim(
                "The error of dropping half of the neurons scales with the width like that of linear connection.",
                "paper, Appendix B.14", f"{kind}: ratio of the exponents of the two mean squared errors, {_WIDTHS}",
                (0.75, 4 / 3), functools.partial(_ratio, kind=kind), "Equal exponents, to a quarter.",
            ),
            _exponent_claim(
                "Width O(sqrt(d) / eps) connects with error eps: the error is inversely proportional to the width.",
                "summary, Key Results", kind, (-2.5, -1.5),
                f"eps is the root mean squared error, so its square falls like width^-2. {_EXACT}",
            ),
            _exponent_claim(
                "The error falls like that of an average over neurons, the square like 1 / width (Monte Carlo).",
                "this library, an alternative", kind, (-1.25, -0.75), _EXACT,
            ),
            _exponent_claim(
                "Width eps^-m_0 is enough: the error falls at least as fast as width^(-1/m_0).",
                "paper, Theorem 5.2", kind, (-infinity, -1.0),
                "eps is the root mean squared error, m_0 the number of inputs, so that their product with the exponent "
                "is -1.",
                **_TIMES_INPUTS,
            ),
            _exponent_claim(
                "Width eps^-m_0 is also needed: the error falls no faster than width^(-1/m_0).",
                "paper, Theorems 5.2 and 5.3", kind, (-2.0, 0.0),
                "-1, and twice that left for constants and finite widths.", **_TIMES_INPUTS,
            ),
            _exponent_claim(
                "Matched neurons come closer with the width at the rate of a smooth density in all of their "
                "coordinates.",
                "this library, an alternative: Ledoux and Zhu (2021)", kind, (-2.0, -0.5),
                "W_2 falls like width^(-1/d), d = inputs, a bias and 10 outgoing weights; to a factor of 2.",
                name="weight_distance", power=0.5, coordinates=11,
                quantity=f"exponent of the width in the distance of matched neurons, times coordinates, {_WIDTHS}",
            ),
            _exponent_claim(
                "The neurons' distribution converges in Wasserstein distance inversely to the square root of the "
                "width.",
                "summary, Mechanism 1", kind, (-0.6, -0.4), "-1/2, and a tenth to either side.",
                name="weight_distance", power=0.5, quantity=f"exponent of the width in W_2 of the neurons, {_WIDTHS}",
            ),
        ]  # fmt: skip
    claims.append(
        _exponent_claim(
            "The error also falls for the worst input, as the theorem says of almost every input.",
            "paper, Theorem 3.1", field, (-infinity, 0.0), name="largest_squared_error",
            quantity=f"exponent of the width in the largest squared error, {_WIDTHS}",
        )
    )  # fmt: skip
    return tuple(claims)


def _draw(results: xr.Dataset) -> Figure:
    figure = Figure(figsize=(13.5, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    shown = {
        "unmatched_squared_error": ("error, not matched", COLOURS["none"]),
        "squared_error": ("error, matched", COLOURS["weights"]),
        "dropout_error": ("half of the neurons dropped", COLOURS["covariance"]),
        "weight_distance": ("distance of matched neurons", COLOURS["activations"]),
    }
    for axes, kind in zip(panels, results["kind"].values, strict=True):
        one = results.sel(kind=kind)
        widths = one["width"].values
        for name, (label, colour) in shown.items():
            values = one[name].values
            axes.plot(widths, values.mean(-1), "o-", color=colour, label=label, markersize=4)
            axes.fill_between(
                widths, values.min(-1), values.max(-1), color=colour, alpha=0.15, linewidth=0
            )
        part = upper_half(len(widths))
        anchor = one["squared_error"].values.mean(-1)[part][0]
        for power, label in (
            (-2 / results.attrs["num_inputs"], f"paper: -2/{results.attrs['num_inputs']}"),
            (-1.0, "Monte Carlo: -1"),
            (-2.0, "summary: -2"),
        ):
            ratio = (widths[part] / widths[part][0]) ** power
            axes.plot(widths[part], anchor * ratio, "--", color="black", linewidth=1)
            label_end(axes, label, float(widths[-1]), anchor * ratio[-1])
        axes.set(xscale="log", yscale="log", title=str(kind), xlabel="width, hidden neurons")
        axes.axvspan(widths[part][0], widths[-1], color="black", alpha=0.04, linewidth=0)
        number_ticks(axes, widths)
        tidy(axes)
    panels[0].set_ylabel("squared error of the outputs; squared distance")
    panels[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.2, 0.5))
    figure.suptitle(
        f"{results.attrs['dataset']}: one hidden layer, {results.sizes['pair']} pairs; bands are ranges, fits are over "
        f"the shaded widths",
        fontsize=10,
    )
    return figure


EXPERIMENT = Experiment(
    "two_layer",
    "Two-layer networks: LMC error against width",
    "Pairs of networks with one hidden layer are trained on 8 x 8 digits at widths 8, 16, ..., 4,096 (full: "
    "Fashion-MNIST), "
    "8 networks, so 4 pairs, at each. Two kinds: the mean-field network of Theorem 3.1, an average of bounded neurons "
    "a tanh(w x + b) trained by SGD without momentum at a rate that grows with the width; and a ReLU MLP with the "
    "paper's "
    "protocol. Both are trained on the cross-entropy. B's neurons are matched to A's by all of their weights, "
    "incoming, bias and outgoing, which for one hidden layer is one exact assignment. The error is that of Theorem 3.1 "
    "on "
    "test images: how far the outputs on the line are from the line between the outputs, the largest of 11 points. "
    "Exponents "
    "are fitted per pair to the upper half of the widths and averaged over pairs.",
    _run,
    _claims(),
    _draw,
)
