"""How wide networks have to be for linear mode connectivity, by the dimension of their inputs."""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from lmcjax.data import Dataset, Samples, load_dataset
from lmcjax.experiments.claims._claim import Claim, Estimate, Limits, at_most, within_a_quarter
from lmcjax.experiments.claims._drawing import label_end, number_ticks
from lmcjax.experiments.claims._estimates import bootstrap_estimate, no_estimate
from lmcjax.experiments.claims._experiment import Experiment, Size, Tell
from lmcjax.experiments.claims._fits import exponents, slopes
from lmcjax.experiments.claims._runs import (
    Measurements,
    TrainedPair,
    linear_error,
    measure_pairs,
    stack_cells,
    train_sweep,
)
from lmcjax.matching import Covariance, match_layerwise
from lmcjax.results import COLOURS, plain_log_ticks, tidy
from lmcjax.statistics import activation_moments
from lmcjax.sweep import Sweep
from lmcjax.symmetry import permute


class ComponentGrid(NamedTuple):
    """What is trained, on how many principal components of which data."""

    dataset: str  # as `load_dataset` names it
    dimensions: tuple[int, ...]
    sweep: Sweep  # at each dimension
    clear_caches: bool = False  # between dimensions: many large programs fill a GPU's memory


_SMALL = Sweep(
    seeds=range(8),
    widths=(16, 32, 64, 128, 256),
    num_hidden_layers=(1, 2, 3),
    learning_rates=0.01,
    matchings=(),
    num_points=2,
    epochs=20,
    keep_networks=True,
)
_TINY = dataclasses.replace(
    _SMALL, seeds=range(4), widths=(8, 16), num_hidden_layers=(1,), epochs=1
)
_FULL = dataclasses.replace(_SMALL, seeds=range(16), widths=(16, 32, 64, 128, 256, 512, 1024))
SIZES: dict[Size, ComponentGrid] = {
    "tiny": ComponentGrid("digits", (2, 64), _TINY),
    "small": ComponentGrid("digits", (2, 4, 8, 16, 32, 64), _SMALL),
    "full": ComponentGrid(
        "fashion-mnist", (2, 4, 8, 16, 32, 64, 128, 256), _FULL, clear_caches=True
    ),
}


def leading_components(dataset: Dataset, count: int) -> Dataset:
    """The images in coordinates of the training images' leading principal components.

    All other coordinates are 0. The images keep their shape, so that all counts share compiled
    programs. Their mean squared norm is the number of pixels, so that the leading coordinates have
    mean square pixels / count.

    Raises:
        ValueError: a count of no component, or of more than there are.
    """
    train = _flat_inputs(dataset.train)
    test = _flat_inputs(dataset.test)
    mean = train.mean(0)
    _, _, directions = np.linalg.svd(train - mean, full_matrices=False)
    if not 1 <= count <= len(directions):
        raise ValueError(f"{dataset.name} has {len(directions)} principal components, not {count}")
    train_scores = (train - mean) @ directions.T
    test_scores = (test - mean) @ directions.T
    squared_norm = (train_scores[:, :count] ** 2).sum(1).mean()
    num_pixels = train.shape[1]
    scale = np.sqrt(num_pixels / squared_norm)
    return Dataset(
        f"{dataset.name}, {count} components",
        _with_coordinates(dataset.train, scale * train_scores[:, :count]),
        _with_coordinates(dataset.test, scale * test_scores[:, :count]),
        dataset.num_classes,
    )


def _flat_inputs(samples: Samples) -> np.ndarray:
    """Images as rows `[num_samples, pixels]`, in float64."""
    return samples.inputs.reshape(len(samples.inputs), -1).astype(np.float64)


def _with_coordinates(samples: Samples, coordinates: np.ndarray) -> Samples:
    """Samples whose inputs are the coordinates `[num_samples, count]`, then zeros."""
    shape = samples.inputs.shape
    flat = np.zeros(shape, np.float32).reshape(shape[0], -1)
    flat[:, : coordinates.shape[1]] = coordinates
    return samples._replace(inputs=flat.reshape(shape))


