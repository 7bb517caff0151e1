"""How near the best matching of two random layers comes to the bound from below."""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmcjax.experiments.claims._claim import Claim, Estimate, Limits, at_least, within_a_quarter
from lmcjax.experiments.claims._clouds import direction_costs, fitted_range
from lmcjax.experiments.claims._drawing import number_ticks
from lmcjax.experiments.claims._estimates import bootstrap_estimate
from lmcjax.experiments.claims._experiment import Experiment, Size, Tell
from lmcjax.experiments.claims._fits import exponent_estimate
from lmcjax.results import PALETTE, tidy
from lmcjax.theory import gaussian_matching_lower_bound, matching_lower_bound


class LayerGrid(NamedTuple):
    """The layers that are matched: every width in every dimension."""

    widths: tuple[int, ...]
    dims: tuple[int, ...]
    draws: int  # pairs of layers of each shape


SIZES: dict[Size, LayerGrid] = {
    "tiny": LayerGrid((8, 16, 32), (1, 3, 5, 8, 16, 64), 6),
    "small": LayerGrid((16, 32, 64, 128, 256, 512, 1024), (1, 2, 3, 5, 8, 16, 32, 64), 16),
    "full": LayerGrid(
        (16, 32, 64, 128, 256, 512, 1024, 2048, 4096), (1, 2, 3, 5, 8, 16, 32, 64), 64
    ),
}

_BOUNDS = ("density", "differences")
_BOUND_NAMES = {"density": "from the largest density", "differences": "from the law of differences"}


def measure(grid: LayerGrid, folder: Path, tell: Tell) -> xr.Dataset:
    """The matching error per neuron of every draw, and both bounds on its mean."""
    costs = _matching_errors(grid, tell)
    bounds = _lower_bounds(grid)
    unit = {"units": "variance of a weight"}
    return xr.Dataset(
        {
            "cost": (("dim", "draw", "n"), costs, unit),
            "bound": (("kind", "dim", "n"), bounds, unit),
        },
        coords={"dim": list(grid.dims), "n": list(grid.widths), "kind": list(_BOUNDS)},
    )


def _matching_errors(grid: LayerGrid, tell: Tell) -> np.ndarray:
    """Matching errors per neuron `[dims, draws, widths]`."""
    errors = np.empty((len(grid.dims), grid.draws, len(grid.widths)), np.float32)
    for i, dim in enumerate(grid.dims):
        tell(f"  d = {dim}")
        std = _weight_std(grid, dim)
        for j, width in enumerate(grid.widths):
            by_direction = direction_costs((2, dim, width), std, width, grid.draws, "gaussian")
            errors[i, :, j] = by_direction.sum(1)
    return errors


def _lower_bounds(grid: LayerGrid) -> np.ndarray:
    """Both bounds on the mean matching error, `[kinds, dims, widths]`."""
    bound_from_density = jax.jit(matching_lower_bound, static_argnums=1)
    bound_from_differences = jax.jit(gaussian_matching_lower_bound)
    bounds = np.empty((len(_BOUNDS), len(grid.dims), len(grid.widths)), np.float32)
    for i, dim in enumerate(grid.dims):
        largest_log_density = -dim / 2 * math.log(2 * math.pi)
        covariance = np.diag(_weight_std(grid, dim))
        for j, width in enumerate(grid.widths):
            bounds[0, i, j] = bound_from_density(float(width), dim, largest_log_density).error
            bounds[1, i, j] = bound_from_differences(float(width), covariance).error
    return bounds


def _weight_std(grid: LayerGrid, dim: int) -> np.ndarray:
    """1 in `dim` directions, then 0 up to the largest dimension: all share compiled programs."""
    return (np.arange(max(grid.dims)) < dim).astype(np.float32)


def _least_ratio(results: xr.Dataset, kind: str) -> Estimate:
    """The least ratio of mean error to bound, over all widths and dimensions."""
    bound = results["bound"].sel(kind=kind).transpose("dim", "n").values

    def of_draws(costs: np.ndarray) -> float:
        return float((costs.mean(0) / bound).min())

    return bootstrap_estimate(of_draws, results["cost"].transpose("draw", "dim", "n").values)


def _error_exponent(results: xr.Dataset, dim: int) -> Estimate:
    """The exponent of the width in the mean error."""
    fitted = fitted_range(results).sel(dim=dim)
    return exponent_estimate(fitted.n.values, fitted["cost"].transpose("draw", "n").values)


def _ratio_exponent(results: xr.Dataset, dim: int) -> Estimate:
    """The exponent of the width in the ratio of error to the bound from differences."""
    fitted = fitted_range(results).sel(dim=dim)
    ratio = fitted["cost"] / fitted["bound"].sel(kind="differences")
    return exponent_estimate(fitted.n.values, ratio.transpose("draw", "n").values)


def _ratio_at_the_end(results: xr.Dataset, kind: str) -> Estimate:
    """The ratio of mean error to bound in 64 dimensions, at the largest width."""
    last = results.sel(dim=64).isel(n=-1)
    bound = float(last["bound"].sel(kind=kind))

    def of_draws(costs: np.ndarray) -> float:
        return float(costs.mean()) / bound

    return bootstrap_estimate(of_draws, last["cost"].values)


def _validity_claim(kind: str, source: str) -> Claim:
    return Claim(
        f"The lower bound {_BOUND_NAMES[kind]} is never above the mean matching error.",
        source,
        "least ratio of mean error to bound, all widths and dimensions",
        at_least(1.0),
        functools.partial(_least_ratio, kind=kind),
    )


