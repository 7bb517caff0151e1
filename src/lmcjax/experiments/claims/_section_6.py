"""The claims about learning rates, optimizers, dimensions and independence, on the results of
`optimizers`.
"""

from collections.abc import Callable

import numpy as np
import xarray as xr
from scipy import stats

from lmcjax.experiments.claims._claim import Claim, Estimate
from lmcjax.experiments.claims._estimates import bootstrap_estimate, exponents, mean_estimate

_INFINITY = float("inf")
_UP_TO = 0.026  # 2.5e-2 is the fifth of Figure 2's rates
_FIGURE_2 = "SGD with momentum"


def _losses(results: xr.Dataset, matching: str, optimizer: str = "sgd") -> np.ndarray:
    """Midpoint losses `[pairs, rates]`."""
    one = results["midpoint_loss"].sel(optimizer=optimizer, matching=matching)
    return one.transpose("pair", "learning_rate").values


def _fall(results: xr.Dataset, matching: str) -> Estimate:
    return mean_estimate(exponents(results["learning_rate"].values, _losses(results, matching)))


def _log_ratio(results: xr.Dataset, first: str, second: str, optimizer: str = "sgd") -> np.ndarray:
    return np.log(_losses(results, first, optimizer) / _losses(results, second, optimizer))


def _ratio_up_to(results: xr.Dataset, matching: str) -> Estimate:
    """The geometric mean of the ratio of a matching's midpoint loss to the naive one's."""
    rates = results["learning_rate"].values <= _UP_TO
    found = mean_estimate(_log_ratio(results, matching, "weights")[:, rates].mean(1))
    value, low, high = (float(np.exp(value)) for value in found[:3])
    return Estimate(value, low, high, found.samples)


def _naive_minus(results: xr.Dataset, matching: str) -> Estimate:
    return mean_estimate((_losses(results, "weights") - _losses(results, matching))[:, -1])


def _worst_difference(results: xr.Dataset, other: str) -> Estimate:
    """Covariance minus other, at the rate where the mean over pairs is largest."""
    differences = _losses(results, "covariance") - _losses(results, other)
    return bootstrap_estimate(lambda drawn: float(np.max(drawn.mean(0))), differences)


def _mean_difference(results: xr.Dataset, other: str) -> Estimate:
    return mean_estimate((_losses(results, "covariance") - _losses(results, other)).mean(1))


def _advantage(results: xr.Dataset) -> Estimate:
    """Of covariance over naive matching, as a log ratio, under Adam less that under SGD, mean over
    rates.
    """
    adam, sgd = (
        np.nanmean(_log_ratio(results, "weights", "covariance", o), axis=1) for o in ("adam", "sgd")
    )
    return mean_estimate(adam - sgd)


def _naive_dimension(results: xr.Dataset) -> Estimate:
    """Of what is possible, mean over layers and the rates up to 2.5e-2."""
    share = (
        results["dimension"].sel(optimizer="sgd", similarity="weights")
        / results["largest_dimension"]
    )
    kept = share.isel(learning_rate=results["learning_rate"].values <= _UP_TO)
    return mean_estimate(kept.mean(("layer", "learning_rate")))


def _naive_dimension_change(results: xr.Dataset) -> Estimate:
    naive = results["dimension"].sel(optimizer="sgd", similarity="weights").mean("layer")
    return mean_estimate(naive.isel(learning_rate=-1) / naive.isel(learning_rate=0))


def _dimension(results: xr.Dataset, similarity: str) -> Estimate:
    mean = (
        results["dimension"]
        .sel(optimizer="sgd", similarity=similarity)
        .mean(("layer", "learning_rate"))
    )
    return mean_estimate(mean)


def _dependence(results: xr.Dataset, optimizer: str) -> np.ndarray:
    """Of the first layer's neurons, by group of networks, at the rate at which networks have the
    least test loss.
    """
    own = results["own_loss"].sel(optimizer=optimizer).mean("pair")
    best = int(own.fillna(_INFINITY).argmin("learning_rate"))
    return (
        results["independence_effect"]
        .sel(optimizer=optimizer)
        .isel(layer=0, learning_rate=best)
        .values
    )