def measure(grid: ComponentGrid, folder: Path, tell: Tell) -> xr.Dataset:
    """The error of the linear connection of every pair, at every dimension, depth and width."""
    dataset = load_dataset(grid.dataset)
    cells = {}
    for dimension in grid.dimensions:
        projected = leading_components(dataset, dimension)
        sweep_folder = folder / f"{dimension}"
        train_sweep(grid.sweep, projected, sweep_folder, tell)
        for depth in grid.sweep.num_hidden_layers:
            for width in grid.sweep.widths:
                cells[dimension, depth, width] = measure_pairs(
                    sweep_folder, projected, _measure_pair, width=width, num_hidden_layers=depth
                )
        tell(f"input_dimension: {dimension} components measured")
        if grid.clear_caches:
            jax.clear_caches()

    found = stack_cells(cells, ("dimension", "depth", "width"))
    error = (found["squared_error"] / found["squared_output"]) ** 0.5
    error_name = "root mean squared error over that of the outputs, max over t"
    results = xr.Dataset(
        {
            "error": error.assign_attrs(units="1", long_name=error_name),
            "squared_output": found["squared_output"].assign_attrs(
                units="1", long_name="mean squared norm of the outputs"
            ),
        }
    )
    return results.assign_attrs(dataset=dataset.name)


def _measure_pair(pair: TrainedPair) -> Measurements:
    """The error of a pair that is matched by covariance.

    Covariance matching is blind to the weights of inputs that are always 0.
    """
    train_inputs, _ = pair.train
    test_inputs, _ = pair.test
    moments = activation_moments(pair.apply, pair.spec, pair.params_a, pair.params_b, train_inputs)
    matching = match_layerwise(
        pair.spec, pair.params_a, pair.params_b, similarity=Covariance(moments)
    )
    aligned = permute(pair.spec, matching.permutations, pair.params_b)
    return linear_error(pair.apply, pair.params_a, aligned, test_inputs)


def _errors(results: xr.Dataset, depth: int) -> np.ndarray:
    """Errors `[pairs, dimensions, widths]`."""
    return results["error"].sel(depth=depth).transpose("pair", "dimension", "width").values


def joint_exponents(results: xr.Dataset, errors: np.ndarray) -> tuple[float, float]:
    """a and s of `error = C d^a width^-s`, by least squares in logarithms, to means over pairs."""
    log_errors = np.log(errors).mean(0)
    # On a full grid the two slopes of a plane are those of its margins
    in_dimension = slopes(np.log(results["dimension"].values), log_errors.mean(1))
    in_width = slopes(np.log(results["width"].values), log_errors.mean(0))
    return float(in_dimension), -float(in_width)


def _width_exponent_of_error(results: xr.Dataset) -> Estimate:
    """The exponent of eps in the needed width, `-1 / s`."""

    def of_pairs(errors: np.ndarray) -> float:
        _, s = joint_exponents(results, errors)
        return -1 / s

    return bootstrap_estimate(of_pairs, _errors(results, 1))


def _width_exponent_of_dimension(results: xr.Dataset, depth: int) -> Estimate:
    """The exponent of d in the needed width, `a / s`."""
    if depth not in results["depth"].values:
        return no_estimate()

    def of_pairs(errors: np.ndarray) -> float:
        a, s = joint_exponents(results, errors)
        return a / s

    return bootstrap_estimate(of_pairs, _errors(results, depth))


def _rates(results: xr.Dataset, errors: np.ndarray) -> np.ndarray:
    """s of `error = C width^-s`, by dimension, means over pairs."""
    return -exponents(results["width"].values, errors).mean(0)


