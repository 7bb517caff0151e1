"""Neurons that vary in few directions, and a little in the others: from which width on the others
count.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from lmcjax.experiments.claims._claim import Claim, Estimate, Experiment, Size
from lmcjax.experiments.claims._clouds import direction_costs, fitted_range
from lmcjax.experiments.claims._estimates import (
    bootstrap_estimate,
    exponent_estimate,
    within_a_quarter,
)
from lmcjax.plots import PALETTE, tidy
from lmcjax.theory import low_dimensional_width

_DIMS = {1: 8, 2: 8, 3: 32, 5: 32}  # of all directions, by the number k of dominant ones
_ALMOST_NONE, _LARGE = 0.002, 0.5  # eta before and after the crossover, whatever the width
_CROSSING = {  # eta whose crossovers lie among the widths
    1: (0.075, 0.09, 0.11, 0.135),
    2: (0.14, 0.17, 0.21, 0.26),
    3: (0.08, 0.093, 0.108, 0.125),
    5: (0.165, 0.185, 0.21, 0.24),
}
_SIZES = {  # widths, draws
    "tiny": ((8, 16, 32, 64, 128), 4),
    "small": ((16, 32, 64, 128, 256, 512), 32),
    "full": ((16, 32, 64, 128, 256, 512, 1024, 2048), 64),
}
_COLOURS = {1: "#000000", 2: "#0072B2", 3: "#009E73", 5: "#D55E00"}  # by k


def run(size: Size, folder: Path, tell: Callable[[str], None]) -> xr.Dataset:
    """The matching error per neuron of every draw: its part in the dominant directions and that in
    the others.
    """
    widths, draws = _SIZES[size]
    etas = np.array([[_ALMOST_NONE, *_CROSSING[k], _LARGE] for k in _DIMS])
    head = np.empty((*etas.shape, draws, len(widths)), np.float32)
    tail = np.empty_like(head)
    for (i, (k, dim)), level in itertools.product(enumerate(_DIMS.items()), range(etas.shape[1])):
        tell(f"  k = {k} of {dim}, eta = {etas[i, level]:g}")
        std = np.where(np.arange(dim) < k, 1, etas[i, level])
        for j, width in enumerate(widths):
            costs = direction_costs((3, k, level, width), std, width, draws, "gaussian")
            head[i, level, :, j], tail[i, level, :, j] = costs[:, :k].sum(1), costs[:, k:].sum(1)
    over, unit = (
        ("k", "level", "draw", "n"),
        {"units": "variance of a weight in a dominant direction"},
    )
    return xr.Dataset(
        {
            "head": (over, head, unit),
            "tail": (over, tail, unit),
            "eta": (
                ("k", "level"),
                etas,
                {"units": "standard deviation of a weight in a dominant direction"},
            ),
            "dim": ("k", list(_DIMS.values())),
        },
        coords={"k": list(_DIMS), "n": list(widths)},
    )


def _exponent(results: xr.Dataset, k: int, level: int) -> Estimate:
    """Of the width in the whole error."""
    cell = fitted_range(results).sel(k=k).isel(level=level)
    return exponent_estimate(
        cell.n.values, (cell["head"] + cell["tail"]).transpose("draw", "n").values
    )


def crossover(num_points: np.ndarray, head: np.ndarray, tail: np.ndarray) -> float:
    """The width at which the error in the other directions is that in the dominant ones, between
    measured widths.

    Interpolated in logarithms, where the two first cross; nan where they do not.
    """
    gap, log_n = np.log(head) - np.log(tail), np.log(num_points)
    crossed = np.flatnonzero((gap[:-1] > 0) & (gap[1:] <= 0))
    if not crossed.size:
        return math.nan
    i = crossed[0]
    return float(np.exp(log_n[i] + (log_n[i + 1] - log_n[i]) * gap[i] / (gap[i] - gap[i + 1])))


def _crossovers(results: xr.Dataset, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Widths by eta, from means over draws."""
    cell = results.sel(k=k).isel(level=slice(1, -1)).mean("draw")
    return cell["eta"].values, _by_eta(cell.n.values, cell["head"].values, cell["tail"].values)


