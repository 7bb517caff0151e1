"""What the pictures of the experiments share."""

import numpy as np
from matplotlib.axes import Axes

_MOST_TICKS = 8


def number_ticks(axes: Axes, values: np.ndarray) -> None:
    """Mark widths, depths or dimensions on a logarithmic axis as numbers, at most eight of them."""
    step = -(-len(values) // _MOST_TICKS)  # rounded up
    shown = values[::step]
    axes.set_xticks(shown, [f"{value:,}" for value in shown])
    axes.set_xticks([], minor=True)


def label_end(axes: Axes, text: str, x: float, y: float) -> None:
    """Write a line's name at its right end."""
    axes.annotate(
        text,
        (x, y),
        (4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        annotation_clip=False,
    )
