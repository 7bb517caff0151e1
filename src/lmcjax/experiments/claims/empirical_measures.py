"""How fast two clouds of neurons come to resemble each other."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmcjax.experiments.claims._claim import Claim, Estimate, Limits, at_most, within_a_quarter
from lmcjax.experiments.claims._clouds import CoordinateLaw, direction_costs, fitted_range
from lmcjax.experiments.claims._estimates import bootstrap_estimate, difference
from lmcjax.experiments.claims._experiment import Experiment, Size, Tell
from lmcjax.experiments.claims._fits import exponent_estimate, exponents
from lmcjax.results import PALETTE, tidy
from lmcjax.theory import empirical_wasserstein_rate


class SampleGrid(NamedTuple):
    """The samples that are matched, in each dimension and of each law."""

    num_points: tuple[int, ...]
    draws: int  # pairs of samples of each kind


SIZES: dict[Size, SampleGrid] = {
    "tiny": SampleGrid((8, 16, 32), 6),
    "small": SampleGrid((32, 64, 128, 256, 512, 1024), 16),
    "full": SampleGrid((32, 64, 128, 256, 512, 1024, 2048, 4096), 64),
}

_LAWS: tuple[CoordinateLaw, ...] = ("gaussian", "uniform")
_DIMS = (1, 2, 3, 5, 8)


def measure(grid: SampleGrid, folder: Path, tell: Tell) -> xr.Dataset:
    """Squared distances `W_2^2` of every draw."""
    costs = np.empty((len(_LAWS), len(_DIMS), grid.draws, len(grid.num_points)), np.float32)
    for i, law in enumerate(_LAWS):
        for j, dim in enumerate(_DIMS):
            tell(f"  {law}, d = {dim}")
            scale = np.arange(max(_DIMS)) < dim
            for k, n in enumerate(grid.num_points):
                seed = (1, i, dim, n)
                by_direction = direction_costs(seed, scale, n, grid.draws, law)
                costs[i, j, :, k] = by_direction.sum(1)
    return xr.Dataset(
        {"cost": (("law", "dim", "draw", "n"), costs, {"units": "squared unit of the points"})},
        coords={"law": list(_LAWS), "dim": list(_DIMS), "n": list(grid.num_points)},
    )


def _exponent(results: xr.Dataset, law: str, dim: int) -> Estimate:
    """The exponent of n in the mean cost of a law."""
    fitted = fitted_range(results).sel(law=law, dim=dim)
    return exponent_estimate(fitted.n.values, fitted["cost"].transpose("draw", "n").values)


def _slowest_below_four(results: xr.Dataset) -> Estimate:
    """The largest of six exponents: two laws, three dimensions."""
    fitted = fitted_range(results).sel(dim=[1, 2, 3])
    n = fitted.n.values

    def largest_exponent(costs: np.ndarray) -> float:
        return float(exponents(n, costs.mean(0)).max())

    costs = fitted["cost"].transpose("draw", "law", "dim", "n").values
    return bootstrap_estimate(largest_exponent, costs)


def _gain_of_low_dimension(results: xr.Dataset) -> Estimate:
    """The exponent in 3 dimensions less that in 8."""
    low = _exponent(results, "gaussian", 3)
    high = _exponent(results, "gaussian", 8)
    return difference(low, high)


def _uniform_minus_gaussian(results: xr.Dataset, dim: int) -> Estimate:
    """The exponent of the uniform law less that of the Gaussian one."""
    uniform = _exponent(results, "uniform", dim)
    gaussian = _exponent(results, "gaussian", dim)
    return difference(uniform, gaussian)


_BOUND = "paper, from Fournier and Guillin (2015), Theorem 1"
_BOUND_EXPONENT = -0.5  # below four dimensions
_HALF_WAY = (
    "Nearer to this rate than to the other reading: the limits are half-way between the two, and "
    "as far beyond."
)
_QUARTER = "Within 25 %: the fit is of a finite range."


class SmoothRate(NamedTuple):
    """How E W_2^2 of a smooth density falls in one dimension, and who says so."""

    exponent: float
    source: str


_SMOOTH_RATES = {  # by dimension
    1: SmoothRate(-1.0, "summary, Mechanism 1; Bobkov and Ledoux (2019)"),
    2: SmoothRate(-1.0, "summary, Mechanism 1; Ledoux (2019)"),
    3: SmoothRate(-2 / 3, "Talagrand (1994), Ledoux and Zhu (2021)"),
}


def _rate_claim(
    law: CoordinateLaw,
    dim: int,
    exponent: float,
    reading: str,
    limits: Limits,
    source: str,
    why: str,
) -> Claim:
    """That E W_2^2 falls with an exponent; the reading says whose."""
    title = {"gaussian": "Gaussian", "uniform": "uniform"}[law]
    return Claim(
        f"Two samples of n points of a {title} law in d = {dim}: E W_2^2 falls like "
        f"n^{exponent:.3g}, {reading}.",
        source,
        f"exponent of n, {title}, d = {dim}",
        limits,
        functools.partial(_exponent, law=law, dim=dim),
        why,
    )


def _two_readings(law: CoordinateLaw, dim: int) -> tuple[Claim, Claim]:
    """Below four dimensions the bound and the usual rate differ: a claim for each."""
    smooth = _SMOOTH_RATES[dim]
    half = abs(_BOUND_EXPONENT - smooth.exponent) / 2
    attained_bound = _rate_claim(
        law,
        dim,
        _BOUND_EXPONENT,
        "the bound of Fournier and Guillin as if it were attained",
        Limits(_BOUND_EXPONENT - half, _BOUND_EXPONENT + half),
        _BOUND,
        _HALF_WAY,
    )
    usual = _rate_claim(
        law,
        dim,
        smooth.exponent,
        "the rate of smooth densities",
        Limits(smooth.exponent - half, smooth.exponent + half),
        smooth.source,
        _HALF_WAY,
    )
    return attained_bound, usual


def _common_reading(law: CoordinateLaw, dim: int) -> Claim:
    """Above four dimensions the bound is the usual rate."""
    exponent = -2 / dim
    reading = "the rate of Fournier and Guillin and of smooth densities"
    return _rate_claim(law, dim, exponent, reading, within_a_quarter(exponent), _BOUND, _QUARTER)


def _square_root_reading(dim: int) -> Claim:
    return _rate_claim(
        "gaussian",
        dim,
        -1.0,
        "so that W_2 itself is inversely proportional to the square root of the width",
        within_a_quarter(-1.0),
        "summary, Mechanism 1",
        "Within 25 % of -1. In one and two dimensions this is the rate of smooth densities, tested "
        "above.",
    )


def _sub_gaussian_claim(dim: int) -> Claim:
    return Claim(
        f"Independent sub-Gaussian coordinates have the rate of Gaussian ones, d = {dim}.",
        "paper, Theorem 5.5",
        f"exponent of n, uniform minus Gaussian, d = {dim}",
        Limits(-0.5 / dim, 0.5 / dim),
        functools.partial(_uniform_minus_gaussian, dim=dim),
        "Apart by at most a quarter of 2/d.",
    )


CLAIMS = (
    *_two_readings("gaussian", 1),
    *_two_readings("gaussian", 2),
    *_two_readings("gaussian", 3),
    _common_reading("gaussian", 5),
    _common_reading("gaussian", 8),
    *_two_readings("uniform", 1),
    *_two_readings("uniform", 2),
    *_two_readings("uniform", 3),
    _common_reading("uniform", 5),
    _common_reading("uniform", 8),
    _square_root_reading(3),
    _square_root_reading(5),
    _square_root_reading(8),
    Claim(
        "Below four dimensions E W_2^2 falls at least as fast as n^(-1/2), whatever the law.",
        _BOUND,
        "largest exponent of n of two laws in d = 1, 2, 3",
        at_most(_BOUND_EXPONENT),
        _slowest_below_four,
        "A bound's constant is not known, so only its exponent is tested.",
    ),
    Claim(
        "A lower dimension improves the Wasserstein rate.",
        "summary, Mechanism 2",
        "exponent at d = 3 minus exponent at d = 8, Gaussian",
        at_most(0.0),
        _gain_of_low_dimension,
    ),
    Claim(
        "From d = 8 to d = 3 the rate improves by as much as -2/d says.",
        _BOUND,
        "exponent at d = 3 minus exponent at d = 8, Gaussian",
        within_a_quarter(-2 / 3 + 2 / 8),
        _gain_of_low_dimension,
        "-2/3 + 2/8 = -0.417, within 25 %.",
    ),
    _sub_gaussian_claim(5),
    _sub_gaussian_claim(8),
)


def draw(results: xr.Dataset) -> Figure:
    """Costs by n, and the exponents by dimension, with the theory dashed."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    _draw_costs(left, results, "gaussian")
    _draw_costs(middle, results, "uniform")
    _draw_exponents(right, results)
    for axes in (left, middle, right):
        tidy(axes)
    return figure