def _by_eta(num_points: np.ndarray, head: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """The crossover of each row of means `[eta, n]`."""
    return np.array([crossover(num_points, h, t) for h, t in zip(head, tail, strict=True)])


def _crossover_exponent(results: xr.Dataset, k: int) -> Estimate:
    """Of eta in the width of the crossover."""
    cell = results.sel(k=k).isel(level=slice(1, -1))
    log_eta, n = np.log(cell["eta"].values), cell.n.values

    def slope(head: np.ndarray, tail: np.ndarray) -> float:
        widths = _by_eta(n, head.mean(0), tail.mean(0))
        return (
            float(np.polyfit(log_eta, np.log(widths), 1)[0])
            if np.isfinite(widths).all()
            else math.nan
        )

    samples = (cell[name].transpose("draw", "level", "n").values for name in ("head", "tail"))
    return bootstrap_estimate(slope, *samples)


_FINITE = "Within 25 %: the fit is of a finite range."
_HALF_WAY = "Nearer to this exponent than to the other reading: the limits are half-way between the two, and as far beyond."


def _error_claim(
    k: int, exponent: float, holds: tuple[float, float], source: str, why: str
) -> Claim:
    return Claim(
        f"While the other directions do not count, the error of neurons with k = {k} dominant ones falls like "
        f"m^{exponent:.3g}.",
        source,
        f"exponent of the width in the error, k = {k} of {_DIMS[k]}, eta = {_ALMOST_NONE}",
        holds,
        functools.partial(_exponent, k=k, level=0),
        why,
    )


def _crossover_claim(
    k: int, exponent: float, holds: tuple[float, float], source: str, why: str
) -> Claim:
    return Claim(
        f"The width from which the other directions count goes like eta^{exponent:g}, eta their standard deviation, "
        f"for k = {k}.",
        source,
        f"exponent of eta in the width of the crossover, k = {k} of {_DIMS[k]}",
        holds,
        functools.partial(_crossover_exponent, k=k),
        why,
    )


_PAPER = "paper, Theorem 5.4"
_LITERAL = "paper, Theorem 5.4 read at k = 1"
_SMOOTH = "Bobkov and Ledoux (2019), for smooth densities"
CLAIMS = (
    _error_claim(1, -2.0, (-2.5, -1.5), _LITERAL, f"-2/k. {_HALF_WAY}"),
    _error_claim(
        1,
        -1.0,
        (-1.5, -0.5),
        _SMOOTH,
        f"On the line two samples are 1/m apart in W_2^2. {_HALF_WAY}",
    ),
    *(
        _error_claim(k, -2 / k, within_a_quarter(-2 / k), _PAPER, f"-2/k. {_FINITE}")
        for k in (2, 3, 5)
    ),
    _crossover_claim(1, -1.0, (-1.5, -0.5), _LITERAL, f"-k. {_HALF_WAY}"),
    _crossover_claim(
        1, -2.0, (-2.5, -1.5), _SMOOTH, f"Where an error of order 1/m meets eta^2. {_HALF_WAY}"
    ),
    *(
        _crossover_claim(k, -float(k), within_a_quarter(-float(k)), _PAPER, f"-k. {_FINITE}")
        for k in (2, 3, 5)
    ),
    *(
        Claim(
            f"Once the other directions count, the rate of all d = 8 returns, m^(-1/4), k = {k}.",
            "paper, Theorem 5.4; summary, Open Question 2",
            f"exponent of the width in the error, k = {k} of 8, eta = {_LARGE}",
            within_a_quarter(-2 / 8),
            functools.partial(_exponent, k=k, level=-1),
            _FINITE,
        )
        for k in (1, 2)
    ),
)


def draw(results: xr.Dataset) -> Figure:
    """Errors by width for k = 2, and the crossovers by eta for all k, with the theory dashed."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_errors(left, results, 2)
    _draw_crossovers(right, results)
    for axes in (left, right):
        tidy(axes)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _draw_errors(axes: Axes, results: xr.Dataset, k: int) -> None:
    dim, n = _DIMS[k], results.n.values.astype(float)
    axes.set(xscale="log", yscale="log", xlabel="width m", ylabel="matching error per neuron")
    axes.set_title(f"k = {k} dominant of {dim} directions")
    colours = PALETTE[: results.sizes["level"]]
    cells = results.sel(k=k).mean("draw")
    for level, colour in zip(range(results.sizes["level"]), colours, strict=True):
        cell = cells.isel(level=level)
        whole = (cell["head"] + cell["tail"]).values
        axes.plot(n, whole, "o-", color=colour, markersize=4, label=f"eta = {float(cell['eta']):g}")
        met = crossover(n, cell["head"].values, cell["tail"].values)
        if math.isfinite(met):
            height = np.exp(np.interp(np.log(met), np.log(n), np.log(whole)))
            axes.plot(met, height, "*", color=colour, markersize=13)
        if level == 0:
            axes.plot(
                n, whole[-1] * (n / n[-1]) ** (-2 / k), "k--", linewidth=1, label="$m^{-2/k}$"
            )
    axes.plot(n, whole[-1] * (n / n[-1]) ** (-2 / dim), ":", color=colours[-1], label="$m^{-2/d}$")
    axes.plot([], [], "*", color="#999999", markersize=11, label="half of the error in the others")
    _plain_ticks(axes.xaxis, results.n.values)


def _draw_crossovers(axes: Axes, results: xr.Dataset) -> None:
    axes.set(xscale="log", yscale="log", title="where the other directions begin to count")
    axes.set(xlabel="eta, their standard deviation", ylabel="width of the crossover")
    for k, dim in _DIMS.items():
        eta, widths = _crossovers(results, k)
        axes.plot(eta, widths, "o", color=_COLOURS[k], label=f"k = {k} of {dim}")
        if np.isfinite(widths).all():
            constant = float(np.exp(np.mean(np.log(widths) / k + np.log(eta))))  # T of (T / eta)^k
            theory = [
                low_dimensional_width(e, k, dim, e, constant=constant).crossover_log_width
                for e in eta
            ]
            axes.plot(eta, np.exp(theory), "--", color=_COLOURS[k], linewidth=1)
    _plain_ticks(axes.xaxis, (0.05, 0.1, 0.2))
    _plain_ticks(axes.yaxis, results.n.values)
    axes.plot([], [], "k--", linewidth=1, label="$\\eta^{-k}$, height fitted")


def _plain_ticks(axis: Axis, values: Sequence[float] | np.ndarray) -> None:
    axis.set_ticks(values, [f"{value:g}" for value in values])
    axis.set_ticks([], minor=True)


EXPERIMENT = Experiment(
    "planted_spectra",
    "Approximately low-dimensional weights",
    "Two layers of m neurons with Gaussian weights: standard deviation 1 in k directions and eta in the others (d = 8 "
    "in all for k = 1, 2; d = 32 for k = 3, 5), matched exactly. The error per neuron has a part in the k directions "
    "and one in the others; the crossover is the width at which, in the best matching itself, the two are equal. Both "
    "parts are measured, so no constant is assumed; it is interpolated between widths, and there is no interval where "
    "more than one in twenty resamples has none. Six eta for each k: one below and one above every crossover, four "
    "whose crossover lies among the widths. Small: m from 16 to 512 and 32 draws; full: to 2,048 and 64 draws. "
    "Exponents of the width are fitted from m = 64 on. For k = 1 and 2 powers are not the whole: logarithms stand "
    "beside them, and the matching gives way to the other directions before the two parts are equal.",
    run,
    CLAIMS,
    draw,
)
