"""Power laws through measurements, and where curves cross."""

import jax
import numpy as np
from numpy.typing import ArrayLike

from lmcjax.experiments.claims._claim import Estimate
from lmcjax.theory import fit_exponent

_fit_exponent = jax.jit(fit_exponent, static_argnames=("repetitions",))


def slopes(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Least-squares slopes of `y[..., n]` on `x[n]`."""
    x = np.asarray(x, np.float64)
    y = np.asarray(y, np.float64)
    centred = x - x.mean()
    return np.asarray(y @ centred / (centred @ centred))


def squared_residual(x: ArrayLike, y: ArrayLike) -> float:
    """The sum of squared distances of `y[n]` from its least-squares line on `x[n]`."""
    x = np.asarray(x, np.float64)
    y = np.asarray(y, np.float64)
    line = y.mean() + slopes(x, y) * (x - x.mean())
    return float(np.sum((y - line) ** 2))


def exponents(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """The powers of `x[n]` that `y[..., n]` follow: least-squares slopes in logarithms.

    They are nan where a y is not positive.
    """
    values = np.asarray(y, np.float64)
    positive = np.where(values > 0, values, np.nan)
    return slopes(np.log(np.asarray(x, np.float64)), np.log(positive))


def exponent_estimate(num_points: np.ndarray, costs: np.ndarray) -> Estimate:
    """The power of n that the mean of costs `[draw, n]` follows, with Student's interval.

    The costs of different n are independent, so their means have errors of their own, by which
    `theory.fit_exponent` weights them.
    """
    draws = len(costs)
    mean = costs.mean(0)
    error = costs.std(0, ddof=1) / np.sqrt(draws)
    sizes = np.asarray(num_points, costs.dtype)
    fit = _fit_exponent(sizes, mean, error, repetitions=draws)
    return Estimate(float(fit.exponent), float(fit.low), float(fit.high), draws)


def upper_half(count: int) -> slice:
    """The upper half of so many ordered sizes, at least two: a limit shows there, if it does."""
    half_rounded_up = -(-count // 2)
    return slice(-max(2, half_rounded_up), None)


def needed_width(widths: ArrayLike, errors: ArrayLike, threshold: float) -> float:
    """The width from which on errors stay below a threshold.

    It is interpolated in the logarithm of the width; inf where the widest is still above the
    threshold, and the narrowest width where all are below.
    """
    log_widths = np.log(np.asarray(widths, np.float64))
    values = np.asarray(errors, np.float64)
    # A width without a finite error counts as above, so the comparison is negated
    above = np.flatnonzero(~(values <= threshold))
    if above.size == 0:
        return float(np.exp(log_widths[0]))
    last = int(above[-1])
    if last == len(values) - 1:
        return float("inf")
    share = (values[last] - threshold) / (values[last] - values[last + 1])
    if np.isnan(share):
        share = 0.0
    step = log_widths[last + 1] - log_widths[last]
    return float(np.exp(log_widths[last] + share * step))


def crossover(sizes: ArrayLike, falling: ArrayLike, other: ArrayLike) -> float:
    """The size at which a falling curve first meets another, from above.

    It is interpolated in logarithms between measured sizes; nan where the curves do not cross.
    """
    log_sizes = np.log(np.asarray(sizes, np.float64))
    gap = np.log(np.asarray(falling)) - np.log(np.asarray(other))
    crossed = np.flatnonzero((gap[:-1] > 0) & (gap[1:] <= 0))
    if crossed.size == 0:
        return float("nan")
    first = int(crossed[0])
    share = gap[first] / (gap[first] - gap[first + 1])
    step = log_sizes[first + 1] - log_sizes[first]
    return float(np.exp(log_sizes[first] + step * share))