def _independence(results: xr.Dataset, optimizer: str) -> Estimate:
    if optimizer not in results["optimizer"].values:
        return Estimate(np.nan, np.nan, np.nan, 0)
    return mean_estimate(_dependence(results, optimizer))


def _more_dependence(results: xr.Dataset) -> Estimate:
    return mean_estimate(
        np.abs(_dependence(results, "adam")) - np.abs(_dependence(results, "sgd_plain"))
    )


def dimension_correlation(
    results: xr.Dataset, similarity: str, layer: int | None, quantity: str
) -> Estimate:
    """Spearman's rank correlation of a dimension with the barrier or midpoint loss over all
    optimizers and rates, means
    over pairs; a layer, or the mean over layers."""
    dimension = results["dimension"].sel(similarity=similarity)
    if layer is not None and layer >= results.sizes["layer"]:
        return Estimate(np.nan, np.nan, np.nan, 0)
    dimension = dimension.mean("layer") if layer is None else dimension.isel(layer=layer)
    other = results[quantity].sel(matching=similarity)
    pairs = [
        values.transpose("pair", "optimizer", "learning_rate").values
        for values in (dimension, other)
    ]

    def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
        means = [
            values.mean(0).ravel() for values in (x, y)
        ]  # nan where any network of a cell diverged
        kept = np.isfinite(means[0]) & np.isfinite(means[1])
        return (
            float(stats.spearmanr(means[0][kept], means[1][kept]).statistic)
            if kept.sum() > 2
            else np.nan
        )

    return bootstrap_estimate(rank_correlation, *pairs)


def _claim(
    statement: str,
    source: str,
    quantity: str,
    holds: tuple[float, float],
    measure: Callable[..., Estimate],
    *arguments: object,
    why: str = "",
) -> Claim:
    return Claim(
        statement, source, quantity, holds, lambda results: measure(results, *arguments), why
    )


_SECTION_6, _KEY_RESULTS = "paper, Section 6", "summary, Key Results"
_NAMES = {"weights": "naive", "covariance": "covariance", "activations": "activation"}

