"""Estimates with intervals at 95 %, from independent repetitions."""

import warnings
from collections.abc import Callable

import jax
import numpy as np
from scipy import stats

from lmcjax.experiments.claim import Estimate
from lmcjax.theory import fit_exponent

_RESAMPLES = 999
_fit = jax.jit(fit_exponent, static_argnames=("repetitions",))


def bootstrap_estimate(statistic: Callable[..., float], *samples: np.ndarray, paired: bool = True) -> Estimate:
    """A statistic of repetitions along the first axis of every sample, with its percentile bootstrap interval.

    Args:
        statistic: of arrays shaped like the samples, but for the number of repetitions.
        *samples: at least one; nan results of single resamples are left out, unless they are more than one in twenty.
        paired: repetition i of all samples belongs together, and is drawn together.
    """
    counts = [len(sample) for sample in samples]
    if paired and len(set(counts)) != 1:
        raise ValueError(f"paired samples have as many repetitions each, not {counts}")
    value, count = float(statistic(*samples)), min(counts)
    if np.isnan(value) or count < 2:
        return Estimate(value, np.nan, np.nan, count)

    def of_indices(*drawn: np.ndarray) -> float:
        rows = drawn * len(samples) if paired else drawn
        return statistic(*(sample[row] for sample, row in zip(samples, rows, strict=True)))

    indices = [np.arange(n) for n in (counts[:1] if paired else counts)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # of nan, which is looked after below
        found = stats.bootstrap(
            indices,
            of_indices,
            n_resamples=_RESAMPLES,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
    if np.isnan(found).mean() > 0.05:
        return Estimate(value, np.nan, np.nan, count)
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Estimate(value, float(low), float(high), count)


def exponent_estimate(num_points: np.ndarray, costs: np.ndarray) -> Estimate:
    """The power of n that the mean of costs `[repetition, n]` follows, every one from a draw of its own."""
    count = len(costs)
    error = costs.std(0, ddof=1) / np.sqrt(count)
    fit = _fit(np.asarray(num_points, costs.dtype), costs.mean(0), error, repetitions=count)
    return Estimate(float(fit.exponent), float(fit.low), float(fit.high), count)


def difference(first: Estimate, second: Estimate) -> Estimate:
    """First minus second, of two independent estimates whose intervals are symmetric."""
    margin = float(np.hypot(first.high - first.value, second.high - second.value))
    value = first.value - second.value
    return Estimate(value, value - margin, value + margin, min(first.samples, second.samples))


def within_a_quarter(value: float) -> tuple[float, float]:
    """A power law as claimed: an exponent within 25 % of it."""
    return (0.75 * value, 1.25 * value) if value > 0 else (1.25 * value, 0.75 * value)
