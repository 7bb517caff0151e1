"""What the pictures of the experiments share."""

import numpy as np
from matplotlib.axes import Axes


def number_ticks(axes: Axes, values: np.ndarray) -> None:
    """Widths, depths or dimensions on a logarithmic axis, at most eight of them, as numbers."""
    shown = values[:: -(-len(values) // 8)]
    axes.set_xticks(shown, [f"{value:,}" for value in shown])
    axes.set_xticks([], minor=True)


def label_end(axes: Axes, text: str, x: float, y: float) -> None:
    """A line's name at its right end."""
    axes.annotate(
        text,
        (x, y),
        (4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        annotation_clip=False,
    )
