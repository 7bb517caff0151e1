"""How fast two clouds of neurons come to resemble each other."""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmcjax.experiments.claims._claim import Claim, Estimate, Experiment, Size
from lmcjax.experiments.claims._clouds import Law, direction_costs, fitted_range
from lmcjax.experiments.claims._estimates import (
    bootstrap_estimate,
    difference,
    exponent_estimate,
    within_a_quarter,
)
from lmcjax.plots import PALETTE, tidy
from lmcjax.theory import empirical_wasserstein_rate

_LAWS: tuple[Law, ...] = ("gaussian", "uniform")
_DIMS = (1, 2, 3, 5, 8)
_SIZES = {  # numbers of points, draws
    "tiny": ((8, 16, 32), 6),
    "small": ((32, 64, 128, 256, 512, 1024), 16),
    "full": ((32, 64, 128, 256, 512, 1024, 2048, 4096), 64),
}
_BOUND = "paper, from Fournier and Guillin (2015), Theorem 1"


def run(size: Size, folder: Path, tell: Callable[[str], None]) -> xr.Dataset:
    """Squared distances `W_2^2` of every draw."""
    sizes, draws = _SIZES[size]
    costs = np.empty((len(_LAWS), len(_DIMS), draws, len(sizes)), np.float32)
    for (i, law), (j, dim) in itertools.product(enumerate(_LAWS), enumerate(_DIMS)):
        tell(f"  {law}, d = {dim}")
        scale = np.arange(max(_DIMS)) < dim
        for k, n in enumerate(sizes):
            costs[i, j, :, k] = direction_costs((1, i, dim, n), scale, n, draws, law).sum(1)
    return xr.Dataset(
        {"cost": (("law", "dim", "draw", "n"), costs, {"units": "squared unit of the points"})},
        coords={"law": list(_LAWS), "dim": list(_DIMS), "n": list(sizes)},
    )


def exponent(results: xr.Dataset, law: str, dim: int) -> Estimate:
    """Of n in the mean cost of a law."""
    fitted = fitted_range(results).sel(law=law, dim=dim)
    return exponent_estimate(fitted.n.values, fitted["cost"].transpose("draw", "n").values)


def _slowest_below_four(results: xr.Dataset) -> Estimate:
    """The largest of six exponents: two laws, three dimensions."""
    fitted = fitted_range(results).sel(dim=[1, 2, 3])
    log_n = np.log(fitted.n.values)

    def slowest(costs: np.ndarray) -> float:
        logs = np.log(costs.mean(0)).reshape(-1, len(log_n))
        return float(np.polyfit(log_n, logs.T, 1)[0].max())

    return bootstrap_estimate(slowest, fitted["cost"].transpose("draw", "law", "dim", "n").values)


def _reading(
    law: str, dim: int, value: float, holds: tuple[float, float], source: str, name: str, why: str
) -> Claim:
    title = {"gaussian": "Gaussian", "uniform": "uniform"}[law]
    return Claim(
        f"Two samples of n points of a {title} law in d = {dim}: E W_2^2 falls like n^{value:.3g}, {name}.",
        source,
        f"exponent of n, {title}, d = {dim}",
        holds,
        functools.partial(exponent, law=law, dim=dim),
        why,
    )


_HALF_WAY = "Nearer to this rate than to the other reading: the limits are half-way between the two, and as far beyond."
_QUARTER = "Within 25 %: the fit is of a finite range."


_SMOOTH = {
    1: "Bobkov and Ledoux (2019)",
    2: "Ledoux (2019)",
    3: "Talagrand (1994), Ledoux and Zhu (2021)",
}


def _claims() -> list[Claim]:
    found = []
    for law in _LAWS:
        for dim in (1, 2, 3):
            usual = float(empirical_wasserstein_rate(1.0, float(dim)).smooth_exponent)
            half = (-0.5 - usual) / 2
            worst = "the bound of Fournier and Guillin as if it were attained"
            found.append(
                _reading(law, dim, -0.5, (-0.5 - half, -0.5 + half), _BOUND, worst, _HALF_WAY)
            )
            source = f"summary, Mechanism 1; {_SMOOTH[dim]}" if dim < 3 else _SMOOTH[dim]
            name = "the rate of smooth densities"
            found.append(
                _reading(law, dim, usual, (usual - half, usual + half), source, name, _HALF_WAY)
            )
        for dim in (5, 8):
            rate = -2 / dim
            name = "the rate of Fournier and Guillin and of smooth densities"
            found.append(_reading(law, dim, rate, within_a_quarter(rate), _BOUND, name, _QUARTER))
    name = "so that W_2 itself is inversely proportional to the square root of the width"
    why = "Within 25 % of -1. In one and two dimensions this is the rate of smooth densities, tested above."
    found += [
        _reading("gaussian", dim, -1.0, within_a_quarter(-1.0), "summary, Mechanism 1", name, why)
        for dim in (3, 5, 8)
    ]
    return found


