"""Claims about learning rates, optimizers, dimensions and independence, most of Section 6.

They are judged on the results of the experiment `optimizers`.
"""

import functools

import numpy as np
import xarray as xr
from scipy import stats

from lmcjax.experiments.claims._claim import Claim, Estimate, Limits, at_least, at_most
from lmcjax.experiments.claims._estimates import bootstrap_estimate, mean_estimate, no_estimate
from lmcjax.experiments.claims._fits import exponents

_MODERATE_RATE = 0.026  # 2.5e-2 is the fifth of Figure 2's rates


def _moderate_rates(results: xr.Dataset) -> np.ndarray:
    """Which of the learning rates are not large, as a mask."""
    return results["learning_rate"].values <= _MODERATE_RATE


def _losses(results: xr.Dataset, matching: str, optimizer: str = "sgd") -> np.ndarray:
    """Midpoint losses `[pairs, rates]`."""
    losses = results["midpoint_loss"].sel(optimizer=optimizer, matching=matching)
    return losses.transpose("pair", "learning_rate").values


def _log_ratio(results: xr.Dataset, first: str, second: str, optimizer: str = "sgd") -> np.ndarray:
    """Logarithms of the first matching's midpoint losses over the second's, `[pairs, rates]`."""
    return np.log(_losses(results, first, optimizer) / _losses(results, second, optimizer))


def _loss_exponent(results: xr.Dataset, matching: str) -> Estimate:
    """The exponent of the learning rate in the midpoint loss."""
    rates = results["learning_rate"].values
    return mean_estimate(exponents(rates, _losses(results, matching)))


def _ratio_to_naive(results: xr.Dataset, matching: str) -> Estimate:
    """The midpoint loss of a matching over the naive one's, geometric mean over moderate rates."""
    log_ratios = _log_ratio(results, matching, "weights")
    moderate = log_ratios[:, _moderate_rates(results)]
    mean = mean_estimate(moderate.mean(1))
    return Estimate(
        float(np.exp(mean.value)),
        float(np.exp(mean.low)),
        float(np.exp(mean.high)),
        mean.samples,
    )


def _naive_minus(results: xr.Dataset, matching: str) -> Estimate:
    """The naive matching's midpoint loss less another's, at the largest rate."""
    differences = _losses(results, "weights") - _losses(results, matching)
    return mean_estimate(differences[:, -1])


def _worst_difference(results: xr.Dataset, other: str) -> Estimate:
    """Covariance less another matching, at the rate where the mean over pairs is largest."""

    def of_pairs(differences: np.ndarray) -> float:
        return float(np.max(differences.mean(0)))

    differences = _losses(results, "covariance") - _losses(results, other)
    return bootstrap_estimate(of_pairs, differences)


def _mean_difference(results: xr.Dataset, other: str) -> Estimate:
    """Covariance less another matching, mean over rates."""
    differences = _losses(results, "covariance") - _losses(results, other)
    return mean_estimate(differences.mean(1))


def _advantage_under_adam(results: xr.Dataset) -> Estimate:
    """The log ratio of naive to covariance matching under Adam less that under SGD.

    Both are means over rates.
    """
    under_adam = np.nanmean(_log_ratio(results, "weights", "covariance", "adam"), axis=1)
    under_sgd = np.nanmean(_log_ratio(results, "weights", "covariance", "sgd"), axis=1)
    return mean_estimate(under_adam - under_sgd)


def _naive_share(results: xr.Dataset) -> Estimate:
    """The naive dimension as a share of the largest possible, mean of layers and moderate rates."""
    dimension = results["dimension"].sel(optimizer="sgd", similarity="weights")
    share = dimension / results["largest_dimension"]
    moderate = share.isel(learning_rate=_moderate_rates(results))
    return mean_estimate(moderate.mean(("layer", "learning_rate")))


def _naive_change(results: xr.Dataset) -> Estimate:
    """The naive dimension at the largest rate over that at the smallest, mean over layers."""
    dimension = results["dimension"].sel(optimizer="sgd", similarity="weights").mean("layer")
    at_largest = dimension.isel(learning_rate=-1)
    at_smallest = dimension.isel(learning_rate=0)
    return mean_estimate(at_largest / at_smallest)


def _mean_dimension(results: xr.Dataset, similarity: str) -> Estimate:
    """The approximate dimension, mean over layers and rates."""
    dimension = results["dimension"].sel(optimizer="sgd", similarity=similarity)
    return mean_estimate(dimension.mean(("layer", "learning_rate")))


def _dependence(results: xr.Dataset, optimizer: str) -> np.ndarray:
    """The dependence of the first layer's neurons, by group of networks.

    It is taken at the rate at which networks have the least test loss.
    """
    own_loss = results["own_loss"].sel(optimizer=optimizer).mean("pair")
    # A rate at which networks diverged is never the best
    best_rate = int(own_loss.fillna(np.inf).argmin("learning_rate"))
    effect = results["independence_effect"].sel(optimizer=optimizer)
    return effect.isel(layer=0, learning_rate=best_rate).values


