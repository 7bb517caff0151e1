"""How wide networks have to be for linear mode connectivity, by their depth."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmcjax.data import load_dataset
from lmcjax.experiments.claims._claim import (
    Claim,
    Estimate,
    Limits,
    at_least,
    at_most,
    within_a_quarter,
)
from lmcjax.experiments.claims._drawing import number_ticks
from lmcjax.experiments.claims._estimates import bootstrap_estimate, mean_estimate, no_estimate
from lmcjax.experiments.claims._experiment import Experiment, Size, Tell
from lmcjax.experiments.claims._fits import needed_width, slopes, squared_residual
from lmcjax.experiments.claims._runs import TrainedGrid, train_sweep
from lmcjax.results import COLOURS, MATCHING_LABELS, measured, plain_log_ticks, tidy
from lmcjax.sweep import Sweep
from lmcjax.theory import width_upper_bound

THRESHOLD = 0.1  # nats: a barrier below it counts as connected
_MATCHINGS = ("weights", "covariance", "activations")

_SMALL = Sweep(
    seeds=range(8),
    widths=(8, 16, 32, 64, 128, 256, 512),
    num_hidden_layers=(1, 2, 3, 4, 5),
    learning_rates=0.1,
    matchings=_MATCHINGS,
    num_points=11,
    epochs=40,
)
_TINY = dataclasses.replace(
    _SMALL, seeds=range(4), widths=(4, 8), num_hidden_layers=(1, 2), epochs=1
)
_FULL = dataclasses.replace(
    _SMALL,
    seeds=range(16),
    widths=(8, 16, 32, 64, 128, 256, 512, 1024, 2048),
    epochs=50,
    batch_size=500,
)
SIZES: dict[Size, TrainedGrid] = {
    "tiny": TrainedGrid("digits", _TINY),
    "small": TrainedGrid("digits", _SMALL),
    "full": TrainedGrid("fashion-mnist", _FULL),
}


def measure(grid: TrainedGrid, folder: Path, tell: Tell) -> xr.Dataset:
    """Barriers of every pair at every depth and width, and the widths that theory asks for."""
    dataset = load_dataset(grid.dataset)
    tell(f"depth: {grid.sweep.num_networks} networks")
    swept = train_sweep(grid.sweep, dataset, folder, tell)
    swept = swept.squeeze(("optimizer", "learning_rate"), drop=True)
    swept = swept.rename(num_hidden_layers="depth")

    barrier = measured(swept, "barrier").drop_vars("split")
    own_loss = swept["endpoint_loss"].sel(split="test", drop=True).mean("network")
    num_inputs = math.prod(dataset.input_shape)
    bounds = []
    for depth in grid.sweep.num_hidden_layers:
        log_widths = width_upper_bound(THRESHOLD, num_inputs, depth).log_width
        bounds.append(float(log_widths[-1]) / math.log(10))
    bound_attrs = {"long_name": "Theorem 5.2 with T = 1; inf: beyond all floats"}
    results = xr.Dataset(
        {
            "barrier": barrier.assign_attrs(units="nats", long_name="test barrier"),
            "own_loss": own_loss.assign_attrs(units="nats", long_name="test loss of the networks"),
            "log10_width_bound": ("depth", bounds, bound_attrs),
        }
    )
    return results.assign_attrs(dataset=dataset.name, num_inputs=num_inputs)


def _barriers(results: xr.Dataset, matching: str) -> np.ndarray:
    """Barriers `[pairs, depths, widths]`."""
    return results["barrier"].sel(matching=matching).transpose("pair", "depth", "width").values


def _needed_widths(results: xr.Dataset, barriers: np.ndarray) -> np.ndarray:
    """The width that is needed for the mean over pairs, by depth.

    It is inf where the widest networks of the grid do not suffice.
    """
    widths = results["width"].values
    mean_barriers = np.nanmean(barriers, axis=0)
    return np.array([needed_width(widths, row, THRESHOLD) for row in mean_barriers])


def _estimate_within_grid(
    results: xr.Dataset,
    matching: str,
    statistic: Callable[[np.ndarray, np.ndarray], float],
    fewest: int,
) -> Estimate:
    """A statistic of the depths whose needed widths lie within the grid, and of these widths.

    Nothing is estimated from fewer depths than `fewest`.
    """
    barriers = _barriers(results, matching)
    within = np.isfinite(_needed_widths(results, barriers))
    if within.sum() < fewest:
        return no_estimate(samples=len(barriers))
    return _estimate_of_depths(results, barriers, statistic, within)


def _estimate_of_depths(
    results: xr.Dataset,
    barriers: np.ndarray,
    statistic: Callable[[np.ndarray, np.ndarray], float],
    chosen: np.ndarray,
) -> Estimate:
    """A statistic of the chosen depths and their needed widths, with its interval over pairs."""
    depths = results["depth"].values.astype(float)
    widest = float(results["width"][-1])

    def of_pairs(drawn: np.ndarray) -> float:
        # The widest of the grid stands in for needed widths beyond it
        needed = np.minimum(_needed_widths(results, drawn), widest)
        return statistic(depths[chosen], needed[chosen])

    return bootstrap_estimate(of_pairs, barriers)


def _octaves_per_layer(depths: np.ndarray, widths: np.ndarray) -> float:
    return float(slopes(depths, np.log2(widths)))


def _growth(results: xr.Dataset, matching: str) -> Estimate:
    """Octaves of needed width per layer, over all depths."""
    barriers = _barriers(results, matching)
    if results.sizes["depth"] < 2:
        return no_estimate(samples=len(barriers))
    every_depth = np.full(results.sizes["depth"], True)
    return _estimate_of_depths(results, barriers, _octaves_per_layer, every_depth)


def _power_per_layer(results: xr.Dataset) -> Estimate:
    """How much wider a further layer makes networks, as a power of the number of inputs."""
    octaves = _estimate_within_grid(results, "covariance", _octaves_per_layer, fewest=3)
    octaves_of_inputs = math.log2(results.attrs["num_inputs"])
    return Estimate(
        octaves.value / octaves_of_inputs,
        octaves.low / octaves_of_inputs,
        octaves.high / octaves_of_inputs,
        octaves.samples,
    )


def _exponential_against_power(depths: np.ndarray, widths: np.ndarray) -> float:
    """log10 of the residual of a power law over that of an exponential, both of log widths."""
    log_widths = np.log(widths)
    least = 1e-6  # a perfect fit is no infinite evidence
    of_power_law = squared_residual(np.log(depths), log_widths) + least
    of_exponential = squared_residual(depths, log_widths) + least
    return math.log10(of_power_law / of_exponential)


def _log_width_ratio(depths: np.ndarray, widths: np.ndarray) -> float:
    """By what factor the log-width grows from one depth to the next, geometric mean over depths."""
    logs = np.log(widths)
    whole_ratio = logs[-1] / logs[0]
    return float(whole_ratio ** (1 / (depths[-1] - depths[0])))


def _worst_at_widest(results: xr.Dataset, matching: str) -> Estimate:
    """The barrier of the widest networks at the depth where it is largest."""
    at_widest = results["barrier"].sel(matching=matching).isel(width=-1)
    worst_depth = int(at_widest.mean("pair").argmax("depth"))
    return mean_estimate(at_widest.isel(depth=worst_depth))


_NEEDED = f"width from which on the mean test barrier is below {THRESHOLD} nats"
_BEYOND = "Depths for which no width of the grid suffices are left out; at least 3 have to be left."
_POWER_OF_INPUTS = (
    f"matched by covariance: power of d = number of inputs by which the {_NEEDED} grows, "
    "per hidden layer"
)


def _growth_claims(matching: str) -> tuple[Claim, ...]:
    return (
        Claim(
            "The deeper the networks, the wider they have to be.",
            "paper, Theorem 5.2; summary, Executive Summary",
            f"matched by {matching}: octaves of the {_NEEDED}, per hidden layer",
            at_least(0.0),
            functools.partial(_growth, matching=matching),
            "Where no width of the grid suffices the widest stands in, which understates the "
            "growth.",
        ),
        Claim(
            "The width that is needed grows exponentially with the depth, not like a power of it.",
            "summary, Executive Summary",
            f"matched by {matching}: log10 of the squared residual of a power law over that of an "
            f"exponential, both through the {_NEEDED}",
            at_least(0.0),
            functools.partial(
                _estimate_within_grid,
                matching=matching,
                statistic=_exponential_against_power,
                fewest=3,
            ),
            f"Above 0 the exponential fits better. {_BEYOND}",
        ),
    )


CLAIMS = (
    *_growth_claims("weights"),
    *_growth_claims("covariance"),
    *_growth_claims("activations"),
    Claim(
        "Networks of any depth are connected if they are wide enough.",
        "paper, Theorem 5.2",
        "matched by covariance: test barrier of the widest networks at the worst depth, nats",
        Limits(0.0, THRESHOLD),
        functools.partial(_worst_at_widest, matching="covariance"),
        "The theorem gives some width; the widest networks of the grid stand for it.",
    ),
    Claim(
        "k hidden layers need width d^k: every further layer makes it d times as wide.",
        "summary, Key Results",
        _POWER_OF_INPUTS,
        within_a_quarter(1.0),
        _power_per_layer,
        f"1, and a quarter to either side. {_BEYOND}",
    ),
    Claim(
        "Width O(d^k) is enough: a further layer makes it at most d times as wide.",
        "summary, Key Results",
        _POWER_OF_INPUTS,
        at_most(1.0),
        _power_per_layer,
        _BEYOND,
    ),
    Claim(
        "What the theorem's tower says is enough is also needed: each layer is exponential in the "
        "one before.",
        "paper, Theorems 5.2 and 5.3",
        f"matched by covariance: ratio of the logarithms of the {_NEEDED}, from one depth to the "
        "next",
        at_least(2.0),
        functools.partial(
            _estimate_within_grid, matching="covariance", statistic=_log_width_ratio, fewest=2
        ),
        "log m_l = m_{l-1} log(T / eps): a layer of m neurons multiplies the logarithm by m over "
        "those of the layer before, here taken as 2 at least.",
    ),
)


def draw(results: xr.Dataset) -> Figure:
    """Barriers by width, needed widths by depth, and these beside the bounds."""
    figure = Figure(figsize=(15, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_barriers(left, results)
    _draw_needed_widths(middle, results)
    _draw_bounds(right, results)
    number_ticks(left, results["width"].values)
    plain_log_ticks(middle)
    plain_log_ticks(right)
    left.legend(frameon=False, fontsize=8, loc="upper right")
    middle.legend(frameon=False, fontsize=8, loc="lower right")
    right.legend(frameon=False, fontsize=8, loc="best")
    for axes in (left, middle, right):
        tidy(axes)
    figure.suptitle(f"{results.attrs['dataset']}, {results.sizes['pair']} pairs", fontsize=10)
    return figure


def _draw_barriers(axes: Axes, results: xr.Dataset) -> None:
    widths = results["width"].values
    depths = results["depth"].values
    shades = np.linspace(0.25, 1, len(depths))
    for depth, shade in zip(depths, shades, strict=True):
        plural = "s" if depth > 1 else ""
        mean_barrier = results["barrier"].sel(depth=depth, matching="covariance").mean("pair")
        axes.plot(
            widths,
            mean_barrier,
            "o-",
            color=COLOURS["covariance"],
            alpha=shade,
            label=f"{depth} hidden layer{plural}",
            markersize=4,
        )
    axes.axhline(THRESHOLD, color="black", linestyle="--", linewidth=1)
    label = f"threshold {THRESHOLD} nats"
    axes.annotate(label, (widths[0], THRESHOLD), va="bottom", fontsize=8)
    axes.set(
        xscale="log",
        xlabel="width, neurons per hidden layer",
        ylabel="test barrier (nats)",
        title="Matched by covariance",
    )


def _draw_needed_widths(axes: Axes, results: xr.Dataset) -> None:
    depths = results["depth"].values
    widest = results["width"].values[-1]
    for position, matching in enumerate(_MATCHINGS):
        needed = _needed_widths(results, _barriers(results, matching))
        within = np.isfinite(needed)
        colour = COLOURS[matching]
        x = depths + 0.06 * (position - 1)  # side by side, so that no marker hides another
        axes.plot(x[within], needed[within], "o-", color=colour, label=MATCHING_LABELS[matching])
        above_widest = np.full((~within).sum(), 1.15 * widest)
        axes.plot(x[~within], above_widest, "^", color=colour, mfc="none")
    axes.axhline(widest, color="grey", linewidth=1, linestyle=":")
    label = "widest run; open triangles: more is needed"
    axes.annotate(label, (depths[0], widest), va="top", fontsize=8)
    axes.set(
        yscale="log",
        xticks=depths,
        xlabel="hidden layers",
        ylabel="needed width",
        title=f"Width for a barrier below {THRESHOLD} nats",
    )


def _draw_bounds(axes: Axes, results: xr.Dataset) -> None:
    depths = results["depth"].values
    needed = _needed_widths(results, _barriers(results, "covariance"))
    log_needed = np.log10(np.where(np.isfinite(needed), needed, np.nan))
    axes.plot(depths, log_needed, "o-", color=COLOURS["covariance"], label="measured, covariance")

    first = needed[0] if np.isfinite(needed[0]) else results["width"].values[-1]
    log_factor = np.log10(results.attrs["num_inputs"])
    log_summary = np.log10(first) + (depths - 1) * log_factor
    axes.plot(depths, log_summary, "--", color="black", label="summary, factor d per layer")

    log_bound = results["log10_width_bound"].values
    finite = np.isfinite(log_bound)
    axes.plot(
        depths[finite],
        log_bound[finite],
        "D--",
        color=COLOURS["activations"],
        label="Theorem 5.2, T = 1; then a tower",
    )
    axes.set(
        yscale="log",
        xticks=depths,
        xlabel="hidden layers",
        ylabel="log10 of the width",
        title="Beside the bounds",
    )


EXPERIMENT = Experiment(
    name="depth",
    title="Depth 1 to 5 against width",
    about="ReLU MLPs with 1 to 5 equal hidden layers of 8 to 512 neurons are trained on 8 x 8 "
    "digits with the protocol of Figure 2 at its largest rate, 0.1 (full: Fashion-MNIST, up to "
    "2,048 neurons), 8 networks, so 4 pairs, of each shape. Pairs are matched by weights, "
    "covariance and activations. The width that is needed is the one from which on the mean test "
    f"barrier stays below {THRESHOLD} nats, interpolated in the logarithm of the width. Intervals "
    "are bootstraps over pairs.",
    sizes=SIZES,
    measure=measure,
    claims=CLAIMS,
    draw=draw,
)
