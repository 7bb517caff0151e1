"""Draw `docs/glossary.png`: two small networks, their neurons matched, and the line between them.

Nothing in the picture is invented. The two networks are matched by `match_layerwise`, and the
curves are measured by `linear_barrier`.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

import lmcjax
from lmcjax.results import COLOURS, tidy
from lmcjax.symmetry import reads, writes

PICTURE = Path(__file__).resolve().parent / "glossary.png"

SPEC = lmcjax.PermutationSpec.from_axes(
    {
        "hidden/kernel": (None, writes("hidden")),
        "hidden/bias": (writes("hidden"),),
        "output/kernel": (reads("hidden"), None),
    }
)
NUM_INPUTS = 3
NUM_NEURONS = 4
NUM_OUTPUTS = 2
ORDER_OF_B = np.array([2, 0, 3, 1])  # neuron i of B does what neuron ORDER_OF_B[i] of A does

# Colours that colour-blind eyes tell apart; one for each of A's neurons.
NEURON_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
OTHER_COLOUR = "#BBBBBB"  # inputs and outputs, which keep their places
INK = "#222222"
WEIGHT_COLOURS = "RdGy"
CELL = 0.6  # side of an entry of a leaf
TINY = 9
SMALL = 10.5
LARGE = 13


class Pair(NamedTuple):
    """Two networks, and what was found between them."""

    params_a: PyTree
    params_b: PyTree
    permutation: np.ndarray  # the neuron of B that takes the place of A's neuron i
    as_trained: lmcjax.BarrierResult
    permuted: lmcjax.BarrierResult

    def colours_of_b(self) -> list[str]:
        """The colours of B's neurons: each that of the neuron of A to which it was matched."""
        colours = [""] * NUM_NEURONS
        for neuron_of_a, neuron_of_b in enumerate(self.permutation):
            colours[neuron_of_b] = NEURON_COLOURS[neuron_of_a]
        return colours