def _exponent_claim(dim: int) -> Claim:
    exponent = -2 / dim
    if dim >= 5:
        source = "paper, Theorem 5.3 with 5.2"
    else:
        source = "paper, Theorem 5.3; 5.2 asks for d >= 5"
    return Claim(
        f"In d = {dim} dimensions the best matching error falls like m^(-2/d) = m^{exponent:.3g} "
        "with the width m.",
        source,
        f"exponent of the width m in the error, d = {dim}",
        within_a_quarter(exponent),
        functools.partial(_error_exponent, dim=dim),
        "Within 25 % of -2/d: the fit is of a finite range.",
    )


def _tightness_claim(dim: int) -> Claim:
    return Claim(
        f"The lower bound is tight in d = {dim}: the ratio of the error to the bound from the law "
        "of differences neither grows nor falls with the width.",
        "paper, Theorem 5.3 (recursion tight); this library's bound",
        f"exponent of the width in error / bound, d = {dim}",
        Limits(-0.5 / dim, 0.5 / dim),
        functools.partial(_ratio_exponent, dim=dim),
        "At most a quarter of the 2/d with which both fall.",
    )


def _looseness_claim(kind: str) -> Claim:
    return Claim(
        f"The lower bound {_BOUND_NAMES[kind]} is loose: at 64 dimensions it is less than half of "
        "the error.",
        "summary, Limitations",
        "mean error / bound, d = 64, largest width",
        at_least(2.0),
        functools.partial(_ratio_at_the_end, kind=kind),
        "Loose: by a factor of 2 and more. When this was written, widths up to 128 had been "
        "measured (docs/theory.md).",
    )


CLAIMS = (
    _validity_claim("density", "paper, Theorem 5.3, with this library's constant"),
    _validity_claim("differences", "paper, Theorem 5.3; this library"),
    _exponent_claim(1),
    _exponent_claim(3),
    _exponent_claim(5),
    _exponent_claim(8),
    _exponent_claim(16),
    _exponent_claim(64),
    _tightness_claim(5),
    _tightness_claim(8),
    _tightness_claim(16),
    _tightness_claim(64),
    _looseness_claim("density"),
    _looseness_claim("differences"),
)


def draw(results: xr.Dataset) -> Figure:
    """Errors and bounds by width, and the exponents by dimension."""
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_errors(left, results)
    _draw_ratios(middle, results)
    _draw_exponents(right, results)
    for axes in (left, middle, right):
        tidy(axes)
    return figure


def _draw_errors(axes: Axes, results: xr.Dataset) -> None:
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="width m",
        ylabel="matching error per neuron",
        title="error and bound",
    )
    for dim, colour in zip(results.dim.values, PALETTE, strict=False):
        mean = results["cost"].sel(dim=dim).mean("draw")
        bound = results["bound"].sel(kind="differences", dim=dim)
        axes.plot(results.n, mean, "o-", color=colour, markersize=4, label=f"d = {dim}")
        axes.plot(results.n, bound, "--", color=colour, linewidth=1)
    axes.plot([], [], "k--", linewidth=1, label="bound from differences")
    axes.legend(frameon=False, fontsize=8, ncols=2)


def _draw_ratios(axes: Axes, results: xr.Dataset) -> None:
    axes.set(
        xscale="log", yscale="log", xlabel="width m", ylabel="mean error / bound", title="how tight"
    )
    for kind, line in (("differences", "o-"), ("density", "x:")):
        for dim, colour in zip(results.dim.values, PALETTE, strict=False):
            of_dim = results.sel(dim=dim)
            ratio = of_dim["cost"].mean("draw") / of_dim["bound"].sel(kind=kind)
            axes.plot(results.n, ratio, line, color=colour, markersize=4)
        axes.plot([], [], line, color="k", label=f"bound {_BOUND_NAMES[kind]}", markersize=4)
    axes.axhspan(0.5, 1, color="#D55E00", alpha=0.15, linewidth=0, label="impossible")
    axes.legend(frameon=False, fontsize=8)


def _draw_exponents(axes: Axes, results: xr.Dataset) -> None:
    axes.set(
        xscale="log",
        xlabel="dimension d",
        ylabel="exponent of the width / (-2/d)",
        title="is the exponent -2/d?",
    )
    dims = results.dim.values
    axes.axhline(1, color="k", linestyle="--", label="-2/d")
    axes.axhspan(0.75, 1.25, color="k", alpha=0.1, linewidth=0, label="within 25 %")
    values = []
    below = []
    above = []
    for dim in dims:
        estimate = _error_exponent(results, int(dim))
        # The factor is negative: what was low becomes high
        value, high, low = -dim / 2 * np.array(estimate[:3])
        values.append(value)
        below.append(value - low)
        above.append(high - value)
    axes.errorbar(
        dims, values, [below, above], fmt="o", color="#D55E00", capsize=3, label="measured"
    )
    number_ticks(axes, dims)
    axes.legend(frameon=False, fontsize=8)


EXPERIMENT = Experiment(
    name="lower_bound",
    title="Lower bound",
    about="Two layers of m neurons with weights from N(0, I_d), matched exactly: the mean squared "
    "distance per neuron, beside two bounds on its mean (`theory.matching_lower_bound`, from the "
    "largest density of the weights, and `theory.gaussian_matching_lower_bound`, from the law of "
    "the difference of two neurons). Small: m from 16 to 1,024, d from 1 to 64, 16 draws of each; "
    "full: m to 4,096 and 64 draws. Exponents are fitted from m = 64 on.",
    sizes=SIZES,
    measure=measure,
    claims=CLAIMS,
    draw=draw,
)
