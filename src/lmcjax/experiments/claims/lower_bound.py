"""How near the best matching of two random layers comes to the bound from below."""

import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmcjax.experiments.claims._claim import Claim, Estimate, Experiment, Size
from lmcjax.experiments.claims._clouds import direction_costs, fitted_range
from lmcjax.experiments.claims._drawing import number_ticks
from lmcjax.experiments.claims._estimates import (
    bootstrap_estimate,
    exponent_estimate,
    within_a_quarter,
)
from lmcjax.plots import PALETTE, tidy
from lmcjax.theory import gaussian_matching_lower_bound, matching_lower_bound

_SIZES = {  # widths, dimensions, draws
    "tiny": ((8, 16, 32), (1, 3, 5, 8, 16, 64), 6),
    "small": ((16, 32, 64, 128, 256, 512, 1024), (1, 2, 3, 5, 8, 16, 32, 64), 16),
    "full": ((16, 32, 64, 128, 256, 512, 1024, 2048, 4096), (1, 2, 3, 5, 8, 16, 32, 64), 64),
}
_BOUNDS = ("density", "differences")
_BOUND_NAMES = {"density": "from the largest density", "differences": "from the law of differences"}


def run(size: Size, folder: Path, tell: Callable[[str], None]) -> xr.Dataset:
    """The matching error per neuron of every draw, and both bounds on its mean."""
    widths, dims, draws = _SIZES[size]
    density, differences = (
        jax.jit(matching_lower_bound, static_argnums=1),
        jax.jit(gaussian_matching_lower_bound),
    )
    costs = np.empty((len(dims), draws, len(widths)), np.float32)
    bounds = np.empty((len(_BOUNDS), len(dims), len(widths)), np.float32)
    for (i, dim), (j, width) in itertools.product(enumerate(dims), enumerate(widths)):
        if j == 0:
            tell(f"  d = {dim}")
        std = (np.arange(max(dims)) < dim).astype(np.float32)
        costs[i, :, j] = direction_costs((2, dim, width), std, width, draws, "gaussian").sum(1)
        log_density = -dim / 2 * math.log(2 * math.pi)
        bounds[0, i, j] = density(float(width), dim, log_density).error
        bounds[1, i, j] = differences(float(width), np.diag(std)).error
    unit = {"units": "variance of a weight"}
    return xr.Dataset(
        {
            "cost": (("dim", "draw", "n"), costs, unit),
            "bound": (("kind", "dim", "n"), bounds, unit),
        },
        coords={"dim": list(dims), "n": list(widths), "kind": list(_BOUNDS)},
    )


def _least_ratio(results: xr.Dataset, kind: str) -> Estimate:
    bound = results["bound"].sel(kind=kind).transpose("dim", "n").values
    return bootstrap_estimate(
        lambda costs: float((costs.mean(0) / bound).min()),
        results["cost"].transpose("draw", "dim", "n").values,
    )


def _exponent(results: xr.Dataset, dim: int, relative_to: str | None = None) -> Estimate:
    """Of the width in the mean cost, or in its ratio to a bound."""
    fitted = fitted_range(results).sel(dim=dim)
    costs = fitted["cost"]
    if relative_to is not None:
        costs = costs / fitted["bound"].sel(kind=relative_to)
    return exponent_estimate(fitted.n.values, costs.transpose("draw", "n").values)


def _ratio_at_the_end(results: xr.Dataset, kind: str) -> Estimate:
    """Of measured mean to bound, 64 dimensions, largest width."""
    last = results.sel(dim=64).isel(n=-1)
    bound = float(last["bound"].sel(kind=kind))
    return bootstrap_estimate(lambda costs: float(costs.mean()) / bound, last["cost"].values)


CLAIMS = (
    *(
        Claim(
            f"The lower bound {_BOUND_NAMES[kind]} is never above the mean matching error.",
            f"paper, Theorem 5.3{constant}",
            "least ratio of mean error to bound, all widths and dimensions",
            (1.0, np.inf),
            functools.partial(_least_ratio, kind=kind),
        )
        for kind, constant in (
            ("density", ", with this library's constant"),
            ("differences", "; this library"),
        )
    ),
    *(
        Claim(
            f"In d = {dim} dimensions the best matching error falls like m^(-2/d) = m^{-2 / dim:.3g} with the width m.",
            "paper, Theorem 5.3 with 5.2"
            if dim >= 5
            else "paper, Theorem 5.3; 5.2 asks for d >= 5",
            f"exponent of the width m in the error, d = {dim}",
            within_a_quarter(-2 / dim),
            functools.partial(_exponent, dim=dim),
            "Within 25 % of -2/d: the fit is of a finite range.",
        )
        for dim in (1, 3, 5, 8, 16, 64)
    ),
    *(
        Claim(
            f"The lower bound is tight in d = {dim}: the ratio of the error to the bound from the law of differences "
            "neither grows nor falls with the width.",
            "paper, Theorem 5.3 (recursion tight); this library's bound",
            f"exponent of the width in error / bound, d = {dim}",
            (-0.5 / dim, 0.5 / dim),
            functools.partial(_exponent, dim=dim, relative_to="differences"),
            "At most a quarter of the 2/d with which both fall.",
        )
        for dim in (5, 8, 16, 64)
    ),
    *(
        Claim(
            f"The lower bound {_BOUND_NAMES[kind]} is loose: at 64 dimensions it is less than half of the error.",
            "summary, Limitations",
            "mean error / bound, d = 64, largest width",
            (2.0, np.inf),
            functools.partial(_ratio_at_the_end, kind=kind),
            "Loose: by a factor of 2 and more. When this was written, widths up to 128 had been measured "
            "(docs/theory.md).",
        )
        for kind in _BOUNDS
    ),
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
        axes.plot(results.n, mean, "o-", color=colour, markersize=4, label=f"d = {dim}")
        axes.plot(
            results.n,
            results["bound"].sel(kind="differences", dim=dim),
            "--",
            color=colour,
            linewidth=1,
        )
    axes.plot([], [], "k--", linewidth=1, label="bound from differences")
    axes.legend(frameon=False, fontsize=8, ncols=2)


def _draw_ratios(axes: Axes, results: xr.Dataset) -> None:
    axes.set(
        xscale="log", yscale="log", xlabel="width m", ylabel="mean error / bound", title="how tight"
    )
    for kind, line in (("differences", "o-"), ("density", "x:")):
        for dim, colour in zip(results.dim.values, PALETTE, strict=False):
            cell = results.sel(dim=dim)
            ratio = cell["cost"].mean("draw") / cell["bound"].sel(kind=kind)
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
    found = np.array([_exponent(results, int(d))[:3] for d in dims]) * -dims[:, None] / 2
    bars = [
        found[:, 0] - found[:, 2],
        found[:, 1] - found[:, 0],
    ]  # the factor turns low and high round
    axes.errorbar(dims, found[:, 0], bars, fmt="o", color="#D55E00", capsize=3, label="measured")
    number_ticks(axes, dims)
    axes.legend(frameon=False, fontsize=8)


EXPERIMENT = Experiment(
    "lower_bound",
    "Lower bound",
    "Two layers of m neurons with weights from N(0, I_d), matched exactly: the mean squared distance per neuron, "
    "beside two bounds on its mean (`theory.matching_lower_bound`, from the largest density of the weights, and "
    "`theory.gaussian_matching_lower_bound`, from the law of the difference of two neurons). Small: m from 16 to "
    "1,024, d from 1 to 64, 16 draws of each; full: m to 4,096 and 64 draws. Exponents are fitted from m = 64 on.",
    run,
    CLAIMS,
    draw,
)
