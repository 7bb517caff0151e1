"""How wide networks have to be for linear mode connectivity, by their depth."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from lmcjax.data import load_dataset
from lmcjax.experiments.claims._claim import Claim, Estimate, Experiment, Size
from lmcjax.experiments.claims._drawing import number_ticks
from lmcjax.experiments.claims._estimates import (
    bootstrap_estimate,
    mean_estimate,
    needed_width,
    slopes,
)
from lmcjax.experiments.claims._runs import train_sweep
from lmcjax.experiments.summary import MATCHING_NAMES, measured
from lmcjax.plots import COLOURS, plain_log_ticks, tidy
from lmcjax.sweep import Sweep
from lmcjax.theory import width_upper_bound

THRESHOLD = 0.1  # nats: a barrier below it counts as connected
_MATCHINGS = ("weights", "covariance", "activations")
_SIZES: dict[Size, dict[str, Any]] = {
    "tiny": {"dataset": "digits", "widths": (4, 8), "num_hidden_layers": (1, 2), "seeds": range(4), "epochs": 1},
    "small": {
        "dataset": "digits", "widths": (8, 16, 32, 64, 128, 256, 512), "num_hidden_layers": (1, 2, 3, 4, 5),
        "seeds": range(8), "epochs": 40,
    },
    "full": {
        "dataset": "fashion-mnist", "widths": (8, 16, 32, 64, 128, 256, 512, 1024, 2048),
        "num_hidden_layers": (1, 2, 3, 4, 5), "seeds": range(16), "epochs": 50, "batch_size": 500,
    },
}  # fmt: skip


def _run(size: Size, folder: Path, tell: Callable[[str], None]) -> xr.Dataset:
    options = dict(_SIZES[size])
    dataset = load_dataset(options.pop("dataset"))
    sweep = Sweep(learning_rates=0.1, matchings=_MATCHINGS, num_points=11, **options)
    tell(f"depth: {sweep.num_networks} networks")
    swept = train_sweep(sweep, dataset, folder, tell).squeeze(
        ("optimizer", "learning_rate"), drop=True
    )
    barrier = measured(swept, "barrier").drop_vars("split").rename(num_hidden_layers="depth")
    own = (
        swept["endpoint_loss"]
        .sel(split="test", drop=True)
        .mean("network")
        .rename(num_hidden_layers="depth")
    )
    num_inputs = math.prod(dataset.input_shape)
    bounds = [
        float(width_upper_bound(THRESHOLD, num_inputs, depth).log_width[-1]) / math.log(10)
        for depth in sweep.num_hidden_layers
    ]
    results = xr.Dataset(
        {
            "barrier": barrier.assign_attrs(units="nats", long_name="test barrier"),
            "own_loss": own.assign_attrs(units="nats", long_name="test loss of the networks"),
            "log10_width_bound": (
                "depth",
                bounds,
                {"long_name": "Theorem 5.2 with T = 1; inf: beyond all floats"},
            ),
        }
    )
    return results.assign_attrs(dataset=dataset.name, num_inputs=num_inputs)


def _barriers(results: xr.Dataset, matching: str) -> np.ndarray:
    """`[pairs, depths, widths]`."""
    return results["barrier"].sel(matching=matching).transpose("pair", "depth", "width").values


def _widths_needed(results: xr.Dataset, barriers: np.ndarray) -> np.ndarray:
    """By depth, for the mean over pairs; inf where the widest networks of the grid do not suffice."""
    widths = results["width"].values
    return np.array([needed_width(widths, row, THRESHOLD) for row in np.nanmean(barriers, axis=0)])


def _of_widths(
    results: xr.Dataset,
    matching: str,
    statistic: Callable[[np.ndarray, np.ndarray], float],
    fewest: int,
    censored: bool,
) -> Estimate:
    """A statistic of depths and needed widths: of those within the grid, or, where `censored`, of
    all, with the widest
    for those beyond it; nan of fewer depths than `fewest`."""
    barriers, widest = _barriers(results, matching), float(results["width"][-1])
    depths = results["depth"].values.astype(float)
    kept = (
        np.full(len(depths), True) if censored else np.isfinite(_widths_needed(results, barriers))
    )

    def of_pairs(drawn: np.ndarray) -> float:
        return statistic(depths[kept], np.minimum(_widths_needed(results, drawn), widest)[kept])

    if kept.sum() < fewest:
        return Estimate(np.nan, np.nan, np.nan, len(barriers))
    return bootstrap_estimate(of_pairs, barriers)


def _octaves_per_layer(depths: np.ndarray, widths: np.ndarray) -> float:
    return float(slopes(depths, np.log2(widths)))


def _factors_per_layer(results: xr.Dataset) -> Estimate:
    """How much wider a further layer makes networks, as a power of the number of inputs."""
    found = _of_widths(results, "covariance", _octaves_per_layer, fewest=3, censored=False)
    scale = math.log2(results.attrs["num_inputs"])
    return Estimate(found.value / scale, found.low / scale, found.high / scale, found.samples)


def _exponential_against_power(depths: np.ndarray, widths: np.ndarray) -> float:
    """log10 of the residual of a power law over that of an exponential, both fitted to log widths."""

    def residual(x: np.ndarray) -> float:
        fit = np.polynomial.polynomial.Polynomial.fit(x, np.log(widths), 1)
        return (
            float(np.sum((np.log(widths) - fit(x)) ** 2)) + 1e-6
        )  # a perfect fit is no infinite evidence

    return math.log10(residual(np.log(depths)) / residual(depths))


def _log_width_ratio(depths: np.ndarray, widths: np.ndarray) -> float:
    """By what factor the log-width grows from one depth to the next, geometric mean over depths."""
    logs = np.log(widths)
    return float((logs[-1] / logs[0]) ** (1 / (depths[-1] - depths[0])))


def _worst_at_widest(results: xr.Dataset, matching: str) -> Estimate:
    at_widest = results["barrier"].sel(matching=matching).isel(width=-1)
    return mean_estimate(at_widest.isel(depth=int(at_widest.mean("pair").argmax("depth"))))


def _claims() -> tuple[Claim, ...]:
    infinity, needed = (
        float("inf"),
        f"width from which on the mean test barrier is below {THRESHOLD} nats",
    )
    beyond = (
        "Depths for which no width of the grid suffices are left out; at least 3 have to be left."
    )
    claims = []
    for matching in _MATCHINGS:
        name = f"matched by {matching}"
        claims += [
            Claim(
                "The deeper the networks, the wider they have to be.",
                "paper, Theorem 5.2; summary, Executive Summary", f"{name}: octaves of the {needed}, per hidden layer",
                (0.0, infinity),
                functools.partial(_of_widths, matching=matching, statistic=_octaves_per_layer, fewest=2, censored=True),
                "Where no width of the grid suffices the widest stands in, which understates the growth.",
            ),
            Claim(
                "The width that is needed grows exponentially with the depth, not like a power of it.",
                "summary, Executive Summary", f"{name}: log10 of the squared residual of a power law over that of an "
                f"exponential, both through the {needed}",
                (0.0, infinity),
                functools.partial(
                    _of_widths, matching=matching, statistic=_exponential_against_power, fewest=3, censored=False
                ),
                f"Above 0 the exponential fits better. {beyond}",
            ),
        ]  # fmt: skip
    covariance = functools.partial(_of_widths, matching="covariance")
    power = f"matched by covariance: power of d = number of inputs by which the {needed} grows, per hidden layer"
    return (
        *claims,
        Claim(
            "Networks of any depth are connected if they are wide enough.",
            "paper, Theorem 5.2",
            "matched by covariance: test barrier of the widest networks at the worst depth, nats",
            (0.0, THRESHOLD),
            functools.partial(_worst_at_widest, matching="covariance"),
            "The theorem gives some width; the widest networks of the grid stand for it.",
        ),
        Claim(
            "k hidden layers need width d^k: every further layer makes it d times as wide.",
            "summary, Key Results",
            power,
            (0.75, 1.25),
            _factors_per_layer,
            f"1, and a quarter to either side. {beyond}",
        ),
        Claim(
            "Width O(d^k) is enough: a further layer makes it at most d times as wide.",
            "summary, Key Results",
            power,
            (-infinity, 1.0),
            _factors_per_layer,
            beyond,
        ),
        Claim(
            "What the theorem's tower says is enough is also needed: each layer is exponential in the one before.",
            "paper, Theorems 5.2 and 5.3",
            f"matched by covariance: ratio of the logarithms of the {needed}, from one depth to the next",
            (2.0, infinity),
            functools.partial(covariance, statistic=_log_width_ratio, fewest=2, censored=False),
            "log m_l = m_{l-1} log(T / eps): a layer of m neurons multiplies the logarithm by m over those of the "
            "layer "
            "before, here taken as 2 at least.",
        ),
    )


def _draw(results: xr.Dataset) -> Figure:
    figure = Figure(figsize=(15, 4.4), layout="constrained")
    panels = figure.subplots(1, 3)
    widths, depths = results["width"].values, results["depth"].values
    shades = np.linspace(0.25, 1, len(depths))
    for depth, shade in zip(depths, shades, strict=True):
        row = results["barrier"].sel(depth=depth, matching="covariance")
        label = f"{depth} hidden layer{'s' * int(depth > 1)}"
        panels[0].plot(
            widths,
            row.mean("pair"),
            "o-",
            color=COLOURS["covariance"],
            alpha=shade,
            label=label,
            markersize=4,
        )
    panels[0].axhline(THRESHOLD, color="black", linestyle="--", linewidth=1)
    panels[0].annotate(
        f"threshold {THRESHOLD} nats", (widths[0], THRESHOLD), va="bottom", fontsize=8
    )
    panels[0].set(
        xscale="log",
        xlabel="width, neurons per hidden layer",
        ylabel="test barrier (nats)",
        title="Matched by covariance",
    )
    for shift, matching in enumerate(_MATCHINGS):
        needed = _widths_needed(results, _barriers(results, matching))
        inside = np.isfinite(needed)
        x = depths + 0.06 * (shift - 1)
        panels[1].plot(
            x[inside], needed[inside], "o-", color=COLOURS[matching], label=MATCHING_NAMES[matching]
        )
        panels[1].plot(
            x[~inside],
            np.full((~inside).sum(), 1.15 * widths[-1]),
            "^",
            color=COLOURS[matching],
            mfc="none",
        )
    panels[1].axhline(widths[-1], color="grey", linewidth=1, linestyle=":")
    panels[1].annotate(
        "widest run; open triangles: more is needed", (depths[0], widths[-1]), va="top", fontsize=8
    )
    panels[1].set(
        yscale="log",
        xticks=depths,
        xlabel="hidden layers",
        ylabel="needed width",
        title=f"Width for a barrier below {THRESHOLD} nats",
    )
    needed = _widths_needed(results, _barriers(results, "covariance"))
    start = needed[0] if np.isfinite(needed[0]) else widths[-1]
    logs = [
        np.log10(np.where(np.isfinite(needed), needed, np.nan)),
        np.log10(start) + (depths - 1) * np.log10(results.attrs["num_inputs"]),
    ]
    bound = results["log10_width_bound"].values
    panels[2].plot(depths, logs[0], "o-", color=COLOURS["covariance"], label="measured, covariance")
    panels[2].plot(depths, logs[1], "--", color="black", label="summary, factor d per layer")
    finite = np.isfinite(bound)
    panels[2].plot(
        depths[finite],
        bound[finite],
        "D--",
        color=COLOURS["activations"],
        label="Theorem 5.2, T = 1; then a tower",
    )
    panels[2].set(
        yscale="log",
        xticks=depths,
        xlabel="hidden layers",
        ylabel="log10 of the width",
        title="Beside the bounds",
    )
    number_ticks(panels[0], widths)
    for panel in panels[1:]:
        plain_log_ticks(panel)
    for axes, place in zip(panels, ("upper right", "lower right", "best"), strict=True):
        axes.legend(frameon=False, fontsize=8, loc=place)
        tidy(axes)
    figure.suptitle(f"{results.attrs['dataset']}, {results.sizes['pair']} pairs", fontsize=10)
    return figure


EXPERIMENT = Experiment(
    "depth",
    "Depth 1 to 5 against width",
    "ReLU MLPs with 1 to 5 equal hidden layers of 8 to 512 neurons are trained on 8 x 8 digits with the protocol of "
    "Figure 2 "
    "at its largest rate, 0.1 (full: Fashion-MNIST, up to 2,048 neurons), 8 networks, so 4 pairs, of each shape. Pairs "
    "are matched by weights, "
    f"covariance and activations. The width that is needed is the one from which on the mean test barrier stays below "
    f"{THRESHOLD} nats, interpolated in the logarithm of the width. Intervals are bootstraps over pairs.",
    _run,
    _claims(),
    _draw,
)
