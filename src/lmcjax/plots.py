"""Pictures of results."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from lmcjax.experiments.summary import (
    AXES,
    MANY_LAYERS,
    MATCHING_NAMES,
    best_cell,
    mean_and_std,
    measured,
    own_loss,
)

# Okabe and Ito's colours, told apart by colour-blind eyes too
COLOURS = {
    "network": "#000000",
    "none": "#999999",
    "weights": "#0072B2",
    "covariance": "#D55E00",
    "activations": "#009E73",
    "correlation": "#CC79A7",
}
PALETTE = ("#000000", "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#999999")
MARKERS = {
    "network": "x",
    "none": "v",
    "weights": "o",
    "covariance": "s",
    "activations": "^",
    "correlation": "D",
}


def tidy(axes: Axes) -> None:
    """What all panels have in common."""
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _curve(
    axes: Axes, name: str, label: str, mean: xr.DataArray, std: xr.DataArray, line: str = "-"
) -> None:
    """A mean along the one dimension that it has, with its band of one standard deviation; bars
    between categories.
    """
    (dimension,) = mean.dims
    x, colour = mean[dimension].values, COLOURS[name]
    if x.dtype.kind not in "if":
        axes.errorbar(
            x, mean, std, linestyle="", capsize=4, label=label, color=colour, marker=MARKERS[name]
        )
        return
    axes.plot(
        x, mean, linestyle=line, label=label, color=colour, marker=MARKERS[name], markersize=5
    )
    if not np.isnan(std).all():
        low = np.maximum(mean - std, 0.02 * mean) if axes.get_yscale() == "log" else mean - std
        axes.fill_between(x, low, mean + std, color=colour, alpha=0.15, linewidth=0)


def _plot_losses(axes: Axes, results: xr.Dataset) -> None:
    axes.set(
        xscale="log",
        yscale="log",
        title="Half-way between two networks",
        ylabel="test loss at t = 1/2 (nats)",
    )
    losses = measured(results, "midpoint_loss")
    for matching in results.matching.values:
        _curve(
            axes, matching, MATCHING_NAMES[matching], *mean_and_std(losses.sel(matching=matching))
        )
    _curve(axes, "network", "the networks themselves", *mean_and_std(own_loss(results)), line=":")
    plain_log_ticks(axes)


def _plot_dimensions(axes: Axes, results: xr.Dataset) -> None:
    axes.set(
        xscale="log",
        yscale="log",
        title="What the matchings compare",
        ylabel="approximate dimension",
    )
    lines = ("-", "--", ":", "-.")
    for similarity in results.similarity.values:
        dimensions = results["approximate_dimension"].sel(similarity=similarity)
        if results.sizes["layer"] > MANY_LAYERS:
            label = f"{MATCHING_NAMES[similarity]}, median of {results.sizes['layer']} groups"
            _curve(axes, similarity, label, *mean_and_std(dimensions.median("layer")))
            continue
        for number, layer in enumerate(results.layer.values):
            values = dimensions.sel(layer=layer)
            label = f"{MATCHING_NAMES[similarity]}, layer {number + 1}"
            _curve(axes, similarity, label, *mean_and_std(values), line=lines[number % len(lines)])
    plain_log_ticks(axes)


def _plot_barriers(axes: Axes, results: xr.Dataset) -> None:
    axes.set(
        xscale="log",
        title="Barrier between two networks",
        ylabel="test barrier, loss minus chord (nats)",
    )
    barriers = measured(results, "barrier")
    for matching in results.matching.values:
        _curve(
            axes, matching, MATCHING_NAMES[matching], *mean_and_std(barriers.sel(matching=matching))
        )
    axes.set_ylim(bottom=0)


def plain_log_ticks(axes: Axes) -> None:
    """1, 2, 5, 10 instead of powers: these axes span two decades."""
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda *_: "")


def plot_figure2(results: xr.Dataset) -> Figure:
    """The paper's two panels, midpoint loss and approximate dimension by learning rate, and the
    barrier with them.

    Lines are means, bands one standard deviation over pairs.

    Args:
        results: what `run_figure2` returns.
    """
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, plot in zip(panels, (_plot_losses, _plot_barriers, _plot_dimensions), strict=True):
        plot(axes, results)
        axes.set_xlabel("peak learning rate")
        tidy(axes)
    panels[0].legend(frameon=False, fontsize=9)
    panels[2].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    neurons = results["num_neurons"].values
    groups = f"{len(neurons)} x {neurons[0]}" if len(set(neurons)) == 1 else f"{neurons.sum():,}"
    figure.suptitle(
        f"{results.attrs['dataset']}, {results.sizes['learning_rate']} rates, {results.sizes['pair']} pairs, "
        f"{groups} hidden neurons, {results.attrs['training_steps']} steps"
    )
    return figure


def _plot_along(axes: Axes, results: xr.Dataset, name: str, cell: dict[str, Any]) -> None:
    """Barriers along one axis of a sweep, the others as in a cell."""
    slice_ = results.sel({other: value for other, value in cell.items() if other != name})
    barriers = measured(slice_, "barrier")
    for matching in results.matching.values:
        _curve(
            axes, matching, MATCHING_NAMES[matching], *mean_and_std(barriers.sel(matching=matching))
        )
    if name in ("width", "learning_rate"):
        axes.set_xscale("log")
    if name in ("width", "num_hidden_layers"):
        axes.set_xticks(
            results[name].values, [str(value) for value in results[name].values], minor=False
        )
        axes.set_xticks([], minor=True)
    swept = [other for other in AXES if other != name and results.sizes[other] > 1]
    axes.set(title=", ".join(_say(other, cell[other]) for other in swept), xlabel=AXES[name])


def _say(axis: str, value: Any) -> str:
    if axis == "num_hidden_layers":
        return "1 layer" if value == 1 else f"{value} layers"
    return {"width": f"width {value}", "optimizer": f"{value}"}.get(axis) or f"rate {value:.3g}"


def plot_sweep(results: xr.Dataset) -> Figure:
    """Test barriers along every axis that was swept, through the cell whose networks have the least
    test loss.

    Lines are means, bands one standard deviation over pairs.

    Args:
        results: what `run_sweep` returns.
    """
    swept = [name for name in AXES if results.sizes[name] > 1] or ["learning_rate"]
    cell = best_cell(results)
    figure = Figure(figsize=(1.5 + 4.5 * len(swept), 4.4), layout="constrained")
    panels = figure.subplots(1, len(swept), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, swept, strict=True):
        _plot_along(axes, results, name, cell)
        tidy(axes)
    panels[0].set_ylabel("test barrier, loss minus chord (nats)")
    panels[0].set_ylim(bottom=0)  # of all panels, once all curves are there
    panels[-1].legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(
        f"{results.attrs['dataset']}, {results.sizes['pair']} pairs per point, {results.attrs['training_steps']} steps"
    )
    return figure


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and PDF beside each other and return their paths."""
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".pdf")]
    for path in paths:
        figure.savefig(path, dpi=150)
    return paths