def _draw_costs(axes: Axes, results: xr.Dataset, law: str) -> None:
    axes.set(
        xscale="log", yscale="log", xlabel="n, points per sample", ylabel="mean $W_2^2$", title=law
    )
    n = results.n.values.astype(float)
    for dim, colour in zip(results.dim.values, PALETTE[1:], strict=False):
        costs = results["cost"].sel(law=law, dim=dim)
        mean = costs.mean("draw").values
        error = costs.std("draw", ddof=1).values / results.sizes["draw"] ** 0.5
        label = f"d = {dim}"
        axes.errorbar(
            n, mean, 2 * error, color=colour, marker="o", markersize=4, linestyle="", label=label
        )
        rate = float(empirical_wasserstein_rate(1.0, float(dim)).smooth_exponent)
        theory = mean[-1] * (n / n[-1]) ** rate
        axes.plot(n, theory, "--", color=colour, linewidth=1)
    axes.plot([], [], "k--", linewidth=1, label="$n^{-1}$, $n^{-2/d}$")
    axes.set_ylim(bottom=axes.get_ylim()[0] / 5)  # room for the legend
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower left")


def _draw_exponents(axes: Axes, results: xr.Dataset) -> None:
    axes.set(xlabel="dimension d", ylabel="exponent of n in E $W_2^2$", title="which rate?")
    grid = np.linspace(1, 8.3, 200)
    rates = [empirical_wasserstein_rate(1.0, dim) for dim in grid]
    smooth = [float(rate.smooth_exponent) for rate in rates]
    upper = [float(rate.upper_exponent) for rate in rates]
    axes.plot(grid, smooth, "k--", label="smooth densities")
    axes.plot(grid, upper, "k:", label="Fournier and Guillin, any law")
    axes.axhline(-1, color="#CC79A7", linestyle="-.", label="summary: $W_2$ like $n^{-1/2}$")
    _draw_estimates(axes, results, "gaussian", "#0072B2", shift=-0.08)
    _draw_estimates(axes, results, "uniform", "#D55E00", shift=0.08)
    axes.legend(frameon=False, fontsize=8)


def _draw_estimates(axes: Axes, results: xr.Dataset, law: str, colour: str, shift: float) -> None:
    """Measured exponents with their intervals; the shift sets the laws side by side."""
    dims = results.dim.values
    values = []
    below = []
    above = []
    for dim in dims:
        estimate = _exponent(results, law, int(dim))
        values.append(estimate.value)
        below.append(estimate.value - estimate.low)
        above.append(estimate.high - estimate.value)
    axes.errorbar(dims + shift, values, [below, above], fmt="o", color=colour, capsize=3, label=law)


EXPERIMENT = Experiment(
    name="rates",
    title="Convergence of empirical measures",
    about="Two samples of n points each, drawn from one law, standard Gaussian or uniform on the "
    "cube, in 1, 2, 3, 5 and 8 dimensions; their squared Wasserstein distance W_2^2, which is the "
    "matching error per neuron, by exact assignment. Small: n from 32 to 1,024 (fitted from 64 on) "
    "and 16 draws of each; full: to 4,096 and 64 draws. Exponents are fitted to the means by "
    "weighted least squares in logarithms; logarithmic factors are not part of the fit.",
    sizes=SIZES,
    measure=measure,
    claims=CLAIMS,
    draw=draw,
)