def _mean_dependence(results: xr.Dataset, optimizer: str) -> Estimate:
    if optimizer not in results["optimizer"].values:
        return no_estimate()
    return mean_estimate(_dependence(results, optimizer))


def _dependence_under_adam(results: xr.Dataset) -> Estimate:
    """The size of the dependence under Adam less that under SGD without momentum."""
    under_adam = np.abs(_dependence(results, "adam"))
    under_sgd = np.abs(_dependence(results, "sgd_plain"))
    return mean_estimate(under_adam - under_sgd)


def dimension_correlation(
    results: xr.Dataset, similarity: str, quantity: str, layer: int | None = None
) -> Estimate:
    """Spearman's rank correlation of a dimension with the barrier or the midpoint loss.

    Args:
        results: of the experiment.
        similarity: whose dimension, and by which pairs are matched.
        quantity: `"barrier"` or `"midpoint_loss"`; as the dimension, a mean over pairs, at every
            optimizer and rate.
        layer: whose dimension; None: the mean over layers.
    """
    dimension = results["dimension"].sel(similarity=similarity)
    if layer is None:
        dimension = dimension.mean("layer")
    elif layer < results.sizes["layer"]:
        dimension = dimension.isel(layer=layer)
    else:
        return no_estimate()
    other = results[quantity].sel(matching=similarity)
    dims = ("pair", "optimizer", "learning_rate")
    return bootstrap_estimate(
        _rank_correlation_of_means,
        dimension.transpose(*dims).values,
        other.transpose(*dims).values,
    )


def _rank_correlation_of_means(x: np.ndarray, y: np.ndarray) -> float:
    """The rank correlation over cells of the means over the first axis, pairs."""
    mean_x = x.mean(0).ravel()  # nan where any network of a cell diverged
    mean_y = y.mean(0).ravel()
    finite = np.isfinite(mean_x) & np.isfinite(mean_y)
    if finite.sum() <= 2:
        return np.nan
    return float(stats.spearmanr(mean_x[finite], mean_y[finite]).statistic)


_SECTION_6 = "paper, Section 6"
_KEY_RESULTS = "summary, Key Results"
_FIGURE_2 = "SGD with momentum"
_NAMES = {"weights": "naive", "covariance": "covariance", "activations": "activation"}


def _falling_loss_claim(matching: str) -> Claim:
    return Claim(
        "The loss half-way falls with the learning rate.",
        _SECTION_6,
        f"{_FIGURE_2}, {_NAMES[matching]} matching: exponent of the rate in the midpoint test loss",
        at_most(0.0),
        functools.partial(_loss_exponent, matching=matching),
    )


def _better_claim(matching: str) -> Claim:
    name = _NAMES[matching]
    return Claim(
        f"Up to a rate of 2.5e-2 {name} matching is far better than naive matching.",
        _SECTION_6,
        f"{_FIGURE_2}: ratio of the midpoint test losses, {name} to naive, geometric mean over "
        "rates up to 2.5e-2",
        Limits(0.0, 2 / 3),
        functools.partial(_ratio_to_naive, matching=matching),
        "Far: a third less at least; the paper's curves have 0.38 (covariance) and 0.31 "
        "(activations).",
    )


def _naive_catches_up_claim(matching: str) -> Claim:
    name = _NAMES[matching]
    return Claim(
        f"At the largest rate, 1e-1, naive matching is as good as {name} matching, or better.",
        _SECTION_6,
        f"{_FIGURE_2}: midpoint test loss of naive less that of {name} matching, nats",
        at_most(0.02),
        functools.partial(_naive_minus, matching=matching),
        "As good: worse by 0.02 nats at most; the paper has -0.014.",
    )


def _low_dimension_claim(similarity: str) -> Claim:
    return Claim(
        f"What {_NAMES[similarity]} matching compares has a dimension below 10.",
        _SECTION_6,
        f"{_FIGURE_2}: approximate dimension, mean over layers and rates",
        Limits(1.0, 10.0),
        functools.partial(_mean_dimension, similarity=similarity),
    )


def _consistently_better_claim(other: str) -> Claim:
    name = _NAMES[other]
    return Claim(
        f"Covariance matching consistently outperforms {name} matching.",
        _KEY_RESULTS,
        f"{_FIGURE_2}: midpoint test loss of covariance less that of {name} matching, nats, at the "
        "rate where it is largest",
        at_most(0.0),
        functools.partial(_worst_difference, other=other),
        "Consistently: at every rate.",
    )


