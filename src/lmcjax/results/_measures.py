"""Numbers read off the stored results of a sweep: means, spreads, paired differences."""

from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

MATCHING_LABELS = {
    "none": "no matching",
    "weights": "weights (naive)",
    "covariance": "covariance",
    "activations": "activations",
    "correlation": "correlation",
}
"""What tables and figures call the matchings of stored results."""

SWEPT_AXES = {
    "width": "width, neurons per hidden layer",
    "num_hidden_layers": "hidden layers",
    "learning_rate": "peak learning rate",
    "optimizer": "optimizer",
}
"""The dimensions along which a sweep may vary, with their labels."""

_ARCHITECTURE = ("width", "num_hidden_layers", "optimizer")


def measured(results: xr.Dataset, quantity: str, split: str = "test") -> xr.DataArray:
    """One quantity by pair, matching and whatever was swept; nan where a run diverged."""
    finite = results["finite"].sel(split=split)
    return results[quantity].sel(split=split).where(finite)


def mean_and_std(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean and sample standard deviation over pairs; the deviation of a single one is nan."""
    mean = values.mean("pair")
    if values.sizes["pair"] < 2:
        return mean, xr.full_like(mean, np.nan)
    return mean, values.std("pair", ddof=1)


def paired_difference(
    values: xr.DataArray, first: str, second: str, *, confidence: float = 0.95
) -> xr.Dataset:
    """First matching minus second on the same pairs of networks: the mean and its interval.

    The interval is Student's.

    Args:
        values: with dimensions `learning_rate`, `pair`, `matching`.
        first: a matching.
        second: the one it is compared with.
        confidence: level of the interval.

    Returns:
        `mean`, `low`, `high` by learning rate; the bounds are nan for fewer than two pairs.
    """
    of_first = values.sel(matching=first, drop=True)
    of_second = values.sel(matching=second, drop=True)
    difference = of_first - of_second
    mean, std = mean_and_std(difference)
    count = difference.notnull().sum("pair")
    degrees_of_freedom = np.maximum(count - 1, 1)  # of one pair the deviation is nan anyway
    quantile = stats.t.ppf((1 + confidence) / 2, degrees_of_freedom)
    margin = quantile * std / np.sqrt(count)
    return xr.Dataset({"mean": mean, "low": mean - margin, "high": mean + margin})


def own_loss(results: xr.Dataset) -> xr.DataArray:
    """Test loss of the networks themselves by cell and pair, the mean of the two.

    nan where one of them diverged.
    """
    losses = results["endpoint_loss"].sel(split="test")
    finite = losses.where(np.isfinite(losses))
    return finite.mean("network", skipna=False)


def best_cell(results: xr.Dataset) -> dict[str, Any]:
    """The cell of a sweep whose networks have the least mean test loss.

    Raises:
        ValueError: no cell has a network that did not diverge.
    """
    mean = own_loss(results).mean("pair")
    if not mean.notnull().any():
        raise ValueError("no network of this sweep has a finite test loss")
    cell = {}
    for name, index in mean.argmin(...).items():
        cell[str(name)] = mean[name].values[index]
    return cell


def has_one_architecture(results: xr.Dataset) -> bool:
    """Whether only the learning rate was swept, so that results can be shown along it alone."""
    return all(results.sizes[name] == 1 for name in _ARCHITECTURE)


def of_one_architecture(results: xr.Dataset) -> xr.Dataset:
    """The results of a sweep by learning rate alone; those of training by pair and network too.

    Raises:
        ValueError: several architectures.
    """
    if not has_one_architecture(results):
        raise ValueError(f"results of one architecture, not of {dict(results.sizes)}, are expected")
    by_rate = results.squeeze(_ARCHITECTURE, drop=True)
    seeds = by_rate["seed_of"]
    by_network = {}
    for name in ("training_loss", "training_finite"):
        by_network[name] = by_rate[name].sel(seed=seeds).drop_vars("seed")
    return by_rate.drop_dims("seed").assign(by_network)
