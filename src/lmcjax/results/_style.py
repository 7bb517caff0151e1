"""The look that all figures share."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

# Okabe and Ito's colours, which colour-blind eyes tell apart too
COLOURS = {
    "network": "#000000",
    "none": "#999999",
    "weights": "#0072B2",
    "covariance": "#D55E00",
    "activations": "#009E73",
    "correlation": "#CC79A7",
}
"""The colour of each matching, and of the networks themselves."""

MARKERS = {
    "network": "x",
    "none": "v",
    "weights": "o",
    "covariance": "s",
    "activations": "^",
    "correlation": "D",
}
"""The marker of each matching, and of the networks themselves."""

PALETTE = ("#000000", "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#999999")
"""Colours for anything else."""


def tidy(axes: Axes) -> None:
    """Give a panel the grid and the frame that all panels have."""
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def plain_log_ticks(axes: Axes) -> None:
    """Label a logarithmic vertical axis 1, 2, 5, 10 instead of by powers of ten.

    For axes that span two decades or so.
    """
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda *_: "")


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and PDF beside each other and return their paths."""
    paths = [stem.with_suffix(".png"), stem.with_suffix(".pdf")]
    for path in paths:
        figure.savefig(path, dpi=150)
    return paths
