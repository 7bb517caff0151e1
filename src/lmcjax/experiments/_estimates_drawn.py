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


def mean_estimate(values: np.ndarray) -> Estimate:
    """Mean with Student's interval; no interval from fewer than two values."""
    values = np.asarray(values, float)
    mean, count = float(values.mean()), values.size
    if count < 2:
        return Estimate(mean, np.nan, np.nan, count)
    margin = float(stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count))
    return Estimate(mean, mean - margin, mean + margin, count)


def bootstrap_estimate(statistic: Callable[..., float], *samples: np.ndarray, paired: bool = True) -> Estimate:
    """Statistic of arrays `[repetition, ...]` with its percentile interval; nan where a resample has no value.

    Args:
        statistic: of as many arrays as there are samples, which have been resampled along their first axes.
        samples: independent repetitions along the first axis.
        paired: the same repetitions are drawn from all samples.
    """
    counts = [len(sample) for sample in samples]
    if paired and len(set(counts)) != 1:
        raise ValueError(f"paired samples have as many repetitions each, not {counts}")
    value, count = float(statistic(*samples)), min(counts)
    if count < 2:
        return Estimate(value, np.nan, np.nan, count)

    def of_indices(*indices: np.ndarray) -> float:
        chosen = indices * len(samples) if paired else indices
        return statistic(*(s[i] for s, i in zip(samples, chosen, strict=True)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # of resamples that have no value
        found = stats.bootstrap(
            [np.arange(n) for n in counts[: 1 if paired else None]],
            of_indices,
            n_resamples=_RESAMPLES,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    return Estimate(value, float(found.low), float(found.high), count)


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
