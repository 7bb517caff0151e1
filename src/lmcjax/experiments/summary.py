"""Results in numbers: means, spreads, paired differences, and the tables that show them."""

import itertools
from typing import Any

import numpy as np
import xarray as xr
from rich import box
from rich.table import Table
from scipy import stats

MATCHING_NAMES = {
    "none": "no matching",
    "weights": "weights (naive)",
    "covariance": "covariance",
    "activations": "activations",
    "correlation": "correlation",
}
MANY_LAYERS = 3  # more are summarised
COMPARISONS = (("covariance", "weights"), ("activations", "weights"), ("covariance", "activations"))


def measured(results: xr.Dataset, quantity: str, split: str = "test") -> xr.DataArray:
    """One quantity by pair, matching and whatever was swept, with nan where a run diverged."""
    return results[quantity].sel(split=split).where(results["finite"].sel(split=split))


def mean_and_std(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean and sample standard deviation over pairs; the deviation of a single one is nan."""
    mean = values.mean("pair")
    if values.sizes["pair"] < 2:
        return mean, xr.full_like(mean, np.nan)
    return mean, values.std("pair", ddof=1)


def paired_difference(
    values: xr.DataArray, first: str, second: str, *, confidence: float = 0.95
) -> xr.Dataset:
    """First matching minus second, on the same pairs of networks: mean over pairs and Student's t
    interval.

    Args:
        values: with dimensions `learning_rate`, `pair`, `matching`.
        first: a matching.
        second: the one it is compared with.
        confidence: level of the interval.

    Returns:
        `mean`, `low`, `high` by learning rate; the bounds are nan for fewer than two pairs.
    """
    difference = values.sel(matching=first, drop=True) - values.sel(matching=second, drop=True)
    mean, std = mean_and_std(difference)
    count = difference.notnull().sum("pair")
    margin = stats.t.ppf((1 + confidence) / 2, np.maximum(count - 1, 1)) * std / np.sqrt(count)
    return xr.Dataset({"mean": mean, "low": mean - margin, "high": mean + margin})


def spread(mean: float, std: float, digits: int = 3, sign: str = "") -> str:
    """Mean ± standard deviation as text."""
    if np.isnan(mean):
        return "diverged"
    return (
        f"{mean:{sign}.{digits}f}"
        if np.isnan(std)
        else f"{mean:{sign}.{digits}f} ± {std:.{digits}f}"
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in ("rate", *columns):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def matching_table(results: xr.Dataset, quantity: str, title: str) -> Table:
    """Learning rates by matchings: mean and standard deviation over pairs, on the test set."""
    mean, std = mean_and_std(measured(results, quantity))
    table = _table(title, *(MATCHING_NAMES[m] for m in results.matching.values))
    for rate in results.learning_rate.values:
        cells = (
            {"learning_rate": rate, "matching": matching} for matching in results.matching.values
        )
        table.add_row(
            f"{rate:.3g}", *(spread(float(mean.sel(cell)), float(std.sel(cell))) for cell in cells)
        )
    return table


def difference_table(results: xr.Dataset, quantity: str = "midpoint_loss") -> Table:
    """Paired differences between the matchings with 95 % intervals, on the test set."""
    values = measured(results, quantity)
    comparisons = [pair for pair in COMPARISONS if {*pair} <= {*results.matching.values}]
    table = _table(
        "Midpoint test loss, paired differences ± half-width of the 95 % interval (nats)",
        *(f"{first}\n- {second}" for first, second in comparisons),
    )
    differences = [paired_difference(values, first, second) for first, second in comparisons]
    for rate in results.learning_rate.values:
        row = [d.sel(learning_rate=rate) for d in differences]
        cells = (spread(float(d["mean"]), float(d["high"] - d["mean"]), sign="+") for d in row)
        table.add_row(f"{rate:.3g}", *cells)
    return table


def endpoint_table(results: xr.Dataset) -> Table:
    """The trained networks themselves: test loss and accuracy, training loss, runs that diverged."""
    table = _table(
        "The trained networks", "test loss", "test accuracy, %", "last training loss", "diverged"
    )
    finite = results["training_finite"]
    quantities = (
        (results["endpoint_loss"].sel(split="test").where(finite), 3),
        (100 * results["endpoint_accuracy"].sel(split="test").where(finite), 1),
        (results["training_loss"].isel(epoch=-1).where(finite), 4),
    )
    for rate in results.learning_rate.values:
        cells = []
        for values, digits in quantities:
            runs = values.sel(learning_rate=rate).values.ravel()
            runs = runs[~np.isnan(runs)]
            cells.append(
                spread(float(runs.mean()), float(runs.std(ddof=1)), digits)
                if runs.size
                else "diverged"
            )
        good = finite.sel(learning_rate=rate)
        table.add_row(f"{rate:.3g}", *cells, f"{int((~good).sum())} of {good.size}")
    return table


def dimension_table(results: xr.Dataset) -> Table:
    """Approximate dimensions by similarity and layer, means over pairs; of many layers median,
    least and most.
    """
    dimensions = results["approximate_dimension"].mean("pair")
    few = results.sizes["layer"] <= MANY_LAYERS
    layers = " / ".join(str(number + 1) for number in range(results.sizes["layer"]))
    title = f"layers {layers}" if few else f"median (range) over {results.sizes['layer']} groups"
    table = _table(
        f"Approximate dimension of network A, {title}",
        *(MATCHING_NAMES[s] for s in results.similarity.values),
    )

    def cell(values: np.ndarray) -> str:
        if few:
            return " / ".join(f"{value:.3g}" for value in values)
        return f"{np.median(values):.3g} ({values.min():.3g} to {values.max():.3g})"

    for rate in results.learning_rate.values:
        row = dimensions.sel(learning_rate=rate)
        table.add_row(
            f"{rate:.3g}", *(cell(row.sel(similarity=s).values) for s in results.similarity.values)
        )
    return table


AXES = {  # of a sweep, with their labels
    "width": "width, neurons per hidden layer",
    "num_hidden_layers": "hidden layers",
    "learning_rate": "peak learning rate",
    "optimizer": "optimizer",
}


def own_loss(results: xr.Dataset) -> xr.DataArray:
    """Test loss of the networks themselves by cell and pair, mean of the two; nan where one
    diverged.
    """
    losses = results["endpoint_loss"].sel(split="test")
    return losses.where(np.isfinite(losses)).mean("network", skipna=False)


def best_cell(results: xr.Dataset) -> dict[str, Any]:
    """The cell of a sweep whose networks have the least mean test loss.

    Raises:
        ValueError: no cell has a network that did not diverge.
    """
    mean = own_loss(results).mean("pair")
    if not mean.notnull().any():
        raise ValueError("no network of this sweep has a finite test loss")
    return {str(name): mean[name].values[index] for name, index in mean.argmin(...).items()}


def sweep_tables(results: xr.Dataset) -> list[Table]:
    """Of a sweep, by width, depth and optimizer, each at the learning rate with the least test
    loss: barriers and
    losses half-way, on the test set."""
    tables = []
    for quantity, title in (("barrier", "Test barrier"), ("midpoint_loss", "Test loss half-way")):
        names = [MATCHING_NAMES[m] for m in results.matching.values]
        table = _table(
            f"{title} (nats, mean ± std over pairs)",
            "layers",
            "optimizer",
            "best rate",
            "own loss",
            *names,
        )
        table.columns[0].header = "width"
        for width, depth, optimizer in itertools.product(
            *(results[a].values for a in AXES if a != "learning_rate")
        ):
            rows = results.sel(width=[width], num_hidden_layers=[depth], optimizer=[optimizer])
            try:
                cell = best_cell(rows)
            except ValueError:
                table.add_row(*map(str, (width, depth, optimizer)), "none finite")
                continue
            best = rows.sel(cell)
            mean, std = mean_and_std(measured(best, quantity))
            own_mean, own_std = mean_and_std(own_loss(best))
            own = spread(float(own_mean), float(own_std), digits=2)
            cells = (
                spread(float(mean.sel(matching=m)), float(std.sel(matching=m)), digits=2)
                for m in results.matching.values
            )
            table.add_row(
                *map(str, (width, depth, optimizer)), f"{cell['learning_rate']:.3g}", own, *cells
            )
        tables.append(table)
    return tables


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