def apply(params: PyTree, inputs: Array) -> Array:
    """The outputs of a network with one hidden layer."""
    hidden = jnp.tanh(inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["output"]["kernel"]


def random_params(seed: int) -> PyTree:
    """Weights and biases from a normal distribution."""
    generator = np.random.default_rng(seed)
    return {
        "hidden": {
            "kernel": jnp.asarray(generator.normal(size=(NUM_INPUTS, NUM_NEURONS))),
            "bias": jnp.asarray(generator.normal(size=NUM_NEURONS)),
        },
        "output": {"kernel": jnp.asarray(generator.normal(size=(NUM_NEURONS, NUM_OUTPUTS)))},
    }


def make_pair() -> Pair:
    """Two networks that come close to a third, one of them in another order, matched and compared.

    They stand for two trained networks: training would take longer and show the same.
    """
    teacher = random_params(8)
    near_a = jax.tree.map(lambda leaf, noise: leaf + 0.25 * noise, teacher, random_params(1001))
    near_b = jax.tree.map(lambda leaf, noise: leaf + 0.35 * noise, teacher, random_params(1002))
    params_b = lmcjax.permute(SPEC, {"hidden": ORDER_OF_B}, near_b)
    inputs = jax.random.normal(jax.random.key(0), (1000, NUM_INPUTS))
    targets = apply(teacher, inputs)

    def loss(params: PyTree) -> Array:
        return jnp.mean((apply(params, inputs) - targets) ** 2)

    matching = lmcjax.match_layerwise(SPEC, near_a, params_b, similarity=lmcjax.Weights())
    aligned = lmcjax.permute(SPEC, matching.permutations, params_b)
    return Pair(
        near_a,
        params_b,
        np.asarray(matching.permutations["hidden"]),
        lmcjax.linear_barrier(loss, near_a, params_b, num_points=101),
        lmcjax.linear_barrier(loss, near_a, aligned, num_points=101),
    )


def write(
    axes: Axes, x: float, y: float, text: str, *, size: float = SMALL, weight: str = "normal"
) -> None:
    """Write centred text."""
    axes.text(x, y, text, ha="center", va="center", fontsize=size, fontweight=weight, color=INK)


def draw_neuron(axes: Axes, x: float, y: float, colour: str, label: str = "") -> None:
    """Draw a neuron, with its number in it."""
    axes.add_patch(Circle((x, y), 0.32, facecolor=colour, edgecolor="white", zorder=3))
    axes.text(
        x,
        y - 0.02,
        label,
        ha="center",
        va="center",
        fontsize=SMALL,
        fontweight="bold",
        color="white",
        zorder=4,
    )


def column(count: int) -> list[float]:
    """The heights of so many neurons, one above the other, the first on top."""
    middle = 8.8
    return [middle + 0.5 * (count - 1) - i for i in range(count)]


def draw_network(axes: Axes, x: float, name: str, params: PyTree, colours: list[str]) -> None:
    """Draw a network from left to right: inputs, hidden neurons, outputs."""
    inputs, hidden, outputs = column(NUM_INPUTS), column(NUM_NEURONS), column(NUM_OUTPUTS)
    incoming = np.asarray(params["hidden"]["kernel"])
    outgoing = np.asarray(params["output"]["kernel"])
    for i, colour in enumerate(colours):
        for j, y in enumerate(inputs):
            width = 0.4 + 1.3 * abs(incoming[j, i])
            axes.plot([x, x + 2.4], [y, hidden[i]], color=colour, linewidth=width, alpha=0.6)
        for j, y in enumerate(outputs):
            width = 0.4 + 1.3 * abs(outgoing[i, j])
            axes.plot([x + 2.4, x + 4.8], [hidden[i], y], color=colour, linewidth=width, alpha=0.6)
        draw_neuron(axes, x + 2.4, hidden[i], colour, str(i))
    for y in inputs:
        draw_neuron(axes, x, y, OTHER_COLOUR)
    for y in outputs:
        draw_neuron(axes, x + 4.8, y, OTHER_COLOUR)
    box = FancyBboxPatch(
        (x + 1.95, hidden[-1] - 0.45),
        0.9,
        hidden[0] - hidden[-1] + 0.9,
        boxstyle="round,pad=0.05,rounding_size=0.3",
        facecolor="none",
        edgecolor=INK,
        linewidth=1.2,
        linestyle=(0, (4, 3)),
    )
    axes.add_patch(box)
    write(axes, x + 2.4, 11.75, f"network {name}", size=LARGE, weight="bold")
    write(axes, x + 2.4, 11.1, "group hidden: 4 neurons")
    write(axes, x, 7.1, "inputs")
    write(axes, x + 4.8, 7.6, "outputs")


def draw_permutation(axes: Axes, x: float, pair: Pair) -> None:
    """Draw which neuron of B takes the place of each neuron of A."""
    heights = column(NUM_NEURONS)
    colours_of_b = pair.colours_of_b()
    for neuron_of_a, neuron_of_b in enumerate(pair.permutation):
        axes.annotate(
            "",
            xy=(x + 0.4, heights[neuron_of_a]),
            xytext=(x + 3.2, heights[neuron_of_b]),
            arrowprops={
                "arrowstyle": "-|>",
                "color": NEURON_COLOURS[neuron_of_a],
                "linewidth": 2,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )
    for i, y in enumerate(heights):
        draw_neuron(axes, x, y, NEURON_COLOURS[i], str(i))
        draw_neuron(axes, x + 3.6, y, colours_of_b[i], str(i))
    write(axes, x + 1.8, 11.75, "permutation", size=LARGE, weight="bold")
    write(axes, x, 11.1, "places in A")
    write(axes, x + 3.6, 11.1, "neurons of B")
    numbers = ", ".join(str(i) for i in pair.permutation)
    write(axes, x + 1.8, 6.6, f'permutations["hidden"] = [{numbers}]')


def draw_grid(axes: Axes, x: float, y: float, weights: np.ndarray) -> None:
    """Draw an array, a cell for each entry; its top left corner is at x and y."""
    for (row, place), weight in np.ndenumerate(weights):
        shade = colormaps[WEIGHT_COLOURS](0.5 + 0.2 * float(weight))
        corner = (x + CELL * place, y - CELL * (row + 1))
        axes.add_patch(Rectangle(corner, CELL, CELL, facecolor=shade, edgecolor="white"))


def draw_marks(
    axes: Axes, x: float, y: float, colours: list[str], step: tuple[float, float]
) -> None:
    """Draw small discs beside an axis of a leaf: whose neuron each of its positions is."""
    for i, colour in enumerate(colours):
        centre = (x + step[0] * i, y + step[1] * i)
        axes.add_patch(Circle(centre, 0.14, facecolor=colour, edgecolor="none"))


def draw_leaves(axes: Axes, x: float, params: PyTree, colours: list[str]) -> None:
    """Draw the three leaves of a network, and say which axes write and read its neurons."""
    half = CELL / 2
    along = (CELL, 0.0)
    down = (0.0, -CELL)
    middle = x + 2 * CELL

    write(axes, middle, 5.6, "hidden/kernel")
    write(axes, middle, 5.1, "axis 1 writes hidden", size=TINY)
    draw_marks(axes, x + half, 4.67, colours, along)
    draw_grid(axes, x, 4.4, np.asarray(params["hidden"]["kernel"]))

    write(axes, middle, 2.15, "hidden/bias")
    write(axes, middle, 1.65, "axis 0 writes hidden", size=TINY)
    draw_marks(axes, x + half, 1.22, colours, along)
    draw_grid(axes, x, 0.95, np.asarray(params["hidden"]["bias"])[None])

    right = x + 4.1
    write(axes, right + CELL, 5.6, "output/kernel")
    write(axes, right + CELL, 5.1, "axis 0 reads hidden", size=TINY)
    draw_marks(axes, right - 0.27, 4.4 - half, colours, down)
    draw_grid(axes, right, 4.4, np.asarray(params["output"]["kernel"]))


def draw_networks(axes: Axes, pair: Pair) -> None:
    """Draw both networks, their leaves, and the permutation between them."""
    axes.set(xlim=(0, 20), ylim=(-0.6, 12.2), aspect="equal")
    axes.set_axis_off()
    draw_network(axes, 1.0, "A", pair.params_a, list(NEURON_COLOURS))
    draw_permutation(axes, 8.2, pair)
    draw_network(axes, 14.2, "B", pair.params_b, pair.colours_of_b())
    draw_leaves(axes, 0.9, pair.params_a, list(NEURON_COLOURS))
    draw_leaves(axes, 14.1, pair.params_b, pair.colours_of_b())
    write(axes, 10, 5.3, "leaves", size=LARGE, weight="bold")
    write(axes, 10, 4.4, "the arrays of the parameters")
    write(axes, 10, 3.5, "discs say which neuron")
    write(axes, 10, 3.0, "a column, entry or row belongs to")
    write(axes, 10, 2.1, "a permutation of the group")
    write(axes, 10, 1.6, "moves all three leaves at once")


def draw_line(axes: Axes, pair: Pair) -> None:
    """Draw the loss on the line from A to B, with the barrier and the midpoint loss marked."""
    points = np.asarray(pair.as_trained.points)
    losses = np.asarray(pair.as_trained.losses)
    chord = (1 - points) * losses[0] + points * losses[-1]
    axes.plot(points, losses, color=COLOURS["none"], linewidth=3, label="from A to B as it is")
    axes.plot(
        points,
        pair.permuted.losses,
        color=COLOURS["weights"],
        linewidth=3,
        label="from A to B in A's order",
    )
    axes.plot(points, chord, color=INK, linewidth=1.2, linestyle="--")
    top = int(np.argmax(losses - chord))
    axes.annotate(
        "",
        xy=(points[top], losses[top]),
        xytext=(points[top], chord[top]),
        arrowprops={"arrowstyle": "<|-|>", "color": COLOURS["covariance"], "linewidth": 1.8},
    )
    axes.text(
        points[top] + 0.015,
        0.45 * losses[top] + 0.55 * chord[top],
        f"barrier {float(pair.as_trained.height):.2f}",
        ha="left",
        fontsize=LARGE,
        color=COLOURS["covariance"],
    )
    midpoint_loss = float(pair.as_trained.midpoint_loss)
    axes.plot([0.5], [midpoint_loss], "o", color=INK, markersize=8, zorder=4)
    axes.annotate(
        f"midpoint loss {midpoint_loss:.2f}",
        xy=(0.5, midpoint_loss),
        xytext=(-12, 4),
        textcoords="offset points",
        ha="right",
        fontsize=LARGE,
        color=INK,
    )
    axes.annotate(
        "chord",
        xy=(0.86, float(np.interp(0.86, points, chord))),
        xytext=(0, 7),
        textcoords="offset points",
        fontsize=LARGE,
        color=INK,
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.2 * losses.max()))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["A\nt = 0", "0.25", "0.5", "0.75", "B\nt = 1"])
    axes.set_xlabel("point (1 - t) A + t B on the line", fontsize=SMALL)
    axes.set_ylabel("loss", fontsize=SMALL)
    axes.tick_params(labelsize=SMALL)
    axes.legend(loc="upper left", fontsize=SMALL, frameon=False)
    tidy(axes)


def draw(pair: Pair) -> Figure:
    """The whole picture."""
    figure = Figure((10, 9.6), layout="constrained")
    networks, line = figure.subplots(2, 1, height_ratios=(1.75, 1))
    draw_networks(networks, pair)
    draw_line(line, pair)
    return figure


if __name__ == "__main__":
    draw(make_pair()).savefig(PICTURE, dpi=150)
