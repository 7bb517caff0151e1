"""Estimates with intervals from independent repetitions, and the fits that claims are about."""

import warnings
from collections.abc import Callable

import jax
import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from lmcjax.experiments.claims._claim import Estimate
from lmcjax.theory import fit_exponent

_fit = jax.jit(fit_exponent, static_argnames=("repetitions",))


def mean_estimate(values: ArrayLike) -> Estimate:
    """The mean of independent repetitions with Student's interval; nan ones (diverged runs) are
    left out.
    """
    kept = np.asarray(values, np.float64).ravel()
    kept = kept[~np.isnan(kept)]
    if kept.size < 2:
        return Estimate(float(kept.mean()) if kept.size else np.nan, np.nan, np.nan, kept.size)
    mean = float(kept.mean())
    margin = float(stats.t.ppf(0.975, kept.size - 1) * kept.std(ddof=1) / np.sqrt(kept.size))
    return Estimate(mean, mean - margin, mean + margin, kept.size)


def bootstrap_estimate(
    statistic: Callable[..., float], *samples: ArrayLike, paired: bool = True
) -> Estimate:
    """A statistic of repetitions along the first axis of every sample, with its percentile
    bootstrap interval.

    With few repetitions such intervals are somewhat too narrow: a repetition that could be twice as
        far out was not
    drawn.

    Args:
        statistic: of arrays shaped like the samples, but for the number of repetitions.
        *samples: at least one; nan results of single resamples are left out.
        paired: repetition i of all samples belongs together, and is drawn together.
    """
    arrays = [np.asarray(sample, np.float64) for sample in samples]
    counts = [len(array) for array in arrays]
    if paired and len(set(counts)) != 1:
        raise ValueError(f"paired samples have as many repetitions each, not {counts}")
    value = float(statistic(*arrays))
    if min(counts) < 2:
        return Estimate(value, np.nan, np.nan, min(counts))
    indices = [np.arange(count) for count in (counts[:1] if paired else counts)]

    def of_indices(*drawn: np.ndarray) -> float:
        rows = drawn * len(arrays) if paired else drawn
        return statistic(*(array[row.astype(int)] for array, row in zip(arrays, rows, strict=True)))

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", stats.DegenerateDataWarning
        )  # of nan, which is looked after below
        drawn = stats.bootstrap(
            indices,
            of_indices,
            n_resamples=999,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
    if np.isnan(value) or np.isnan(drawn).mean() > 0.05:
        return Estimate(value, np.nan, np.nan, min(counts))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high), min(counts))


def slopes(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Least-squares slopes of `y[..., n]` on `x[n]`."""
    centred = np.asarray(x, np.float64) - np.asarray(x, np.float64).mean()
    return np.asarray(np.asarray(y, np.float64) @ centred / (centred @ centred))


def exponents(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """The powers of `x[n]` that `y[..., n]` follow, by least squares in logarithms; nan where a y
    is not positive.
    """
    values = np.asarray(y, np.float64)
    return slopes(np.log(np.asarray(x, np.float64)), np.log(np.where(values > 0, values, np.nan)))


def upper_half(count: int) -> slice:
    """The upper half of so many ordered sizes, at least two: where a limit shows, if it does."""
    return slice(-max(2, -(-count // 2)), None)


def needed_width(widths: ArrayLike, errors: ArrayLike, threshold: float) -> float:
    """The width from which on errors stay below a threshold, interpolated in the logarithm of the
    width.

    inf: the widest is above it still; the narrowest width: all are below.
    """
    log_widths, values = np.log(np.asarray(widths, np.float64)), np.asarray(errors, np.float64)
    above = np.flatnonzero(~(values <= threshold))
    if not above.size:
        return float(np.exp(log_widths[0]))
    last = int(above[-1])
    if last == len(values) - 1:
        return float("inf")
    share = (values[last] - threshold) / (values[last] - values[last + 1])
    share = 0.0 if np.isnan(share) else share  # a width without a finite error counts as above
    return float(np.exp(log_widths[last] + share * (log_widths[last + 1] - log_widths[last])))


def exponent_estimate(num_points: np.ndarray, costs: np.ndarray) -> Estimate:
    """The power of n that the mean of costs `[repetition, n]` follows, every one from a draw of its
    own.
    """
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
