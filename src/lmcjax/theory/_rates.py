"""How fast two samples of n points come to resemble each other: proven and measured rates."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Key, Num
from scipy.stats import t as student_t

from lmcjax._dtypes import accumulation_dtype
from lmcjax.transport import AssignmentBackend, wasserstein2

Distribution: TypeAlias = Literal["gaussian", "uniform"]

_MAX_COST_ENTRIES = 2**24  # of the cost matrices that exist at a time


class WassersteinRate(NamedTuple):
    """Rates of `E W_2^2` in n, without their constants; `vmap` prepends axes to every field."""

    log_upper: Float[Array, ""]  # natural log of the rate that bounds every distribution
    upper_exponent: Float[Array, ""]  # its power of n, without logarithms
    log_smooth: Float[Array, ""]  # natural log of the rate of smooth densities on a convex set
    smooth_exponent: Float[Array, ""]


class ExponentFit(NamedTuple):
    """A power law `mean = exp(log_constant) n^exponent`; `vmap` prepends axes to every field."""

    exponent: Float[Array, ""]
    low: Float[Array, ""]  # ends of the confidence interval of the exponent
    high: Float[Array, ""]
    log_constant: Float[Array, ""]
    # False: fewer than two sizes have a positive finite mean and error, ignore the fit.
    finite: Bool[Array, ""]


class RateCalibration(NamedTuple):
    """What `calibrate_wasserstein_rate` measures; `vmap` prepends axes to every field."""

    num_samples: Num[Array, " sizes"]  # n
    mean: Float[Array, " sizes"]  # of W_2^2 over the repetitions, squared unit of the points
    standard_error: Float[Array, " sizes"]
    low: Float[Array, " sizes"]  # ends of the confidence interval of E W_2^2
    high: Float[Array, " sizes"]
    fit: ExponentFit
    finite: Bool[Array, ""]  # False: some distance is nan or inf


def empirical_wasserstein_rate(
    num_samples: Num[ArrayLike, ""], dim: Num[ArrayLike, ""]
) -> WassersteinRate:
    """How fast `E W_2^2` between n samples and their distribution falls with n, in d dimensions.

    - upper, every distribution with more than 4 finite moments: `n^(-1/2)`,
      `n^(-1/2) log(1 + n)`, `n^(-2/d)` for d < 4, d = 4, d > 4 (there more than 2d / (d - 2)
      moments are enough);
    - smooth, densities bounded above and below on a bounded convex set: `n^-1`, `n^-1 log(1 + n)`,
      `n^(-2/d)` for d < 2, d = 2, d > 2. Tails add logarithms where d <= 2: `log log n` for
      Gaussians and d = 1, `log n` for d = 2.

    The exponents are proven. The constants exist, depend on d and moments, and are given by neither
    source: fit them with `calibrate_wasserstein_rate`. Between two samples of n the same rates
    hold, with at most 4 times the constant.

    Args:
        num_samples: n, traced; it may be a number beyond every integer.
        dim: d of the support, traced; it need not be an integer.

    Source: Fournier and Guillin (2015), Theorem 1, with p = 2; smooth densities: Ajtai, Komlos and
        Tusnady (1984), d = 2; Bobkov and Ledoux (2019), d = 1; Talagrand (1994), d >= 3; Gaussians:
        Ledoux (2019), d = 2, Ledoux and Zhu (2021), d >= 3.
    """
    dtype = accumulation_dtype(num_samples, dim)
    n = jnp.asarray(num_samples, dtype)
    d = jnp.asarray(dim, dtype)
    log_n = jnp.log(n)
    log_log_n = jnp.log(jnp.log1p(n))
    in_high_dim = -2 / d
    upper = jnp.where(d <= 4, -1 / 2, in_high_dim)
    smooth = jnp.where(d <= 2, -1, in_high_dim)
    # A logarithm is added exactly where two regimes meet.
    log_upper = upper * log_n + jnp.where(d == 4, log_log_n, 0)
    log_smooth = smooth * log_n + jnp.where(d == 2, log_log_n, 0)
    return WassersteinRate(log_upper, upper, log_smooth, smooth)


def calibrate_wasserstein_rate(
    key: Key[Array, ""],
    distribution: Distribution | Num[Array, "population dim"],
    sizes: Sequence[int],
    *,
    dim: int | None = None,
    repetitions: int = 20,
    confidence: float = 0.95,
    backend: AssignmentBackend = "auto",
) -> RateCalibration:
    """Measure `E W_2^2` between two independent samples of n points, and the power of n it follows.

    Distances are by exact assignments. Every size has draws of its own. Means are unbiased;
    intervals are Student's, over the repetitions; the exponent is fitted by `fit_exponent`. Nothing
    here is proven, all is measured.

    Args:
        key: a PRNG key.
        distribution: static `"gaussian"`, N(0, I), or `"uniform"` on the unit cube; or points,
            traced, such as a layer's neurons, of which each repetition draws two disjoint subsets
            of n. A subset of independent points is as good as a fresh sample, but repetitions share
            points, so that their intervals are too narrow once 2n is a good part of the population.
        sizes: n, static, increasing; 4,096 takes seconds per repetition on a CPU.
        dim: d, static; for the two named distributions.
        repetitions: static, at least 2.
        confidence: static, of all intervals.
        backend: static, see `linear_assignment`.

    Raises:
        ValueError: an unknown distribution, one without dim, points with it, sizes that the points
            do not suffice for or that do not increase, too few repetitions.

    Source: Lemma B.3 of the paper for the assignment.
    """
    sizes = tuple(sizes)
    if not isinstance(distribution, str):
        distribution = jnp.asarray(distribution)
    _check_distribution(distribution, dim, max(sizes, default=1))
    _check_sizes(sizes)
    if repetitions < 2:
        raise ValueError(f"an interval needs at least 2 repetitions, not {repetitions}")

    costs_by_size = []
    for size in sizes:
        size_key = jax.random.fold_in(key, size)
        costs = _sample_costs(size_key, distribution, dim, size, repetitions, backend)
        costs_by_size.append(costs)
    costs = jnp.stack(costs_by_size)

    mean = costs.mean(1)
    error = costs.std(1, ddof=1) / repetitions**0.5
    half_width = _student_quantile(confidence, repetitions) * error
    num_samples = jnp.asarray(sizes, costs.dtype)
    fit = fit_exponent(num_samples, mean, error, repetitions=repetitions, confidence=confidence)
    return RateCalibration(
        num_samples=num_samples,
        mean=mean,
        standard_error=error,
        low=mean - half_width,
        high=mean + half_width,
        fit=fit,
        finite=jnp.isfinite(costs).all(),
    )


def fit_exponent(
    num_samples: Num[ArrayLike, " sizes"],
    mean: Num[ArrayLike, " sizes"],
    standard_error: Num[ArrayLike, " sizes"],
    *,
    repetitions: int,
    confidence: float = 0.95,
) -> ExponentFit:
    """Fit a power law to means with errors, by weighted least squares in logarithms.

    Weights are `(mean / error)^2`. The interval covers the errors of the means. It says nothing of
    data that follow no power law.

    Args:
        num_samples: n (or widths), traced.
        mean, standard_error: at each n, traced.
        repetitions: static; independent values behind each mean, for Student's quantile.
        confidence: static.

    Raises:
        ValueError: fewer than two sizes, arrays that differ in length, fewer than 2 repetitions.
    """
    shapes = [jnp.shape(num_samples), jnp.shape(mean), jnp.shape(standard_error)]
    same_length = len(shapes[0]) == 1 and len(set(shapes)) == 1
    if not same_length or shapes[0][0] < 2 or repetitions < 2:
        raise ValueError(
            "a fit needs at least two sizes, with a mean and an error each, and 2 repetitions; "
            f"not {shapes}, {repetitions}"
        )
    dtype = accumulation_dtype(num_samples, mean, standard_error)
    n = jnp.asarray(num_samples, dtype)
    mean = jnp.asarray(mean, dtype)
    error = jnp.asarray(standard_error, dtype)

    # What cannot be used has weight 0; a 1 in its place keeps logarithms and derivatives finite.
    usable = (mean > 0) & (error > 0) & jnp.isfinite(mean) & jnp.isfinite(error) & (n > 0)
    precision = jnp.where(usable, mean, 1) / jnp.where(usable, error, 1)
    largest_precision = jnp.max(jnp.where(usable, precision, 0))
    weight = jnp.where(usable, (precision / largest_precision) ** 2, 0)  # at most 1: no overflow
    x = jnp.log(jnp.where(usable, n, 1))
    y = jnp.log(jnp.where(usable, mean, 1))

    line = _fit_line(x, y, weight)
    slope_error = 1 / (jnp.sqrt(line.spread) * largest_precision)
    half_width = _student_quantile(confidence, repetitions) * slope_error
    return ExponentFit(
        exponent=line.slope,
        low=line.slope - half_width,
        high=line.slope + half_width,
        log_constant=line.intercept,
        finite=(line.spread > 0) & (usable.sum() >= 2),
    )


class _Line(NamedTuple):
    """A weighted least-squares line."""

    slope: Array
    intercept: Array
    spread: Array  # sum of the weighted squared deviations of x


def _fit_line(x: Array, y: Array, weight: Array) -> _Line:
    """The line with the least weighted sum of squared residuals."""
    total = jnp.sum(weight)
    mean_x = jnp.sum(weight * x) / total
    mean_y = jnp.sum(weight * y) / total
    spread = jnp.sum(weight * (x - mean_x) ** 2)
    slope = jnp.sum(weight * (x - mean_x) * (y - mean_y)) / spread
    return _Line(slope, mean_y - slope * mean_x, spread)


def _student_quantile(confidence: float, repetitions: int) -> float:
    """Standard errors from the mean to either end of Student's interval."""
    return float(student_t.ppf((1 + confidence) / 2, repetitions - 1))


