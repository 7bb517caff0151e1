"""Results in numbers: means, spreads, paired differences, and the tables that show them."""

import numpy as np
import xarray as xr
from rich.table import Table
from scipy import stats

METHOD_NAMES = {
    "none": "no matching",
    "weights": "weights (naive)",
    "covariance": "covariance",
    "activations": "activations",
}
COMPARISONS = (("covariance", "weights"), ("activations", "weights"), ("covariance", "activations"))


def measured(results: xr.Dataset, quantity: str, split: str = "test") -> xr.DataArray:
    """One quantity by learning rate, repetition and method, with nan where a run diverged."""
    return results[quantity].sel(split=split).where(results["finite"].sel(split=split))


def mean_and_std(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean and sample standard deviation over repetitions; the deviation of a single one is nan."""
    mean = values.mean("repetition")
    if values.sizes["repetition"] < 2:
        return mean, xr.full_like(mean, np.nan)
    return mean, values.std("repetition", ddof=1)


def paired_difference(values: xr.DataArray, first: str, second: str, *, confidence: float = 0.95) -> xr.Dataset:
    """First method minus second, on the same pairs of networks: mean over repetitions and Student's t interval.

    Args:
        values: with dimensions `learning_rate`, `repetition`, `method`.
        first: a method.
        second: the method it is compared with.
        confidence: level of the interval.

    Returns:
        `mean`, `low`, `high` by learning rate; the bounds are nan for fewer than two repetitions.
    """
    difference = values.sel(method=first, drop=True) - values.sel(method=second, drop=True)
    mean, std = mean_and_std(difference)
    count = difference.notnull().sum("repetition")
    margin = stats.t.ppf((1 + confidence) / 2, np.maximum(count - 1, 1)) * std / np.sqrt(count)
    return xr.Dataset({"mean": mean, "low": mean - margin, "high": mean + margin})


def _spread(mean: float, std: float, digits: int = 3) -> str:
    if np.isnan(mean):
        return "diverged"
    return f"{mean:.{digits}f}" if np.isnan(std) else f"{mean:.{digits}f} ± {std:.{digits}f}"


def method_table(results: xr.Dataset, quantity: str, title: str) -> Table:
    """Learning rates by methods: mean and standard deviation over repetitions, on the test set."""
    mean, std = mean_and_std(measured(results, quantity))
    table = Table("learning rate", *(METHOD_NAMES[m] for m in results.method.values), title=title)
    for rate in results.learning_rate.values:
        cells = [mean.sel(learning_rate=rate), std.sel(learning_rate=rate)]
        table.add_row(
            f"{rate:.3g}", *(_spread(*(float(c.sel(method=m)) for c in cells)) for m in results.method.values)
        )
    return table


def difference_table(results: xr.Dataset, quantity: str = "midpoint_loss") -> Table:
    """Paired differences between the matchings with 95 % intervals, on the test set."""
    values = measured(results, quantity)
    table = Table(
        "learning rate",
        *(f"{first} - {second}" for first, second in COMPARISONS),
        title="Midpoint test loss, paired differences, nats, 95 % interval",
    )
    differences = [paired_difference(values, first, second) for first, second in COMPARISONS]
    for rate in results.learning_rate.values:
        row = [d.sel(learning_rate=rate) for d in differences]
        table.add_row(f"{rate:.3g}", *(f"{d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]" for d in row))
    return table


def endpoint_table(results: xr.Dataset) -> Table:
    """The trained networks themselves: test loss and accuracy, training loss, runs that diverged."""
    table = Table(
        "learning rate",
        "test loss, nats",
        "test accuracy, %",
        "last epoch's training loss",
        "diverged",
        title="Trained networks, both of each pair",
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
            cells.append(_spread(runs.mean(), runs.std(ddof=1), digits) if runs.size else "diverged")
        runs = finite.sel(learning_rate=rate)
        table.add_row(f"{rate:.3g}", *cells, f"{int((~runs).sum())} of {runs.size}")
    return table


def dimension_table(results: xr.Dataset) -> Table:
    """Approximate dimensions by similarity and layer, means over repetitions."""
    dimensions = results["approximate_dimension"].mean("repetition")
    columns = [(s, layer) for s in results.similarity.values for layer in results.layer.values]
    table = Table(
        "learning rate",
        *(f"{s}\nlayer {int(np.flatnonzero(results.layer.values == layer)[0]) + 1}" for s, layer in columns),
        title="Approximate dimension of network A",
    )
    for rate in results.learning_rate.values:
        row = dimensions.sel(learning_rate=rate)
        table.add_row(f"{rate:.3g}", *(f"{float(row.sel(similarity=s, layer=layer)):.3g}" for s, layer in columns))
    return table


def all_tables(results: xr.Dataset) -> list[Table]:
    """Every table of Figure 2, in reading order."""
    return [
        method_table(results, "midpoint_loss", "Test loss half-way (LMC error), nats, mean ± std over repetitions"),
        method_table(results, "barrier", "Test barrier (max of loss minus chord), nats, mean ± std over repetitions"),
        difference_table(results),
        endpoint_table(results),
        dimension_table(results),
    ]
