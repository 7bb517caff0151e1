"""How fast two samples of n neurons come to resemble each other: the proven rate, the usual one,
and the measured.
"""

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Key, Num
from scipy.stats import t as student_t

from lmcjax._dtypes import accumulation_dtype
from lmcjax.transport import AssignmentBackend, wasserstein2

Law: TypeAlias = Literal["gaussian", "uniform"]

_ENTRIES = 2**24  # of the cost matrices that exist at a time


class WassersteinRate(NamedTuple):
    """Rates of `E W_2^2` in n, without their constants; `vmap` prepends axes to every field."""

    log_upper: Float[Array, ""]  # natural log of the rate that bounds every law with enough moments
    upper_exponent: Float[Array, ""]  # of n, logarithms apart
    log_smooth: Float[Array, ""]  # the same of smooth densities on a bounded convex set
    smooth_exponent: Float[Array, ""]


class ExponentFit(NamedTuple):
    """A power law `mean = exp(log_constant) n^exponent`; `vmap` prepends axes to every field."""

    exponent: Float[Array, ""]
    low: Float[Array, ""]  # of the confidence interval of the exponent
    high: Float[Array, ""]
    log_constant: Float[Array, ""]
    finite: Bool[
        Array, ""
    ]  # False: fewer than two sizes with a positive finite mean and error, ignore the fit


class RateCalibration(NamedTuple):
    """What `calibrate_wasserstein_rate` measures; `vmap` prepends axes to every field."""

    num_samples: Num[Array, " sizes"]  # n
    mean: Float[Array, " sizes"]  # of W_2^2 over the repetitions, squared unit of the points
    standard_error: Float[Array, " sizes"]
    low: Float[Array, " sizes"]  # of the confidence interval of E W_2^2
    high: Float[Array, " sizes"]
    fit: ExponentFit
    finite: Bool[Array, ""]  # False: some distance is nan or inf


def empirical_wasserstein_rate(
    num_samples: Num[ArrayLike, ""], dim: Num[ArrayLike, ""]
) -> WassersteinRate:
    """How `E W_2^2` between n samples and their law falls with n, in d dimensions: the bound, and
    what is usual.

    - upper, every law with more than 4 finite moments: `n^(-1/2)`, `n^(-1/2) log(1 + n)`,
      `n^(-2/d)` for d < 4, d = 4, d > 4 (there more than 2d / (d - 2) moments are enough);
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
        Tusnady (1984),
    d = 2; Bobkov and Ledoux (2019), d = 1; Talagrand (1994), d >= 3; Gaussians: Ledoux (2019), d =
    2, Ledoux and Zhu (2021), d >= 3.
    """
    dtype = accumulation_dtype(num_samples, dim)
    n, d = jnp.asarray(num_samples, dtype), jnp.asarray(dim, dtype)
    log_n, log_log = jnp.log(n), jnp.log(jnp.log1p(n))
    of_dim = -2 / d
    upper, smooth = jnp.where(d <= 4, -1 / 2, of_dim), jnp.where(d <= 2, -1, of_dim)
    return WassersteinRate(
        upper * log_n + jnp.where(d == 4, log_log, 0),
        upper,
        smooth * log_n + jnp.where(d == 2, log_log, 0),
        smooth,
    )