CLAIMS: tuple[Claim, ...] = (
    *(
        _claim(
            "The loss half-way falls with the learning rate.",
            _SECTION_6,
            f"{_FIGURE_2}, {name} matching: exponent of the rate in the midpoint test loss",
            (-_INFINITY, 0.0),
            _fall,
            matching,
        )
        for matching, name in _NAMES.items()
    ),
    *(
        _claim(
            f"Up to a rate of 2.5e-2 {_NAMES[matching]} matching is far better than naive matching.",
            _SECTION_6,
            f"{_FIGURE_2}: ratio of the midpoint test losses, {_NAMES[matching]} to naive, geometric mean over "
            "rates up to 2.5e-2",
            (0.0, 2 / 3),
            _ratio_up_to,
            matching,
            why="Far: a third less at least; the paper's curves have 0.38 (covariance) and 0.31 (activations).",
        )
        for matching in ("covariance", "activations")
    ),
    *(
        _claim(
            f"At the largest rate, 1e-1, naive matching is as good as {_NAMES[matching]} matching, or better.",
            _SECTION_6,
            f"{_FIGURE_2}: midpoint test loss of naive less that of {_NAMES[matching]} matching, nats",
            (-_INFINITY, 0.02),
            _naive_minus,
            matching,
            why="As good: worse by 0.02 nats at most; the paper has -0.014.",
        )
        for matching in ("covariance", "activations")
    ),
    _claim(
        "The weights that naive matching compares have a dimension in the hundreds, of 512 neurons.",
        _SECTION_6,
        f"{_FIGURE_2}: naive dimension as a share of the smaller of inputs and neurons, rates up to 2.5e-2",
        (0.2, 1.0),
        _naive_dimension,
        why="Hundreds: 100 of 512 at least. As a share, since widths below 512 cannot reach hundreds.",
    ),
    _claim(
        "The naive dimension falls at large rates.",
        _SECTION_6,
        f"{_FIGURE_2}: naive dimension at the largest rate over that at the smallest, mean of layers",
        (0.0, 1.0),
        _naive_dimension_change,
    ),
    *(
        _claim(
            f"What {_NAMES[similarity]} matching compares has a dimension below 10.",
            _SECTION_6,
            f"{_FIGURE_2}: approximate dimension, mean over layers and rates",
            (1.0, 10.0),
            _dimension,
            similarity,
        )
        for similarity in ("covariance", "activations")
    ),
    *(
        _claim(
            f"Covariance matching consistently outperforms {_NAMES[other]} matching.",
            _KEY_RESULTS,
            f"{_FIGURE_2}: midpoint test loss of covariance less that of {_NAMES[other]} matching, nats, at the "
            "rate where it is largest",
            (-_INFINITY, 0.0),
            _worst_difference,
            other,
            why="Consistently: at every rate.",
        )
        for other in ("weights", "activations")
    ),
    *(
        _claim(
            f"Covariance matching significantly outperforms {_NAMES[other]} matching.",
            f"{_KEY_RESULTS}, Mechanism 3",
            f"{_FIGURE_2}: midpoint test loss of covariance less that of {_NAMES[other]} matching, nats, mean "
            "over rates",
            (-_INFINITY, 0.0),
            _mean_difference,
            other,
            why="Significantly: the 95 % interval of the paired difference lies below 0.",
        )
        for other in ("weights", "activations")
    ),
    _claim(
        "With Adam the results are less clear: covariance matching gains less over naive matching than with SGD.",
        _SECTION_6,
        "mean over rates of the log ratio of midpoint test losses, naive to covariance: Adam less SGD with momentum",
        (-_INFINITY, 0.0),
        _advantage,
        why="What is less clear is not said; here, the difference that Figure 2 shows.",
    ),
    *(
        _claim(
            f"Neurons stay independent when trained by {name}.",
            source,
            f"{name}, at its best rate, first layer: dependence of the neurons of a network, in standard deviations "
            f"over permutations",
            (-2.0, 2.0),
            _independence,
            optimizer,
            why="Independent neurons are between -2 and 2 in 95 % of tests; "
            "the mean of four groups of networks lies well within.",
        )
        for optimizer, name, source in (
            ("sgd_plain", "SGD without momentum", "paper, Theorem 3.1; summary, Mechanism 1"),
            ("sgd", _FIGURE_2, "paper, Section 5; summary, Mechanism 1"),
            ("adam", "Adam", "summary, Open Question 1"),
            ("adamw", "AdamW", "summary, Open Question 1"),
        )
    ),
    _claim(
        "Adam makes neurons more dependent than SGD does.",
        "summary, Open Question 1",
        "first layer, each at its best rate: size of the dependence under Adam less that under SGD "
        "without momentum, standard deviations over permutations",
        (0.0, _INFINITY),
        _more_dependence,
    ),
    *(
        _claim(
            "The dimension of what is matched strongly correlates with the barrier: the lower, the better.",
            _KEY_RESULTS,
            f"{_NAMES[similarity]} matching, layer {layer + 1}: rank correlation of dimension and test barrier over "
            "all optimizers and rates",
            (0.7, 1.0),
            dimension_correlation,
            similarity,
            layer,
            "barrier",
            why="Strong: 0.7 at least.",
        )
        for similarity in _NAMES
        for layer in range(3)
    ),
    *(
        _claim(
            "The dimension of what is matched strongly correlates with the loss half-way: the lower, the better.",
            f"{_KEY_RESULTS}; paper, Section 6",
            f"{_NAMES[similarity]} matching, mean over layers: rank correlation of dimension "
            "and midpoint test loss over all optimizers and rates",
            (0.7, 1.0),
            dimension_correlation,
            similarity,
            None,
            "midpoint_loss",
            why="Strong: 0.7 at least.",
        )
        for similarity in _NAMES
    ),
)
