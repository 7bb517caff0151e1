"""Figures of stored results."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmcjax.results._measures import (
    MATCHING_LABELS,
    SWEPT_AXES,
    best_cell,
    mean_and_std,
    measured,
    own_loss,
)
from lmcjax.results._style import COLOURS, MARKERS, plain_log_ticks, tidy
from lmcjax.results._tables import MANY_LAYERS

_LINES = ("-", "--", ":", "-.")  # of layers
_BARRIER = "test barrier, loss minus chord (nats)"


def plot_figure2(results: xr.Dataset) -> Figure:
    """The paper's Figure 2, midpoint loss and approximate dimension by learning rate, and barriers.

    Lines are means, bands one standard deviation over pairs.

    Args:
        results: of a sweep, as `of_one_architecture` returns them.
    """
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    losses, barriers, dimensions = figure.subplots(1, 3)
    _plot_losses(losses, results)
    _plot_barriers(barriers, results)
    _plot_dimensions(dimensions, results)
    for axes in (losses, barriers, dimensions):
        axes.set_xlabel(SWEPT_AXES["learning_rate"])
        tidy(axes)
    losses.legend(frameon=False, fontsize=9)
    _legend_beside(dimensions, fontsize=8)
    figure.suptitle(
        f"{results.attrs['dataset']}, {results.sizes['learning_rate']} rates, "
        f"{results.sizes['pair']} pairs, {_count_neurons(results)} hidden neurons, "
        f"{results.attrs['training_steps']} steps"
    )
    return figure


def plot_sweep(results: xr.Dataset) -> Figure:
    """Test barriers along every axis that was swept, through the best cell.

    That is the cell whose networks have the least test loss. Lines are means, bands one standard
    deviation over pairs.

    Args:
        results: what `run_sweep` returns.
    """
    swept = [name for name in SWEPT_AXES if results.sizes[name] > 1]
    if not swept:
        swept = ["learning_rate"]
    cell = best_cell(results)
    figure = Figure(figsize=(1.5 + 4.5 * len(swept), 4.4), layout="constrained")
    panels = figure.subplots(1, len(swept), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, swept, strict=True):
        _plot_along(axes, results, name, cell)
        tidy(axes)
    panels[0].set_ylabel(_BARRIER)
    panels[0].set_ylim(bottom=0)  # the panels share it, so it is set once all curves are there
    _legend_beside(panels[-1], fontsize=9)
    figure.suptitle(
        f"{results.attrs['dataset']}, {results.sizes['pair']} pairs per point, "
        f"{results.attrs['training_steps']} steps"
    )
    return figure


def _plot_losses(axes: Axes, results: xr.Dataset) -> None:
    axes.set(
        xscale="log",
        yscale="log",
        title="Half-way between two networks",
        ylabel="test loss at t = 1/2 (nats)",
    )
    _plot_matchings(axes, measured(results, "midpoint_loss"))
    mean, std = mean_and_std(own_loss(results))
    _curve(axes, "network", "the networks themselves", mean, std, line=":")
    plain_log_ticks(axes)


def _plot_barriers(axes: Axes, results: xr.Dataset) -> None:
    axes.set(xscale="log", title="Barrier between two networks", ylabel=_BARRIER)
    _plot_matchings(axes, measured(results, "barrier"))
    axes.set_ylim(bottom=0)


def _plot_dimensions(axes: Axes, results: xr.Dataset) -> None:
    axes.set(
        xscale="log",
        yscale="log",
        title="What the matchings compare",
        ylabel="approximate dimension",
    )
    num_layers = results.sizes["layer"]
    for similarity in results.similarity.values:
        label = MATCHING_LABELS[similarity]
        dimensions = results["approximate_dimension"].sel(similarity=similarity)
        if num_layers > MANY_LAYERS:
            mean, std = mean_and_std(dimensions.median("layer"))
            _curve(axes, similarity, f"{label}, median of {num_layers} groups", mean, std)
            continue
        for number, layer in enumerate(results.layer.values):
            mean, std = mean_and_std(dimensions.sel(layer=layer))
            line = _LINES[number % len(_LINES)]
            _curve(axes, similarity, f"{label}, layer {number + 1}", mean, std, line)
    plain_log_ticks(axes)


def _plot_along(axes: Axes, results: xr.Dataset, name: str, cell: dict[str, Any]) -> None:
    """Barriers along one axis of a sweep, the others as in a cell."""
    others = {axis: value for axis, value in cell.items() if axis != name}
    along = results.sel(others)
    _plot_matchings(axes, measured(along, "barrier"))
    if name in ("width", "learning_rate"):
        axes.set_xscale("log")
    if name in ("width", "num_hidden_layers"):
        values = results[name].values
        axes.set_xticks(values, [str(value) for value in values], minor=False)
        axes.set_xticks([], minor=True)
    held = []
    for axis in SWEPT_AXES:
        if axis != name and results.sizes[axis] > 1:
            held.append(_value_in_words(axis, cell[axis]))
    axes.set(title=", ".join(held), xlabel=SWEPT_AXES[name])


def _plot_matchings(axes: Axes, values: xr.DataArray) -> None:
    """One curve for each matching."""
    for matching in values.matching.values:
        mean, std = mean_and_std(values.sel(matching=matching))
        _curve(axes, matching, MATCHING_LABELS[matching], mean, std)


def _curve(
    axes: Axes, name: str, label: str, mean: xr.DataArray, std: xr.DataArray, line: str = "-"
) -> None:
    """Draw a mean along the one dimension that it has, with a band of one standard deviation.

    Between categories there is no line, but a bar at each.
    """
    (dimension,) = mean.dims
    x = mean[dimension].values
    look: dict[str, Any] = {"label": label, "color": COLOURS[name], "marker": MARKERS[name]}
    is_category = x.dtype.kind not in "if"
    if is_category:
        axes.errorbar(x, mean, std, linestyle="", capsize=4, **look)
        return
    axes.plot(x, mean, linestyle=line, markersize=5, **look)
    if np.isnan(std).all():  # a single pair
        return
    low = mean - std
    if axes.get_yscale() == "log":
        low = low.clip(min=0.02 * mean)  # a band that reaches 0 has no end on this axis
    axes.fill_between(x, low, mean + std, color=COLOURS[name], alpha=0.15, linewidth=0)


def _legend_beside(axes: Axes, fontsize: int) -> None:
    axes.legend(frameon=False, fontsize=fontsize, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _count_neurons(results: xr.Dataset) -> str:
    """The hidden neurons, as "3 x 128" where all layers are alike."""
    neurons = results["num_neurons"].values
    if len(set(neurons)) == 1:
        return f"{len(neurons)} x {neurons[0]}"
    return f"{neurons.sum():,}"


def _value_in_words(axis: str, value: Any) -> str:
    """Where on an axis a panel lies, for its title."""
    if axis == "num_hidden_layers":
        return "1 layer" if value == 1 else f"{value} layers"
    if axis == "width":
        return f"width {value}"
    if axis == "learning_rate":
        return f"rate {value:.3g}"
    return str(value)