def _significantly_better_claim(other: str) -> Claim:
    name = _NAMES[other]
    return Claim(
        f"Covariance matching significantly outperforms {name} matching.",
        f"{_KEY_RESULTS}, Mechanism 3",
        f"{_FIGURE_2}: midpoint test loss of covariance less that of {name} matching, nats, mean "
        "over rates",
        at_most(0.0),
        functools.partial(_mean_difference, other=other),
        "Significantly: the 95 % interval of the paired difference lies below 0.",
    )


def _independence_claim(optimizer: str, name: str, source: str) -> Claim:
    return Claim(
        f"Neurons stay independent when trained by {name}.",
        source,
        f"{name}, at its best rate, first layer: dependence of the neurons of a network, in "
        "standard deviations over permutations",
        Limits(-2.0, 2.0),
        functools.partial(_mean_dependence, optimizer=optimizer),
        "Independent neurons are between -2 and 2 in 95 % of tests; the mean of four groups of "
        "networks lies well within.",
    )


def _barrier_correlation_claims(similarity: str) -> tuple[Claim, ...]:
    """One claim for each of three layers."""
    claims = []
    for layer in range(3):
        claim = Claim(
            "The dimension of what is matched strongly correlates with the barrier: the lower, the "
            "better.",
            _KEY_RESULTS,
            f"{_NAMES[similarity]} matching, layer {layer + 1}: rank correlation of dimension and "
            "test barrier over all optimizers and rates",
            Limits(0.7, 1.0),
            functools.partial(
                dimension_correlation, similarity=similarity, quantity="barrier", layer=layer
            ),
            "Strong: 0.7 at least.",
        )
        claims.append(claim)
    return tuple(claims)


def _loss_correlation_claim(similarity: str) -> Claim:
    return Claim(
        "The dimension of what is matched strongly correlates with the loss half-way: the lower, "
        "the better.",
        f"{_KEY_RESULTS}; paper, Section 6",
        f"{_NAMES[similarity]} matching, mean over layers: rank correlation of dimension "
        "and midpoint test loss over all optimizers and rates",
        Limits(0.7, 1.0),
        functools.partial(dimension_correlation, similarity=similarity, quantity="midpoint_loss"),
        "Strong: 0.7 at least.",
    )


CLAIMS: tuple[Claim, ...] = (
    _falling_loss_claim("weights"),
    _falling_loss_claim("covariance"),
    _falling_loss_claim("activations"),
    _better_claim("covariance"),
    _better_claim("activations"),
    _naive_catches_up_claim("covariance"),
    _naive_catches_up_claim("activations"),
    Claim(
        "The weights that naive matching compares have a dimension in the hundreds, of 512 "
        "neurons.",
        _SECTION_6,
        f"{_FIGURE_2}: naive dimension as a share of the smaller of inputs and neurons, rates up "
        "to 2.5e-2",
        Limits(0.2, 1.0),
        _naive_share,
        "Hundreds: 100 of 512 at least. As a share, since widths below 512 cannot reach hundreds.",
    ),
    Claim(
        "The naive dimension falls at large rates.",
        _SECTION_6,
        f"{_FIGURE_2}: naive dimension at the largest rate over that at the smallest, mean of "
        "layers",
        Limits(0.0, 1.0),
        _naive_change,
    ),
    _low_dimension_claim("covariance"),
    _low_dimension_claim("activations"),
    _consistently_better_claim("weights"),
    _consistently_better_claim("activations"),
    _significantly_better_claim("weights"),
    _significantly_better_claim("activations"),
    Claim(
        "With Adam the results are less clear: covariance matching gains less over naive matching "
        "than with SGD.",
        _SECTION_6,
        "mean over rates of the log ratio of midpoint test losses, naive to covariance: Adam less "
        "SGD with momentum",
        at_most(0.0),
        _advantage_under_adam,
        "What is less clear is not said; here, the difference that Figure 2 shows.",
    ),
    _independence_claim(
        "sgd_plain", "SGD without momentum", "paper, Theorem 3.1; summary, Mechanism 1"
    ),
    _independence_claim("sgd", _FIGURE_2, "paper, Section 5; summary, Mechanism 1"),
    _independence_claim("adam", "Adam", "summary, Open Question 1"),
    _independence_claim("adamw", "AdamW", "summary, Open Question 1"),
    Claim(
        "Adam makes neurons more dependent than SGD does.",
        "summary, Open Question 1",
        "first layer, each at its best rate: size of the dependence under Adam less that under SGD "
        "without momentum, standard deviations over permutations",
        at_least(0.0),
        _dependence_under_adam,
    ),
    *_barrier_correlation_claims("weights"),
    *_barrier_correlation_claims("covariance"),
    *_barrier_correlation_claims("activations"),
    _loss_correlation_claim("weights"),
    _loss_correlation_claim("covariance"),
    _loss_correlation_claim("activations"),
)