def _rate_change_per_doubling(results: xr.Dataset, depth: int) -> Estimate:
    """How much s of `error = C width^-s` changes where the dimension doubles."""
    if depth not in results["depth"].values:
        return no_estimate()
    log_dimensions = np.log2(results["dimension"].values)

    def of_pairs(errors: np.ndarray) -> float:
        return float(slopes(log_dimensions, _rates(results, errors)))

    return bootstrap_estimate(of_pairs, _errors(results, depth))


def _rate_exponent(results: xr.Dataset) -> Estimate:
    """The power of the dimension that s of `error = C width^-s` follows."""
    dimensions = results["dimension"].values

    def of_pairs(errors: np.ndarray) -> float:
        return float(exponents(dimensions, _rates(results, errors)))

    return bootstrap_estimate(of_pairs, _errors(results, 1))


_FIT = "through error = C d^a width^-s"


def _power_of_depth_claim(depth: int) -> Claim:
    layers = _layers(depth)
    return Claim(
        f"Networks with {layers} need width O(d^{depth}).",
        "summary, Key Results",
        f"{layers}: exponent of d in the width needed, {_FIT}",
        within_a_quarter(float(depth)),
        functools.partial(_width_exponent_of_dimension, depth=depth),
        f"A quarter to either side of {depth}.",
    )


def _deeper_rate_claim(depth: int) -> Claim:
    return Claim(
        "Also with more layers the error falls the slower, the more dimensions the inputs have.",
        "paper, Theorem 5.2",
        f"{_layers(depth)}: change of s in error = C width^-s per doubling of d",
        at_most(0.0),
        functools.partial(_rate_change_per_doubling, depth=depth),
    )


def _layers(depth: int) -> str:
    return "1 hidden layer" if depth == 1 else f"{depth} hidden layers"


CLAIMS = (
    Claim(
        "Width O(sqrt(d) / eps) connects two-layer networks: the width needed is inverse to the "
        "error.",
        "summary, Key Results",
        f"one hidden layer: exponent of eps in the width needed, {_FIT}",
        within_a_quarter(-1.0),
        _width_exponent_of_error,
        "A quarter to either side of -1; eps is the relative root mean squared error.",
    ),
    Claim(
        "Width O(sqrt(d) / eps) connects two-layer networks: the width needed grows like the root "
        "of the dimension.",
        "summary, Key Results",
        f"one hidden layer: exponent of d in the width needed, {_FIT}",
        Limits(0.25, 0.75),
        functools.partial(_width_exponent_of_dimension, depth=1),
        "A quarter to either side of 1/2.",
    ),
    _power_of_depth_claim(1),
    _power_of_depth_claim(2),
    _power_of_depth_claim(3),
    Claim(
        "The more dimensions the inputs have, the slower the error falls with the width.",
        "paper, Theorem 5.2",
        "one hidden layer: change of s in error = C width^-s per doubling of d",
        at_most(0.0),
        functools.partial(_rate_change_per_doubling, depth=1),
        "Width eps^-d is error width^(-1/d): the exponent falls with d. By the summary d is a "
        "factor, and s the same for all.",
    ),
    Claim(
        "The exponent of the width in the error is inverse to the dimension of the inputs.",
        "paper, Theorems 5.2 and 5.3",
        "one hidden layer: power of d that s in error = C width^-s follows",
        within_a_quarter(-1.0),
        _rate_exponent,
        "s = 1/d, or 2/d where errors are of second order; a quarter to either side of the power "
        "-1.",
    ),
    _deeper_rate_claim(2),
    _deeper_rate_claim(3),
)


