"""Lower bounds on the matching error of two independent clouds of neurons, in logarithms."""

import math
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, ArrayLike, Float, Int, Num

from lmcjax._dtypes import accumulation_dtype

Rows: TypeAlias = Literal["any", "gaussian", "independent"]

_NEWTON_STEPS = 30


class MatchingBound(NamedTuple):
    """A lower bound on `E min_P ||W_A - P W_B||^2 / m`; `vmap` prepends axes to every field."""

    # Natural logarithm of the bound per neuron, in the squared unit of the weights (or of Sigma's
    # norm).
    log_error: Float[Array, ""]
    # The number of leading directions of Sigma's norm that gave the bound.
    num_directions: Int[Array, ""]

    @property
    def error(self) -> Array:
        """The bound itself."""
        return jnp.exp(self.log_error)


def matching_lower_bound(
    num_neurons: Num[ArrayLike, ""],
    dim: int,
    log_density_bound: Num[ArrayLike, ""],
    second_moment: Num[ArrayLike, "dim dim"] | None = None,
    *,
    rows: Rows = "any",
) -> MatchingBound:
    """Bound the matching error from below by the largest density of a neuron's weights.

        E min_P ||W_A - P W_B||_F^2 / m >= d/(d+2) (m F V_d)^(-2/d),

    where m is the number of neurons, d that of their inputs, F the largest density and V_d the
    volume of the unit ball.

    The bound is proven with this constant. A neuron is matched no closer than to its nearest
    neighbour in the other network, and m balls of radius r hold at most `m F V_d r^d` of a density
    bounded by F. A and B have to be independent of each other; neurons within a network need not
    be. It bounds the mean: single draws fall below it, often where d <= 2.

    In the norm `||w||_Sigma^2 = w^T Sigma w`, F becomes `F / sqrt(det Sigma)`. The squared distance
    in a subspace is a lower bound of that in the whole space. So where `rows` says how the density
    of projections is bounded, the result is the best of the bounds in the leading k eigenvectors of
    Sigma. With `"any"` there is only k = d, and a singular Sigma gives 0.

    Args:
        num_neurons: m, traced; it may be a number beyond every integer.
        dim: d, static: the neurons' inputs.
        log_density_bound: log F, traced; its unit is -d times the logarithm of the weights' unit.
            For rows from N(0, C) it is `-d/2 log(2 pi) - 1/2 log det C`. Only marginal densities
            count.
        second_moment: Sigma, traced: what the layer sees, divided by N. Default: the identity.
        rows: static. `"any"`: nothing is known but F. `"gaussian"`: rows are from N(0, s^2 I), with
            the s that makes F their largest density; projected to k dimensions they have F^(k/d).
            `"independent"`: entries are independent and each has a density of at most F^(1/d); k
            dimensions have `F^(k/d) min(2^(k/2), (d/(d-k))^((d-k)/2))`.

    Raises:
        ValueError: dim below 1, a second moment of another size, unknown `rows`.

    Source: the paper, Theorem 5.3, which has the rate without a constant; projections of product
        densities: Livshyts, Paouris and Pivovarov (2016), Theorem 1.1.
    """
    _check_arguments(dim, second_moment, rows)
    dtype = accumulation_dtype(num_neurons, log_density_bound, second_moment)
    log_num_neurons = jnp.log(jnp.asarray(num_neurons, dtype))
    log_density = jnp.asarray(log_density_bound, dtype)

    # Without Sigma all directions are alike, so that none of them lead.
    if rows == "any" or second_moment is None:
        num_directions = np.array([dim])
    else:
        num_directions = np.arange(1, dim + 1)
    k = jnp.asarray(num_directions, dtype)

    log_determinant = jnp.zeros(len(k), dtype)
    if second_moment is not None:
        log_eigenvalues = _log_eigenvalues(jnp.asarray(second_moment, dtype))
        log_determinant = jnp.cumsum(log_eigenvalues)[num_directions - 1]

    log_projection = jnp.zeros(len(k), dtype)
    if rows == "independent":
        constants = _log_projection_constants(dim)[num_directions - 1]
        log_projection = jnp.asarray(constants, dtype)

    log_mass_in_unit_balls = (
        log_num_neurons
        + k / dim * log_density
        + log_projection
        - log_determinant / 2
        + _log_ball_volume(k)
    )
    log_bounds = jnp.log(k / (k + 2)) - 2 / k * log_mass_in_unit_balls
    best = jnp.argmax(log_bounds)
    return MatchingBound(log_bounds[best], jnp.asarray(num_directions, jnp.int32)[best])


