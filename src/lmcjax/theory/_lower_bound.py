"""How near the best matching of two independent clouds of neurons can come: bounds from below, in
logarithms.
"""

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
    """A lower bound on `E min_P ||W_A - P W_B||^2 / m`, per neuron; `vmap` prepends axes to every
    field.
    """

    log_error: Float[
        Array, ""
    ]  # natural logarithm of the bound, in the squared unit of the weights (or of Sigma's norm)
    num_directions: Int[Array, ""]  # the leading directions of Sigma's norm that gave it

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
    """`E min_P ||W_A - P W_B||_F^2 / m >= d/(d+2) (m F V_d)^(-2/d)`, V_d the unit ball's volume.

    Proven, with this constant: a neuron is matched no closer than to its nearest neighbour in the
        other network, and m
    balls of radius r hold at most `m F V_d r^d` of a density bounded by F. A and B have to be
    independent of each other; neurons within a network need not be. It bounds the mean: single
    draws fall below it, often where d <= 2.

    In the norm `||w||_Sigma^2 = w^T Sigma w`, F becomes `F / sqrt(det Sigma)`. The squared distance
    in a subspace bounds that in the whole space, so where `rows` says how the density of
    projections is bounded, the best of the bounds in the leading k eigenvectors of Sigma is taken;
    with `"any"` there is only k = d, and a singular Sigma gives 0.

    Args:
        num_neurons: m, traced; it may be a number beyond every integer.
        dim: d, static: the neurons' inputs.
        log_density_bound: log F, traced; its unit is -d times the logarithm of the weights' unit.
            Of rows from N(0, C): `-d/2 log(2 pi) - 1/2 log det C`. Only marginal densities count.
        second_moment: Sigma, traced: what the layer sees, divided by N. Default: the identity.
        rows: static. `"any"`: nothing is known but F. `"gaussian"`: rows are from N(0, s^2 I), with
            the s that makes F their largest density; projected to k dimensions they have F^(k/d).
            `"independent"`: entries are independent and each has a density of at most F^(1/d); k
            dimensions have `F^(k/d) min(2^(k/2), (d/(d-k))^((d-k)/2))`.

    Raises:
        ValueError: dim below 1, a second moment of another size, unknown `rows`.

    Source: the paper, Theorem 5.3, which has the rate without a constant; projections of product
        densities: Livshyts,
    Paouris and Pivovarov (2016), Theorem 1.1.
    """
    if dim < 1:
        raise ValueError(f"neurons have at least 1 input, not dim={dim}")
    if rows not in get_args(Rows):
        raise ValueError(f"rows={rows!r} is not one of {get_args(Rows)}")
    if second_moment is not None and jnp.shape(second_moment) != (dim, dim):
        raise ValueError(
            f"second_moment has shape {jnp.shape(second_moment)}, dim={dim} asks for {(dim, dim)}"
        )
    extra = () if second_moment is None else (second_moment,)
    dtype = accumulation_dtype(num_neurons, log_density_bound, *extra)
    log_m = jnp.log(jnp.asarray(num_neurons, dtype))
    log_density = jnp.asarray(log_density_bound, dtype)
    all_k = np.arange(1, dim + 1)
    allowed = np.array([dim]) if rows == "any" or second_moment is None else all_k
    k = jnp.asarray(allowed, dtype)
    log_det = jnp.zeros(len(allowed), dtype)
    if second_moment is not None:
        log_det = jnp.cumsum(_log_eigenvalues(jnp.asarray(second_moment, dtype)))[allowed - 1]
    spread = jnp.asarray(
        _projection_constant(dim)[allowed - 1] if rows == "independent" else 0 * allowed, dtype
    )
    in_balls = log_m + k / dim * log_density + spread - log_det / 2 + _log_ball_volume(k)
    bounds = jnp.log(k / (k + 2)) - 2 / k * in_balls
    best = jnp.argmax(bounds)
    return MatchingBound(bounds[best], jnp.asarray(allowed, jnp.int32)[best])