def draw(results: xr.Dataset) -> Figure:
    """Errors by width and by dimension, and the rates at which they fall."""
    figure = Figure(figsize=(15, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_by_width(left, results)
    _draw_by_dimension(middle, results)
    _draw_rates(right, results)
    dimensions = results["dimension"].values
    number_ticks(left, results["width"].values)
    plain_log_ticks(left)
    plain_log_ticks(middle)
    for axes in (left, middle, right):
        axes.legend(frameon=False, fontsize=8)
        tidy(axes)
    number_ticks(middle, dimensions)
    number_ticks(right, dimensions)
    pairs = f"{results.sizes['pair']} pairs"
    figure.suptitle(f"{results.attrs['dataset']}, {pairs}, matched by covariance", fontsize=10)
    return figure


def _draw_by_width(axes: Axes, results: xr.Dataset) -> None:
    widths = results["width"].values
    dimensions = results["dimension"].values
    depth = int(results["depth"][0])
    errors = results["error"].sel(depth=depth)
    shades = np.linspace(0.25, 1, len(dimensions))
    for dimension, shade in zip(dimensions, shades, strict=True):
        mean = errors.sel(dimension=dimension).reduce(stats.gmean, dim="pair")
        axes.plot(
            widths,
            mean,
            "o-",
            color=COLOURS["covariance"],
            alpha=shade,
            label=f"d = {dimension}",
            markersize=4,
        )

    start = float(np.exp(np.log(errors).mean()))
    theories = {"summary: -1": -1.0, f"paper: -1/{dimensions[-1]}": -1 / dimensions[-1]}
    for label, power in theories.items():
        line = start * (widths / widths[0]) ** power
        axes.plot(widths, line, "--", color="black", linewidth=1)
        label_end(axes, label, float(widths[-1]), line[-1])
    axes.set(
        xscale="log",
        yscale="log",
        title=f"{depth} hidden layer",
        xlabel="width",
        ylabel="relative error",
    )


# By depth: the three first colours of the palette of matchings
_DEPTH_COLOURS = (COLOURS["weights"], COLOURS["covariance"], COLOURS["activations"])


def _draw_by_dimension(axes: Axes, results: xr.Dataset) -> None:
    dimensions = results["dimension"].values
    depths = results["depth"].values
    for depth, colour in zip(depths, _DEPTH_COLOURS, strict=False):
        errors_of_widest = _errors(results, int(depth))[:, :, -1]
        mean = np.exp(np.log(errors_of_widest).mean(0))
        axes.plot(dimensions, mean, "o-", color=colour, label=_layers(int(depth)))
    axes.set(
        xscale="log",
        yscale="log",
        title=f"Width {results['width'].values[-1]}",
        xlabel="input dimension d",
        ylabel="relative error",
    )


def _draw_rates(axes: Axes, results: xr.Dataset) -> None:
    dimensions = results["dimension"].values
    depths = results["depth"].values
    for depth, colour in zip(depths, _DEPTH_COLOURS, strict=False):
        rates = _rates(results, _errors(results, int(depth)))
        axes.plot(dimensions, rates, "o-", color=colour, label=_layers(int(depth)))
    axes.plot(dimensions, 1 / dimensions, "--", color="black", label="paper, 1/d")
    axes.plot(dimensions, 2 / dimensions, "-.", color="black", label="second order, 2/d")
    axes.axhline(1, color="grey", linestyle=":", label="summary, 1")
    axes.set(
        xscale="log",
        title="How fast errors fall",
        xlabel="input dimension d",
        ylabel="s in error = C width$^{-s}$",
    )


EXPERIMENT = Experiment(
    name="input_dimension",
    title="Width against input dimension",
    about="The 8 x 8 digits (full: Fashion-MNIST) are projected to their d leading principal "
    "components, d = 2, 4, ..., 64, and ReLU MLPs with 1, 2 and 3 hidden layers of 16 to 256 "
    "neurons are trained on them, 8 networks, so 4 pairs, of each shape and d. Pairs are matched "
    "by covariance, which does not see weights of inputs that are always 0. The error is the "
    "largest root mean squared distance, over 11 points of the line, between the outputs and the "
    "line between the outputs, over the root mean squared outputs. Fitting error = C d^a width^-s "
    "says that an error eps needs a width like d^(a/s) eps^(-1/s), whether or not that width was "
    "run.",
    sizes=SIZES,
    measure=measure,
    claims=CLAIMS,
    draw=draw,
)