def _check_distribution(distribution: str | Array, dim: int | None, largest: int) -> None:
    """Refuse a distribution from which two samples of the largest size cannot be drawn."""
    if isinstance(distribution, str) and distribution not in get_args(Distribution):
        raise ValueError(
            f"distribution {distribution!r} is not one of {get_args(Distribution)}, "
            "nor points [population, dim]"
        )
    if isinstance(distribution, str) != (dim is not None):
        raise ValueError(f"dim={dim} is given with a named distribution, and only there")
    if isinstance(distribution, str):
        return
    if distribution.ndim != 2 or 2 * largest > len(distribution):
        raise ValueError(
            f"points of shape {distribution.shape} have no two disjoint subsets of {largest}"
        )


def _check_sizes(sizes: tuple[int, ...]) -> None:
    """Refuse sizes that no power can be fitted to, or whose draws would coincide."""
    increasing = sizes == tuple(sorted(set(sizes)))
    if len(sizes) < 2 or sizes[0] < 1 or not increasing:
        raise ValueError(f"sizes are at least two increasing numbers, not {sizes}")


def _sample_costs(
    key: Array,
    distribution: str | Array,
    dim: int | None,
    size: int,
    repetitions: int,
    backend: AssignmentBackend,
) -> Array:
    """`W_2^2` between two samples of a size, for every repetition."""

    def cost(key: Array) -> Array:
        both = _draw(key, distribution, 2 * size, dim)
        return wasserstein2(both[:size], both[size:], backend=backend) ** 2

    keys = jax.random.split(key, repetitions)
    fitting = _MAX_COST_ENTRIES // size**2
    at_a_time = max(1, min(repetitions, fitting))
    return jax.lax.map(cost, keys, batch_size=at_a_time)


def _draw(key: Array, distribution: str | Array, count: int, dim: int | None) -> Array:
    """Points `[count, dim]` from a named distribution, or some of the given points."""
    if not isinstance(distribution, str):
        return jax.random.permutation(key, distribution)[:count]
    assert dim is not None  # checked with the distribution
    if distribution == "gaussian":
        return jax.random.normal(key, (count, dim))
    return jax.random.uniform(key, (count, dim))
