"""How wide networks have to be for linear mode connectivity, by the dimension of their inputs."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, PyTree
from matplotlib.figure import Figure
from scipy import stats

from lmcjax.data import Dataset, load_dataset
from lmcjax.experiments.claims._claim import Claim, Estimate, Experiment, Size
from lmcjax.experiments.claims._drawing import label_end, number_ticks
from lmcjax.experiments.claims._estimates import bootstrap_estimate, exponents, slopes
from lmcjax.experiments.claims._runs import linear_error, measure_pairs, stack_cells, train_sweep
from lmcjax.matching import match_layerwise
from lmcjax.plots import COLOURS, plain_log_ticks, tidy
from lmcjax.statistics import activation_moments
from lmcjax.sweep import Sweep
from lmcjax.symmetry import PermutationSpec, permute

_SIZES: dict[Size, dict[str, Any]] = {
    "tiny": {
        "dataset": "digits", "dimensions": (2, 64), "widths": (8, 16), "num_hidden_layers": (1,), "seeds": range(4),
        "epochs": 1,
    },
    "small": {
        "dataset": "digits", "dimensions": (2, 4, 8, 16, 32, 64), "widths": (16, 32, 64, 128, 256),
        "num_hidden_layers": (1, 2, 3), "seeds": range(8), "epochs": 20,
    },
    "full": {
        "dataset": "fashion-mnist", "dimensions": (2, 4, 8, 16, 32, 64, 128, 256),
        "widths": (16, 32, 64, 128, 256, 512, 1024), "num_hidden_layers": (1, 2, 3), "seeds": range(16), "epochs": 20,
    },
}  # fmt: skip


def leading_components(dataset: Dataset, count: int) -> Dataset:
    """The images in coordinates of the training images' principal components, with all but the
    leading ones 0.

    They have the shape of the images, so that all counts share compiled programs; their mean
    squared norm is the number of pixels, so that the leading ones have mean square pixels / count.
    """
    train, test = (
        split.inputs.reshape(len(split.inputs), -1).astype(np.float64) for split in dataset[1:3]
    )
    mean = train.mean(0)
    _, _, directions = np.linalg.svd(train - mean, full_matrices=False)
    if not 1 <= count <= len(directions):
        raise ValueError(f"{dataset.name} has {len(directions)} principal components, not {count}")
    scores = [(inputs - mean) @ directions.T for inputs in (train, test)]
    scale = np.sqrt(train.shape[1] / (scores[0][:, :count] ** 2).sum(1).mean())
    splits = []
    for values, split in zip(scores, dataset[1:3], strict=True):
        kept = np.zeros(split.inputs.shape, np.float32).reshape(len(values), -1)
        kept[:, :count] = scale * values[:, :count]
        splits.append(split._replace(inputs=kept.reshape(split.inputs.shape)))
    return Dataset(f"{dataset.name}, {count} components", splits[0], splits[1], dataset.num_classes)


def _measure(
    apply: Callable[[PyTree, Array], Array],
    spec: PermutationSpec,
    a: PyTree,
    b: PyTree,
    train: tuple[Array, Array],
    test: tuple[Array, Array],
) -> dict[str, Array]:
    """Covariance matching is blind to the weights of inputs that are always 0."""
    moments = activation_moments(apply, spec, a, b, train[0])
    matching = match_layerwise(spec, a, b, similarity="covariance", moments=moments)
    return linear_error(apply, a, permute(spec, matching.permutations, b), test[0])


def _run(size: Size, folder: Path, tell: Callable[[str], None]) -> xr.Dataset:
    options = dict(_SIZES[size])
    dataset = load_dataset(options.pop("dataset"))
    dimensions = options.pop("dimensions")
    sweep = Sweep(learning_rates=0.01, matchings=(), num_points=2, keep_networks=True, **options)
    cells = {}
    for dimension in dimensions:
        projected, place = leading_components(dataset, dimension), folder / f"{dimension}"
        train_sweep(sweep, projected, place, tell)
        for layers in sweep.num_hidden_layers:
            for width in sweep.widths:
                found = measure_pairs(
                    place, projected, _measure, width=width, num_hidden_layers=layers
                )
                relative = np.sqrt(found["squared_error"] / found["squared_output"])
                cells[dimension, layers, width] = {
                    "error": relative,
                    "squared_output": found["squared_output"],
                }
        tell(f"input_dimension: {dimension} components measured")
        jax.clear_caches() if size == "full" else None
    results = stack_cells(cells, ("dimension", "depth", "width"))
    results["error"].attrs.update(
        units="1", long_name="root mean squared error over that of the outputs, max over t"
    )
    results["squared_output"].attrs.update(units="1", long_name="mean squared norm of the outputs")
    return results.assign_attrs(dataset=dataset.name)


def _errors(results: xr.Dataset, depth: int) -> np.ndarray:
    """`[pairs, dimensions, widths]`."""
    return results["error"].sel(depth=depth).transpose("pair", "dimension", "width").values


def joint_exponents(results: xr.Dataset, errors: np.ndarray) -> tuple[float, float]:
    """a and s of `error = C d^a width^-s`, by least squares in logarithms, to means over pairs."""
    logs = np.log(errors).mean(0)
    a = slopes(np.log(results["dimension"].values), logs.mean(1))
    return float(a), -float(slopes(np.log(results["width"].values), logs.mean(0)))


def _needed_in_error(results: xr.Dataset) -> Estimate:
    """Of the width, the exponent of eps: `-1 / s`."""
    return bootstrap_estimate(
        lambda errors: -1 / joint_exponents(results, errors)[1], _errors(results, 1)
    )


def _needed_in_dimension(results: xr.Dataset, depth: int) -> Estimate:
    """Of the width, the exponent of d: `a / s`."""
    if depth not in results["depth"].values:
        return Estimate(np.nan, np.nan, np.nan, 0)

    def ratio(errors: np.ndarray) -> float:
        a, s = joint_exponents(results, errors)
        return a / s

    return bootstrap_estimate(ratio, _errors(results, depth))


def _rates(results: xr.Dataset, errors: np.ndarray) -> np.ndarray:
    """s of `error = C width^-s`, by dimension, means over pairs."""
    return -exponents(results["width"].values, errors).mean(0)


def _rate_in_dimension(results: xr.Dataset, depth: int, logarithmic: bool) -> Estimate:
    dimensions = results["dimension"].values

    def change(errors: np.ndarray) -> float:
        rates = _rates(results, errors)
        return float(
            exponents(dimensions, rates) if logarithmic else slopes(np.log2(dimensions), rates)
        )

    return bootstrap_estimate(change, _errors(results, depth))


def _claims() -> tuple[Claim, ...]:
    infinity = float("inf")
    fit = "through error = C d^a width^-s"
    return (
        Claim(
            "Width O(sqrt(d) / eps) connects two-layer networks: the width needed is inverse to the error.",
            "summary, Key Results", f"one hidden layer: exponent of eps in the width needed, {fit}",
            (-1.25, -0.75), _needed_in_error,
            "A quarter to either side of -1; eps is the relative root mean squared error.",
        ),
        Claim(
            "Width O(sqrt(d) / eps) connects two-layer networks: the width needed grows like the root of the "
            "dimension.",
            "summary, Key Results", f"one hidden layer: exponent of d in the width needed, {fit}",
            (0.25, 0.75), functools.partial(_needed_in_dimension, depth=1), "A quarter to either side of 1/2.",
        ),
        *(
            Claim(
                f"Networks with {k} hidden layer{'s' * (k > 1)} need width O(d^{k}).",
                "summary, Key Results", f"{k} hidden layer{'s' * (k > 1)}: exponent of d in the width needed, {fit}",
                (0.75 * k, 1.25 * k), functools.partial(_needed_in_dimension, depth=k),
                f"A quarter to either side of {k}.",
            )
            for k in (1, 2, 3)
        ),
        Claim(
            "The more dimensions the inputs have, the slower the error falls with the width.",
            "paper, Theorem 5.2", "one hidden layer: change of s in error = C width^-s per doubling of d",
            (-infinity, 0.0), functools.partial(_rate_in_dimension, depth=1, logarithmic=False),
            "Width eps^-d is error width^(-1/d): the exponent falls with d. By the summary d is a factor, and s the "
            "same for all.",
        ),
        Claim(
            "The exponent of the width in the error is inverse to the dimension of the inputs.",
            "paper, Theorems 5.2 and 5.3", "one hidden layer: power of d that s in error = C width^-s follows",
            (-1.25, -0.75), functools.partial(_rate_in_dimension, depth=1, logarithmic=True),
            "s = 1/d, or 2/d where errors are of second order; a quarter to either side of the power -1.",
        ),
        *(
            Claim(
                "Also with more layers the error falls the slower, the more dimensions the inputs have.",
                "paper, Theorem 5.2", f"{k} hidden layers: change of s in error = C width^-s per doubling of d",
                (-infinity, 0.0), functools.partial(_rate_in_dimension_if, depth=k),
            )
            for k in (2, 3)
        ),
    )  # fmt: skip


def _rate_in_dimension_if(results: xr.Dataset, depth: int) -> Estimate:
    if depth not in results["depth"].values:
        return Estimate(np.nan, np.nan, np.nan, 0)
    return _rate_in_dimension(results, depth, logarithmic=False)


def _draw(results: xr.Dataset) -> Figure:
    figure = Figure(figsize=(15, 4.4), layout="constrained")
    panels = figure.subplots(1, 3)
    widths, dimensions, depths = (results[name].values for name in ("width", "dimension", "depth"))
    first = int(depths[0])
    for dimension, shade in zip(dimensions, np.linspace(0.25, 1, len(dimensions)), strict=True):
        mean = (
            results["error"].sel(depth=first, dimension=dimension).reduce(stats.gmean, dim="pair")
        )
        panels[0].plot(
            widths,
            mean,
            "o-",
            color=COLOURS["covariance"],
            alpha=shade,
            label=f"d = {dimension}",
            markersize=4,
        )
    top = float(np.exp(np.log(results["error"].sel(depth=first)).mean()))
    for power, label in (
        (-1.0, "summary: -1"),
        (-1 / dimensions[-1], f"paper: -1/{dimensions[-1]}"),
    ):
        panels[0].plot(
            widths, top * (widths / widths[0]) ** power, "--", color="black", linewidth=1
        )
        label_end(panels[0], label, float(widths[-1]), top * (widths[-1] / widths[0]) ** power)
    panels[0].set(
        xscale="log",
        yscale="log",
        title=f"{first} hidden layer",
        xlabel="width",
        ylabel="relative error",
    )
    colours = [COLOURS[name] for name in ("weights", "covariance", "activations")]
    for depth, colour in zip(depths, colours, strict=False):
        errors = _errors(results, int(depth))
        label = f"{depth} hidden layer{'s' * int(depth > 1)}"
        wide = np.exp(np.log(errors[:, :, -1]).mean(0))
        panels[1].plot(dimensions, wide, "o-", color=colour, label=label)
        panels[2].plot(dimensions, _rates(results, errors), "o-", color=colour, label=label)
    panels[1].set(
        xscale="log",
        yscale="log",
        title=f"Width {widths[-1]}",
        xlabel="input dimension d",
        ylabel="relative error",
    )
    panels[2].plot(dimensions, 1 / dimensions, "--", color="black", label="paper, 1/d")
    panels[2].plot(dimensions, 2 / dimensions, "-.", color="black", label="second order, 2/d")
    panels[2].axhline(1, color="grey", linestyle=":", label="summary, 1")
    panels[2].set(
        xscale="log",
        title="How fast errors fall",
        xlabel="input dimension d",
        ylabel="s in error = C width$^{-s}$",
    )
    number_ticks(panels[0], widths)
    plain_log_ticks(panels[0])
    plain_log_ticks(panels[1])
    for axes in panels:
        axes.legend(frameon=False, fontsize=8)
        tidy(axes)
    for axes in panels[1:]:
        number_ticks(axes, dimensions)
    figure.suptitle(
        f"{results.attrs['dataset']}, {results.sizes['pair']} pairs, matched by covariance",
        fontsize=10,
    )
    return figure


EXPERIMENT = Experiment(
    "input_dimension",
    "Width against input dimension",
    "The 8 x 8 digits (full: Fashion-MNIST) are projected to their d leading principal components, d = 2, 4, ..., 64, "
    "and "
    "ReLU MLPs with 1, 2 and 3 hidden layers of 16 to 256 neurons are trained on them, 8 networks, so 4 pairs, of each "
    "shape and d. "
    "Pairs are matched by covariance, which does not see weights of inputs that are always 0. The error is the largest "
    "root mean squared "
    "distance, over 11 points of the line, between the outputs and the line between the outputs, over the root mean "
    "squared outputs. "
    "Fitting error = C d^a width^-s says that an error eps needs a width like d^(a/s) eps^(-1/s), whether or not that "
    "width was run.",
    _run,
    _claims(),
    _draw,
)
