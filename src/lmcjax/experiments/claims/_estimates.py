"""Estimates with intervals from independent repetitions."""

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from lmcjax.experiments.claims._claim import Estimate

_RESAMPLES = 999
_MOST_FAILURES = 0.05  # share of resamples without a value beyond which there is no interval


def no_estimate(samples: int = 0) -> Estimate:
    """What stands for a quantity that the results do not hold."""
    return Estimate(np.nan, np.nan, np.nan, samples)


def mean_estimate(values: ArrayLike) -> Estimate:
    """The mean of independent repetitions with Student's interval.

    Repetitions that are nan, diverged runs, are left out.
    """
    flat = np.asarray(values, np.float64).ravel()
    finite = flat[~np.isnan(flat)]
    count = finite.size
    if count == 0:
        return no_estimate()
    mean = float(finite.mean())
    if count == 1:
        return Estimate(mean, np.nan, np.nan, count)
    quantile = stats.t.ppf(0.975, count - 1)
    margin = float(quantile * finite.std(ddof=1) / np.sqrt(count))
    return Estimate(mean, mean - margin, mean + margin, count)


def bootstrap_estimate(statistic: Callable[..., float], *samples: ArrayLike) -> Estimate:
    """A statistic of repetitions with its percentile bootstrap interval.

    With few repetitions such intervals are somewhat too narrow: a repetition that could be twice as
    far out was not drawn.

    Args:
        statistic: of arrays shaped like the samples, but for the number of repetitions. Resamples
            for which it is nan are left out.
        *samples: at least one, with repetitions along the first axis. Repetition i of all samples
            belongs together, and is drawn together.

    Raises:
        ValueError: samples that differ in their number of repetitions.
    """
    arrays = [np.asarray(sample, np.float64) for sample in samples]
    counts = [len(array) for array in arrays]
    if len(set(counts)) != 1:
        raise ValueError(f"paired samples have as many repetitions each, not {counts}")
    count = counts[0]
    value = float(statistic(*arrays))
    if count < 2 or np.isnan(value):
        return Estimate(value, np.nan, np.nan, count)
    resampled = _resample(statistic, arrays)
    if np.isnan(resampled).mean() > _MOST_FAILURES:
        return Estimate(value, np.nan, np.nan, count)
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return Estimate(value, float(low), float(high), count)


def _resample(statistic: Callable[..., float], arrays: list[np.ndarray]) -> np.ndarray:
    """The statistic of resamples of the repetitions, drawn with replacement, `[resamples]`."""

    def of_repetitions(drawn: np.ndarray) -> float:
        repetitions = drawn.astype(int)
        return statistic(*[array[repetitions] for array in arrays])

    with warnings.catch_warnings():
        # SciPy warns of nan, which the caller looks after
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        # Positions are resampled instead of values, so that samples of any shape go together
        positions = np.arange(len(arrays[0]))
        result = stats.bootstrap(
            (positions,),
            of_repetitions,
            n_resamples=_RESAMPLES,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(0),
        )
    return result.bootstrap_distribution


def difference(first: Estimate, second: Estimate) -> Estimate:
    """First minus second, of two independent estimates whose intervals are symmetric."""
    value = first.value - second.value
    margin = float(np.hypot(first.high - first.value, second.high - second.value))
    samples = min(first.samples, second.samples)
    return Estimate(value, value - margin, value + margin, samples)