def gaussian_matching_lower_bound(
    num_neurons: Num[ArrayLike, ""],
    covariance: Num[ArrayLike, "dim dim"],
    second_moment: Num[ArrayLike, "dim dim"] | None = None,
) -> MatchingBound:
    """Bound the matching error of Gaussian neurons from below, more sharply.

    The bound is the mean of the nearest 1/m of all distances between the two networks. For any
    distribution, `E min_P ||W_A - P W_B||^2 / m >= E[D | D <= q]`, where D is the squared distance
    of an independent pair of rows and q the quantile of D at 1/m: the chance that one of m
    candidates is nearer than r is at most m P(D < r^2). For rows from N(0, C), D is
    `sum_i 2 l_i z_i^2`, l the eigenvalues of `C^(1/2) Sigma C^(1/2)` and z normal. Among sets of
    equal volume the ball is likeliest, so k directions are bounded by equal ones of the same
    geometric mean g:

        2 g k (1 - 1/S),  S = sum_{n>=0} x^n / ((k/2+1) ... (k/2+n)),

    where 2x is the quantile at 1/m of a chi-square with k degrees of freedom.

    The k leading directions and the others are bounded separately, each as a cost of its own, and
    added; the best k counts. All this is proven, with these constants. The bound is above
    `matching_lower_bound` (twice as large and more in many dimensions), because it uses the density
    of differences and not the largest density of rows.

    Args:
        num_neurons: m, at least 2, traced.
        covariance: C, of a neuron's incoming weights, traced.
        second_moment: Sigma, traced. Default: the identity.

    Raises:
        ValueError: a covariance that is not square, a second moment of another size.

    Source: the nearest-neighbour argument of the paper's Theorem 5.3, with the distribution of
        differences in place of F.
    """
    shape = jnp.shape(covariance)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(
            f"covariance has shape {shape}, expected a square one; use jax.vmap for batches"
        )
    if second_moment is not None and jnp.shape(second_moment) != shape:
        raise ValueError(
            f"second_moment has shape {jnp.shape(second_moment)}, the covariance {shape}"
        )
    dtype = accumulation_dtype(num_neurons, covariance, second_moment)
    log_num_neurons = jnp.log(jnp.asarray(num_neurons, dtype))
    matrix = jnp.asarray(covariance, dtype)
    if second_moment is not None:
        matrix = _weights_in_norm(matrix, jnp.asarray(second_moment, dtype))
    log_eigenvalues = _log_eigenvalues(matrix)
    log_bounds = _log_bounds_by_split(log_eigenvalues, log_num_neurons)
    best = jnp.argmax(log_bounds)
    num_directions = jnp.arange(1, shape[0] + 1)
    return MatchingBound(log_bounds[best], num_directions[best].astype(jnp.int32))


def _check_arguments(dim: int, second_moment: ArrayLike | None, rows: str) -> None:
    """Refuse what `matching_lower_bound` has no bound for."""
    if dim < 1:
        raise ValueError(f"neurons have at least 1 input, not dim={dim}")
    if rows not in get_args(Rows):
        raise ValueError(f"rows={rows!r} is not one of {get_args(Rows)}")
    if second_moment is not None and jnp.shape(second_moment) != (dim, dim):
        raise ValueError(
            f"second_moment has shape {jnp.shape(second_moment)}, dim={dim} asks for {(dim, dim)}"
        )


def _weights_in_norm(covariance: Array, second_moment: Array) -> Array:
    """A matrix with the eigenvalues of `C^(1/2) Sigma C^(1/2)`."""
    values, vectors = jnp.linalg.eigh(covariance)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))  # rounding makes small values negative
    exact = jax.lax.Precision.HIGHEST
    inner = jnp.matmul(second_moment, root, precision=exact)
    return jnp.matmul(root.T, inner, precision=exact)


def _log_eigenvalues(matrix: Array) -> Array:
    """Logarithms of the eigenvalues, largest first; -inf for those that are 0 up to rounding."""
    values = jnp.linalg.eigvalsh(matrix)[::-1]
    noise = len(matrix) * jnp.finfo(matrix.dtype).eps * values[0]
    # Noise in place of a zero would raise a bound.
    is_zero = values <= noise
    positive = jnp.where(is_zero, 1, values)  # inside the logarithm too, for its derivative
    return jnp.where(is_zero, -jnp.inf, jnp.log(positive))


