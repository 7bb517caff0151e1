"""Tables of stored results."""

import itertools

import numpy as np
import xarray as xr
from rich import box
from rich.table import Table

from lmcjax.results._measures import (
    MATCHING_LABELS,
    best_cell,
    mean_and_std,
    measured,
    own_loss,
    paired_difference,
)

MANY_LAYERS = 3  # of more layers than these, tables and figures show the median
COMPARISONS = (
    ("covariance", "weights"),
    ("activations", "weights"),
    ("covariance", "activations"),
)


def figure2_tables(results: xr.Dataset) -> list[Table]:
    """Every table of Figure 2, in reading order."""
    return [
        matching_table(
            results, "midpoint_loss", "Test loss half-way, t = 1/2 (nats, mean ± std over pairs)"
        ),
        matching_table(
            results,
            "barrier",
            "Test barrier, max of loss minus chord (nats, mean ± std over pairs)",
        ),
        difference_table(results),
        endpoint_table(results),
        dimension_table(results),
    ]


def matching_table(results: xr.Dataset, quantity: str, title: str) -> Table:
    """Learning rates by matchings: mean and standard deviation over pairs, on the test set."""
    mean, std = mean_and_std(measured(results, quantity))
    matchings = results.matching.values
    table = _table(title, "rate", *(MATCHING_LABELS[matching] for matching in matchings))
    for rate in results.learning_rate.values:
        row = []
        for matching in matchings:
            cell = {"learning_rate": rate, "matching": matching}
            row.append(spread(float(mean.sel(cell)), float(std.sel(cell))))
        table.add_row(f"{rate:.3g}", *row)
    return table


def difference_table(results: xr.Dataset, quantity: str = "midpoint_loss") -> Table:
    """Paired differences between the matchings with 95 % intervals, on the test set."""
    values = measured(results, quantity)
    columns = []
    differences = []
    for first, second in COMPARISONS:
        if {first, second} <= set(results.matching.values):
            columns.append(f"{first}\n- {second}")
            differences.append(paired_difference(values, first, second))
    table = _table(
        "Midpoint test loss, paired differences ± half-width of the 95 % interval (nats)",
        "rate",
        *columns,
    )
    for rate in results.learning_rate.values:
        row = []
        for difference in differences:
            at_rate = difference.sel(learning_rate=rate)
            half_width = at_rate["high"] - at_rate["mean"]
            row.append(spread(float(at_rate["mean"]), float(half_width), sign="+"))
        table.add_row(f"{rate:.3g}", *row)
    return table


def endpoint_table(results: xr.Dataset) -> Table:
    """The trained networks themselves: test loss and accuracy, training loss, diverged runs."""
    finite = results["training_finite"]
    test_loss = results["endpoint_loss"].sel(split="test").where(finite)
    test_accuracy = 100 * results["endpoint_accuracy"].sel(split="test").where(finite)
    training_loss = results["training_loss"].isel(epoch=-1).where(finite)
    table = _table(
        "The trained networks",
        "rate",
        "test loss",
        "test accuracy, %",
        "last training loss",
        "diverged",
    )
    for rate in results.learning_rate.values:
        good = finite.sel(learning_rate=rate)
        table.add_row(
            f"{rate:.3g}",
            _spread_of_runs(test_loss.sel(learning_rate=rate), digits=3),
            _spread_of_runs(test_accuracy.sel(learning_rate=rate), digits=1),
            _spread_of_runs(training_loss.sel(learning_rate=rate), digits=4),
            f"{int((~good).sum())} of {good.size}",
        )
    return table


def dimension_table(results: xr.Dataset) -> Table:
    """Approximate dimensions by similarity and layer, means over pairs.

    Of many layers the table has the median, the least and the most.
    """
    dimensions = results["approximate_dimension"].mean("pair")
    num_layers = results.sizes["layer"]
    if num_layers <= MANY_LAYERS:
        numbers = " / ".join(str(number) for number in range(1, num_layers + 1))
        what = f"layers {numbers}"
    else:
        what = f"median (range) over {num_layers} groups"
    similarities = results.similarity.values
    table = _table(
        f"Approximate dimension of network A, {what}",
        "rate",
        *(MATCHING_LABELS[similarity] for similarity in similarities),
    )
    for rate in results.learning_rate.values:
        row = []
        for similarity in similarities:
            by_layer = dimensions.sel(learning_rate=rate, similarity=similarity)
            row.append(_dimensions_in_words(by_layer.values))
        table.add_row(f"{rate:.3g}", *row)
    return table


def sweep_tables(results: xr.Dataset) -> list[Table]:
    """Barriers and losses half-way of a sweep, by width, depth and optimizer, on the test set.

    Each at the learning rate at which the networks themselves have the least test loss.
    """
    return [
        _architecture_table(results, "barrier", "Test barrier (nats, mean ± std over pairs)"),
        _architecture_table(
            results, "midpoint_loss", "Test loss half-way (nats, mean ± std over pairs)"
        ),
    ]


def _architecture_table(results: xr.Dataset, quantity: str, title: str) -> Table:
    matchings = results.matching.values
    table = _table(
        title,
        "width",
        "layers",
        "optimizer",
        "best rate",
        "own loss",
        *(MATCHING_LABELS[matching] for matching in matchings),
    )
    architectures = itertools.product(
        results.width.values, results.num_hidden_layers.values, results.optimizer.values
    )
    for width, depth, optimizer in architectures:
        name = (str(width), str(depth), str(optimizer))
        rates = results.sel(width=[width], num_hidden_layers=[depth], optimizer=[optimizer])
        try:
            cell = best_cell(rates)
        except ValueError:
            table.add_row(*name, "none finite")
            continue
        best = rates.sel(cell)
        own_mean, own_std = mean_and_std(own_loss(best))
        row = [f"{cell['learning_rate']:.3g}", spread(float(own_mean), float(own_std), digits=2)]
        mean, std = mean_and_std(measured(best, quantity))
        for matching in matchings:
            of_matching = (float(mean.sel(matching=matching)), float(std.sel(matching=matching)))
            row.append(spread(*of_matching, digits=2))
        table.add_row(*name, *row)
    return table


def spread(mean: float, std: float, digits: int = 3, sign: str = "") -> str:
    """Mean ± standard deviation as text; the mean alone where there is no deviation."""
    if np.isnan(mean):
        return "diverged"
    text = f"{mean:{sign}.{digits}f}"
    if np.isnan(std):
        return text
    return f"{text} ± {std:.{digits}f}"


def _spread_of_runs(values: xr.DataArray, digits: int) -> str:
    """The spread over all runs that did not diverge."""
    runs = values.values.ravel()
    runs = runs[~np.isnan(runs)]
    if not runs.size:
        return "diverged"
    return spread(float(runs.mean()), float(runs.std(ddof=1)), digits)


def _dimensions_in_words(dimensions: np.ndarray) -> str:
    if len(dimensions) <= MANY_LAYERS:
        return " / ".join(f"{value:.3g}" for value in dimensions)
    median = np.median(dimensions)
    return f"{median:.3g} ({dimensions.min():.3g} to {dimensions.max():.3g})"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