def calibrate_wasserstein_rate(
    key: Key[Array, ""],
    law: Law | Num[Array, "population dim"],
    sizes: Sequence[int],
    *,
    dim: int | None = None,
    repetitions: int = 20,
    confidence: float = 0.95,
    backend: AssignmentBackend = "auto",
) -> RateCalibration:
    """`E W_2^2` between two independent samples of n points, by exact assignments, and the power of
    n that it follows.

    Every size has draws of its own. Means are unbiased; intervals are Student's, over the
    repetitions; the exponent is fitted by `fit_exponent`. Nothing here is proven, all is measured.

    Args:
        key: a PRNG key.
        law: static `"gaussian"`, N(0, I), or `"uniform"` on the unit cube; or points, traced, such
            as a layer's neurons: two disjoint subsets of n, drawn anew in each repetition. A subset
            of independent points is as good as a fresh sample, but repetitions share points, so
            that their intervals are too narrow once 2n is a good part of the population.
        sizes: n, static, increasing; 4,096 takes seconds per repetition on a CPU.
        dim: d, static; for the two named laws.
        repetitions: static, at least 2.
        confidence: static, of all intervals.
        backend: static, see `linear_assignment`.

    Raises:
        ValueError: an unknown law, one without dim, points with it, sizes that the points do not
            suffice for or that do not increase, too few repetitions.

    Source: Lemma B.3 of the paper for the assignment.
    """
    points = None if isinstance(law, str) else jnp.asarray(law)
    sizes = tuple(sizes)
    if points is None and law not in ("gaussian", "uniform"):
        raise ValueError(
            f"law {law!r} is not one of 'gaussian', 'uniform', or points [population, dim]"
        )
    if (points is None) != (dim is not None):
        raise ValueError(f"dim={dim} is given with a named law, and only there")
    if points is not None and (points.ndim != 2 or 2 * max(sizes, default=1) > len(points)):
        raise ValueError(
            f"points of shape {points.shape} have no two disjoint subsets of {max(sizes, default=1)}"
        )
    if len(sizes) < 2 or sizes[0] < 1 or any(a >= b for a, b in itertools.pairwise(sizes)):
        raise ValueError(f"sizes are at least two increasing numbers, not {sizes}")
    if repetitions < 2:
        raise ValueError(f"an interval needs at least 2 repetitions, not {repetitions}")

    def draw(key: Array, count: int) -> Array:
        if points is not None:
            return jax.random.permutation(key, points)[:count]
        assert dim is not None
        sample = jax.random.normal if law == "gaussian" else jax.random.uniform
        return sample(key, (count, dim))

    def measure(size: int, key: Array) -> Array:
        def one(key: Array) -> Array:
            both = draw(key, 2 * size)
            return wasserstein2(both[:size], both[size:], backend=backend) ** 2

        keys = jax.random.split(key, repetitions)
        return jax.lax.map(one, keys, batch_size=max(1, min(repetitions, _ENTRIES // size**2)))

    costs = jnp.stack([measure(size, jax.random.fold_in(key, size)) for size in sizes])
    mean, error = costs.mean(1), costs.std(1, ddof=1) / repetitions**0.5
    width = float(student_t.ppf((1 + confidence) / 2, repetitions - 1)) * error
    num_samples = jnp.asarray(sizes, costs.dtype)
    fit = fit_exponent(num_samples, mean, error, repetitions=repetitions, confidence=confidence)
    return RateCalibration(
        num_samples, mean, error, mean - width, mean + width, fit, jnp.isfinite(costs).all()
    )


def fit_exponent(
    num_samples: Num[ArrayLike, " sizes"],
    mean: Num[ArrayLike, " sizes"],
    standard_error: Num[ArrayLike, " sizes"],
    *,
    repetitions: int,
    confidence: float = 0.95,
) -> ExponentFit:
    """The exponent of a power law through means with errors: weighted least squares in logarithms.

    Weights are `(mean / error)^2`. The interval speaks of the errors of the means, not of a law
    that is no power.

    Args:
        num_samples: n (or widths), traced.
        mean, standard_error: at each n, traced.
        repetitions: static; independent values behind each mean, for Student's quantile.
        confidence: static.

    Raises:
        ValueError: fewer than two sizes, arrays that differ in length, fewer than 2 repetitions.
    """
    shapes = [jnp.shape(x) for x in (num_samples, mean, standard_error)]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1 or shapes[0][0] < 2 or repetitions < 2:
        raise ValueError(
            f"a fit needs two sizes, their means and errors, 2 repetitions; not {shapes}, {repetitions}"
        )
    dtype = accumulation_dtype(num_samples, mean, standard_error)
    n, y, error = (jnp.asarray(x, dtype) for x in (num_samples, mean, standard_error))
    usable = (y > 0) & (error > 0) & jnp.isfinite(y) & jnp.isfinite(error) & (n > 0)
    relative = jnp.where(usable, y, 1) / jnp.where(usable, error, 1)
    weight = jnp.where(usable, (relative / jnp.max(jnp.where(usable, relative, 0))) ** 2, 0)
    x, y = jnp.log(jnp.where(usable, n, 1)), jnp.log(jnp.where(usable, y, 1))
    total = jnp.sum(weight)
    mean_x, mean_y = jnp.sum(weight * x) / total, jnp.sum(weight * y) / total
    spread = jnp.sum(weight * (x - mean_x) ** 2)
    slope = jnp.sum(weight * (x - mean_x) * (y - mean_y)) / spread
    slope_error = 1 / (jnp.sqrt(spread) * jnp.max(jnp.where(usable, relative, 0)))
    width = float(student_t.ppf((1 + confidence) / 2, repetitions - 1)) * slope_error
    finite = (spread > 0) & (usable.sum() >= 2)
    return ExponentFit(slope, slope - width, slope + width, mean_y - slope * mean_x, finite)