def _log_ball_volume(k: Array) -> Array:
    """The logarithm of the volume of the unit ball in k dimensions, `pi^(k/2) / Gamma(k/2 + 1)`."""
    return k / 2 * math.log(math.pi) - gammaln(k / 2 + 1)


def _log_projection_constants(dim: int) -> np.ndarray:
    """`log min(2^(k/2), (d/(d-k))^((d-k)/2))` for k = 1..d."""
    k = np.arange(1, dim + 1)
    rest = dim - k
    first = k / 2 * np.log(2)
    second = rest / 2 * np.log(dim / np.maximum(rest, 1))
    return np.minimum(first, second)


def _log_bounds_by_split(log_eigenvalues: Array, log_num_neurons: Array) -> Array:
    """The logarithm of the bound from the k leading directions and all others, for k = 1..d."""
    dim = len(log_eigenvalues)
    k = jnp.arange(1, dim + 1)
    rank = jnp.sum(log_eigenvalues > -jnp.inf)
    num_others = jnp.maximum(rank - k, 0)

    log_leading = jnp.cumsum(log_eigenvalues)  # of the product of the k leading ones
    log_all = jnp.where(rank > 0, log_leading[rank - 1], 0)
    log_others = log_all - log_leading

    # Both parts in one call, so that Newton's method runs once.
    num_directions = jnp.concatenate([k, jnp.maximum(num_others, 1)])
    num_directions = num_directions.astype(log_eigenvalues.dtype)
    log_mean = jnp.concatenate([log_leading, log_others]) / num_directions
    log_nearest = _log_nearest(log_mean, num_directions, log_num_neurons, dim)
    log_leading_bound, log_other_bound = jnp.split(log_nearest, 2)

    log_other_bound = jnp.where(num_others > 0, log_other_bound, -jnp.inf)
    log_bounds = jnp.logaddexp(log_leading_bound, log_other_bound)
    log_bounds = jnp.where(k <= rank, log_bounds, -jnp.inf)
    # The rank of a matrix with nan means nothing.
    return jnp.where(jnp.isnan(log_eigenvalues).any(), jnp.nan, log_bounds)


def _log_nearest(log_scale: Array, k: Array, log_num_neurons: Array, largest: int) -> Array:
    """`log E[D | D <= q]` of `D = 2 exp(log_scale) chi^2_k`, where q is the quantile of D at 1/m.

    The quantile solves P(a, x) = 1/m for the regularised incomplete gamma function
    `P(a, x) = x^a e^-x S / Gamma(a+1)`, a = k/2, by Newton's method in u = log x.
    """
    a = k / 2

    def newton_step(u: Array) -> Array:
        """One step towards the quantile."""
        tail = _series_tail(a, u, largest)
        log_probability = a * u - jnp.exp(u) - gammaln(a + 1) + jnp.log1p(tail)
        return u - (log_num_neurons + log_probability) * (1 + tail) / a

    # At the start x^a / Gamma(a+1), which is larger than P, is 1/m. P is log-concave in u, so that
    # steps from below stay below.
    start = jax.lax.stop_gradient((gammaln(a + 1) - log_num_neurons) / a)
    u = jax.lax.fori_loop(0, _NEWTON_STEPS, lambda _, u: newton_step(u), start)
    # One more step carries the derivative, so that the loop needs none.
    u = newton_step(jax.lax.stop_gradient(u))
    tail = _series_tail(a, u, largest)
    return math.log(2) + log_scale + jnp.log(k) + jnp.log(tail) - jnp.log1p(tail)


def _series_tail(a: Array, u: Array, largest: int) -> Array:
    """`S - 1`, where `S = sum_{n>=0} x^n / ((a+1) ... (a+n))` and x = exp(u)."""
    # Terms fall like exp(-n^2 / 2a) where x <= a: the last is about exp(-64).
    num_terms = 23 + math.ceil(8 * math.sqrt(largest))
    n = jnp.arange(1, num_terms + 1, dtype=u.dtype)
    log_factors = u[:, None] - jnp.log(a[:, None] + n)
    return jnp.exp(jnp.cumsum(log_factors, axis=1)).sum(1)