def _faster(results: xr.Dataset) -> Estimate:
    return difference(exponent(results, "gaussian", 3), exponent(results, "gaussian", 8))


def _sub_gaussian(results: xr.Dataset, dim: int) -> Estimate:
    return difference(exponent(results, "uniform", dim), exponent(results, "gaussian", dim))


CLAIMS = (
    *_claims(),
    Claim(
        "Below four dimensions E W_2^2 falls at least as fast as n^(-1/2), whatever the law.",
        _BOUND,
        "largest exponent of n of two laws in d = 1, 2, 3",
        (-np.inf, -0.5),
        _slowest_below_four,
        "A bound's constant is not known, so only its exponent is tested.",
    ),
    Claim(
        "A lower dimension improves the Wasserstein rate.",
        "summary, Mechanism 2",
        "exponent at d = 3 minus exponent at d = 8, Gaussian",
        (-np.inf, 0.0),
        _faster,
    ),
    Claim(
        "From d = 8 to d = 3 the rate improves by as much as -2/d says.",
        _BOUND,
        "exponent at d = 3 minus exponent at d = 8, Gaussian",
        within_a_quarter(-2 / 3 + 2 / 8),
        _faster,
        "-2/3 + 2/8 = -0.417, within 25 %.",
    ),
    *(
        Claim(
            f"Independent sub-Gaussian coordinates have the rate of Gaussian ones, d = {dim}.",
            "paper, Theorem 5.5",
            f"exponent of n, uniform minus Gaussian, d = {dim}",
            (-0.5 / dim, 0.5 / dim),
            functools.partial(_sub_gaussian, dim=dim),
            "Apart by at most a quarter of 2/d.",
        )
        for dim in (5, 8)
    ),
)


def draw(results: xr.Dataset) -> Figure:
    """Costs by n, and the exponents by dimension, with the theory dashed."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    for axes, law in zip((left, middle), _LAWS, strict=True):
        _draw_costs(axes, results.sel(law=law), law)
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
        costs = results["cost"].sel(dim=dim)
        mean, error = (
            costs.mean("draw").values,
            costs.std("draw", ddof=1).values / results.sizes["draw"] ** 0.5,
        )
        axes.errorbar(
            n,
            mean,
            2 * error,
            color=colour,
            marker="o",
            markersize=4,
            linestyle="",
            label=f"d = {dim}",
        )
        rate = float(empirical_wasserstein_rate(1.0, float(dim)).smooth_exponent)
        axes.plot(n, mean[-1] * (n / n[-1]) ** rate, "--", color=colour, linewidth=1)
    axes.plot([], [], "k--", linewidth=1, label="$n^{-1}$, $n^{-2/d}$")
    axes.set_ylim(bottom=axes.get_ylim()[0] / 5)  # room for the legend
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower left")


def _draw_exponents(axes: Axes, results: xr.Dataset) -> None:
    axes.set(xlabel="dimension d", ylabel="exponent of n in E $W_2^2$", title="which rate?")
    grid = np.linspace(1, 8.3, 200)
    theory = [empirical_wasserstein_rate(1.0, d) for d in grid]
    axes.plot(grid, [float(t.smooth_exponent) for t in theory], "k--", label="smooth densities")
    axes.plot(
        grid, [float(t.upper_exponent) for t in theory], "k:", label="Fournier and Guillin, any law"
    )
    axes.axhline(-1, color="#CC79A7", linestyle="-.", label="summary: $W_2$ like $n^{-1/2}$")
    for law, colour, shift in (("gaussian", "#0072B2", -0.08), ("uniform", "#D55E00", 0.08)):
        found = [exponent(results, law, int(d)) for d in results.dim.values]
        bars = [[f.value - f.low for f in found], [f.high - f.value for f in found]]
        axes.errorbar(
            results.dim.values + shift,
            [f.value for f in found],
            bars,
            fmt="o",
            color=colour,
            capsize=3,
            label=law,
        )
    axes.legend(frameon=False, fontsize=8)


EXPERIMENT = Experiment(
    "rates",
    "Convergence of empirical measures",
    "Two samples of n points each, drawn from one law, standard Gaussian or uniform on the cube, in 1, 2, 3, 5 and 8"
    " dimensions; their squared Wasserstein distance W_2^2, which is the matching error per neuron, by exact "
    "assignment. Small: n from 32 to 1,024 (fitted from 64 on) and 16 draws of each; full: to 4,096 and 64 draws. "
    "Exponents are fitted to the means by weighted least squares in logarithms; logarithmic factors are not part of "
    "the fit.",
    run,
    CLAIMS,
    draw,
)