def gaussian_matching_lower_bound(
    num_neurons: Num[ArrayLike, ""],
    covariance: Num[ArrayLike, "dim dim"],
    second_moment: Num[ArrayLike, "dim dim"] | None = None,
) -> MatchingBound:
    """A sharper bound for rows from N(0, C): the mean of the nearest 1/m of all distances between
    the two networks.

    For any law, `E min_P ||W_A - P W_B||^2 / m >= E[D | D <= q]`, D the squared distance of an
    independent pair of rows and q the quantile of D at 1/m: the chance that one of m candidates is
    nearer than r is at most m P(D < r^2). Here D is `sum_i 2 l_i z_i^2`, l the eigenvalues of
    `C^(1/2) Sigma C^(1/2)` and z normal; among sets of equal volume the ball is likeliest, so k
    directions are bounded by equal ones of the same geometric mean g:

        2 g k (1 - 1/S),  S = sum_{n>=0} x^n / ((k/2+1) ... (k/2+n)),

    where 2x is the quantile at 1/m of a chi-square with k degrees of freedom.

    The k leading directions and the others are bounded apart and added (each is a cost of its own),
    with the best k. Proven, with these constants. It is above `matching_lower_bound` (by 2 and more
    in many dimensions), because it uses the density of differences and not the largest density of
    rows.

    Args:
        num_neurons: m, at least 2, traced.
        covariance: C, of a neuron's incoming weights, traced.
        second_moment: Sigma, traced. Default: the identity.

    Raises:
        ValueError: a covariance that is not square, a second moment of another size.

    Source: the nearest-neighbour argument of the paper's Theorem 5.3, with the law of differences
        in place of F.
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
    extra = () if second_moment is None else (second_moment,)
    dtype = accumulation_dtype(num_neurons, covariance, *extra)
    log_m = jnp.log(jnp.asarray(num_neurons, dtype))
    matrix = jnp.asarray(covariance, dtype)
    if second_moment is not None:
        values, vectors = jnp.linalg.eigh(matrix)
        root = vectors * jnp.sqrt(jnp.maximum(values, 0))
        exact = jax.lax.Precision.HIGHEST
        inner = jnp.matmul(jnp.asarray(second_moment, dtype), root, precision=exact)
        matrix = jnp.matmul(root.T, inner, precision=exact)
    logs = _log_eigenvalues(matrix)
    k = jnp.arange(1, shape[0] + 1)
    rank = jnp.sum(logs > -jnp.inf)
    leading = jnp.cumsum(logs)
    whole = jnp.where(rank > 0, leading[rank - 1], 0)
    num_others = jnp.maximum(rank - k, 0)
    size = jnp.concatenate([k, jnp.maximum(num_others, 1)]).astype(dtype)
    log_mean = jnp.concatenate([leading, whole - leading]) / size
    log_head, log_others = jnp.split(_log_nearest(log_mean, size, log_m, shape[0]), 2)
    bounds = jnp.logaddexp(log_head, jnp.where(num_others > 0, log_others, -jnp.inf))
    bounds = jnp.where(jnp.isnan(logs).any(), jnp.nan, jnp.where(k <= rank, bounds, -jnp.inf))
    best = jnp.argmax(bounds)
    return MatchingBound(bounds[best], k[best].astype(jnp.int32))


def _log_eigenvalues(matrix: Array) -> Array:
    """Largest first; what rounding cannot tell from 0 is 0, lest noise raise a bound."""
    values = jnp.linalg.eigvalsh(matrix)[::-1]
    noise = len(matrix) * jnp.finfo(matrix.dtype).eps * values[0]
    return jnp.where(values <= noise, -jnp.inf, jnp.log(jnp.where(values <= noise, 1, values)))


def _log_ball_volume(k: Array) -> Array:
    """Of the unit ball: `pi^(k/2) / Gamma(k/2 + 1)`."""
    return k / 2 * math.log(math.pi) - gammaln(k / 2 + 1)


def _projection_constant(dim: int) -> np.ndarray:
    """`log min(2^(k/2), (d/(d-k))^((d-k)/2))` for k = 1..d."""
    k = np.arange(1, dim + 1)
    rest = dim - k
    return np.minimum(k / 2 * np.log(2), rest / 2 * np.log(dim / np.maximum(rest, 1)))


def _log_nearest(log_scale: Array, k: Array, log_m: Array, largest: int) -> Array:
    """`log E[D | D <= q]` of `D = 2 exp(log_scale) chi^2_k`, q its quantile at 1/m."""
    a = k / 2

    def series(u: Array) -> Array:
        """`S - 1`, at x = exp(u); terms fall like `exp(-n^2 / 2a)` where x <= a."""
        terms = jnp.arange(1, 24 + math.ceil(8 * math.sqrt(largest)), dtype=u.dtype)
        return jnp.exp(jnp.cumsum(u[:, None] - jnp.log(a[:, None] + terms), axis=1)).sum(1)

    def newton(u: Array) -> Array:
        """Towards P(a, x) = 1/m, P = x^a e^-x S / Gamma(a+1); P is log-concave in u, so steps from
        below stay below.
        """
        t = series(u)
        log_p = a * u - jnp.exp(u) - gammaln(a + 1) + jnp.log1p(t)
        return u - (log_m + log_p) * (1 + t) / a

    start = jax.lax.stop_gradient(
        (gammaln(a + 1) - log_m) / a
    )  # where x^a / Gamma(a+1), which is larger, is 1/m
    u = jax.lax.fori_loop(0, _NEWTON_STEPS, lambda _, u: newton(u), start)
    t = series(newton(jax.lax.stop_gradient(u)))  # one more step carries the derivative
    return math.log(2) + log_scale + jnp.log(k) + jnp.log(t) - jnp.log1p(t)
