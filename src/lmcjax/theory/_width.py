"""How wide networks have to be for linear mode connectivity, by the paper's theorems, in logarithms
and towers.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num

from lmcjax._dtypes import accumulation_dtype

_LARGEST = 80.0  # exp of it is a float32
_LOG_10 = math.log(10)


class WidthTower(NamedTuple):
    """Widths of the hidden layers, first to last: `exp(exp(... top))` with `height` exponentials;
    `str` says them.
    """

    height: Int[Array, " depth"]
    top: Float[Array, " depth"]  # the width itself where height is 0, or else above 80
    log_width: Float[Array, " depth"]  # natural log of the width; inf beyond the range of floats

    def __str__(self) -> str:
        return "\n".join(
            f"layer {i}: {_format_tower(int(height), float(top))} neurons"
            for i, (height, top) in enumerate(zip(self.height, self.top, strict=True), 1)
        )


class TwoLayerWidth(NamedTuple):
    """Natural logarithms of sufficient widths of one hidden layer; `vmap` prepends axes to every
    field.
    """

    log_width: Float[Array, ""]  # eps^(-m_0)
    log_width_entezari: Float[Array, ""]  # eps^(-(2 m_0 + 4))


class LowDimensionalWidth(NamedTuple):
    """The width of one layer of approximately low-dimensional rows; `vmap` prepends axes to every
    field.
    """

    log_width: Float[Array, ""]  # natural log of the width
    crossover_error: Float[Array, ""]  # below it the tail counts
    crossover_log_width: Float[Array, ""]
    tail_dominates: Bool[Array, ""]


def width_upper_bound(
    error: Num[ArrayLike, ""],
    input_dim: Num[ArrayLike, ""],
    depth: int,
    *,
    constants: Num[ArrayLike, "*depth"] = 1.0,
    sub_gaussian_ratio: Num[ArrayLike, ""] = 1.0,
) -> WidthTower:
    """Widths that suffice for a barrier of eps: `m_l = (K T_l / eps)^(m_{l-1})`, a tower as high as
    the depth.

    For depth 1 this is `two_layer_width`. The recursion is proven (Theorem 5.2, up to logarithms)
    and tight in its exponents (Theorem 5.3); the T_l are constants that the theorem says exist, not
    calibrated here: with 1 the numbers show the shape only. Theorem 5.5 has the same for
    independent sub-Gaussian entries, with other constants: K is the ratio of the sub-Gaussian norm
    to the standard deviation, 1 for Gaussian, uniform and Rademacher entries, which are strictly
    sub-Gaussian, in the unit in which T_l is that of a Gaussian. Widths are at least 1.

    Args:
        error: eps, traced, in the unit of the T_l (of the network's outputs); below `K T_l`.
        input_dim: m_0, traced; the theorem asks for 5 and more.
        depth: L, the number of hidden layers, static.
        constants: T_l, one or one per layer, traced.
        sub_gaussian_ratio: K, traced.

    Raises:
        ValueError: depth below 1, constants of another shape.

    Source: the paper, Theorems 5.2 and 5.5.
    """
    if depth < 1:
        raise ValueError(f"a network has at least 1 hidden layer, not depth={depth}")
    if jnp.shape(constants) not in ((), (depth,)):
        raise ValueError(
            f"constants have shape {jnp.shape(constants)}, depth={depth} asks for () or {(depth,)}"
        )
    dtype = accumulation_dtype(error, input_dim, constants, sub_gaussian_ratio)
    eps, size, scale = (jnp.asarray(x, dtype) for x in (error, input_dim, sub_gaussian_ratio))
    rates = jnp.broadcast_to(jnp.log(scale * jnp.asarray(constants, dtype) / eps), (depth,))
    height, top = jnp.zeros((), jnp.int32), size
    towers = []
    for rate in jnp.maximum(rates, 0):
        height, top = _power(rate, height, top)
        towers.append((height, top))
    heights, tops = (jnp.stack(x) for x in zip(*towers, strict=True))
    by_height = [
        jnp.log(jnp.where(heights == 0, tops, 1)),
        tops,
        jnp.exp(jnp.where(heights == 2, tops, 0)),
    ]
    log_width = jnp.select(
        [heights == h for h in range(3)], by_height, jnp.where(jnp.isnan(tops), jnp.nan, jnp.inf)
    )
    return WidthTower(heights, tops, log_width)


def two_layer_width(
    error: Num[ArrayLike, ""], input_dim: Num[ArrayLike, ""], *, constant: Num[ArrayLike, ""] = 1.0
) -> TwoLayerWidth:
    """Widths of one hidden layer that suffice for a barrier of eps: `(T/eps)^m_0`, before
    `(T/eps)^(2 m_0 + 4)`.

    The exponents are proven, up to logarithms; T exists, is not given, and need not be the same for
    both: 1 unless it has been calibrated. The best matching has error `n^(-1/m_0)` in the root mean
    square, so no fewer suffice in general (`matching_lower_bound`).

    Args:
        error: eps, traced, in the unit of T.
        input_dim: m_0, traced.
        constant: T, traced.

    Source: the paper, Theorem 5.2 and the remark after it; Entezari et al. (2022), Theorem 3.1.
    """
    dtype = accumulation_dtype(error, input_dim, constant)
    eps, m_0, scale = (jnp.asarray(x, dtype) for x in (error, input_dim, constant))
    rate = jnp.maximum(jnp.log(scale / eps), 0)
    return TwoLayerWidth(m_0 * rate, (2 * m_0 + 4) * rate)


def low_dimensional_width(
    error: Num[ArrayLike, ""],
    dominant_dim: Num[ArrayLike, ""],
    input_dim: Num[ArrayLike, ""],
    tail_std: Num[ArrayLike, ""],
    *,
    constant: Num[ArrayLike, ""] = 1.0,
    sub_gaussian_ratio: Num[ArrayLike, ""] = 1.0,
) -> LowDimensionalWidth:
    """The width of a layer whose rows vary in k directions, and by eta in the others: `(T/eps)^k`
    as long as eps > eta.

    At eps = eta, where the width is `(T/eta)^k`, the tail begins to count, and the rate of all
    m_{l-1} dimensions returns: `(T/eta)^k (eta/eps)^(m_{l-1})`. The two exponents and the order of
    the crossover are proven (up to logarithms); that both sides meet with one constant T is a
    model, continuous and calibrated by T alone. Width below the crossover does not depend on the
    layer before, so that the tower of `width_upper_bound` does not arise there.

    Args:
        error: eps, traced, in the unit of T, in which the dominant standard deviations are of order
            1.
        dominant_dim: k, traced.
        input_dim: m_{l-1}, traced; at least k.
        tail_std: eta, the standard deviation (not the variance) of the other directions, traced; 0:
            there are none.
        constant: T, traced.
        sub_gaussian_ratio: multiplies T, see `width_upper_bound`; traced.

    Source: the paper, Theorem 5.4; two regimes of one measure: Weed and Bach (2019).
    """
    dtype = accumulation_dtype(
        error, dominant_dim, input_dim, tail_std, constant, sub_gaussian_ratio
    )
    arguments = (error, dominant_dim, input_dim, tail_std, constant, sub_gaussian_ratio)
    eps, k, d, eta, scale, ratio = (jnp.asarray(x, dtype) for x in arguments)
    log_scale, log_eps = jnp.log(scale * ratio), jnp.log(eps)
    log_eta = jnp.where(eta > 0, jnp.log(jnp.where(eta > 0, eta, 1)), -jnp.inf)
    crossover = k * jnp.maximum(log_scale - log_eta, 0)
    tail = log_eps < log_eta
    before = k * jnp.maximum(log_scale - log_eps, 0)
    after = jnp.where(tail, crossover, 0) + d * jnp.where(tail, log_eta - log_eps, 0)
    return LowDimensionalWidth(jnp.where(tail, after, before), eta, crossover, tail)


def _power(rate: Array, height: Array, top: Array) -> tuple[Array, Array]:
    """`exp(rate x)` of a tower x = exp(exp(... top)), with the fewest exponentials whose top fits a
    float.
    """
    # x is a number: rate x; x = exp(top): exp(log rate + top); higher still, the rate is lost in
    # the rounding of x
    log_rate = jnp.log(jnp.where(rate > 0, rate, 1))
    exponent = jnp.select([height == 0, height == 1], [rate * top, log_rate + top], top)
    small = exponent <= _LARGEST
    new_top = jnp.where(small, jnp.exp(jnp.where(small, exponent, 0)), exponent)
    return jnp.where(rate > 0, height + jnp.where(small, 0, 1), 0), jnp.where(rate == 0, 1, new_top)


def _format_tower(height: int, top: float) -> str:
    """In powers of ten: `10^784`, `10^(10^784)`."""
    if math.isnan(top):
        return "nan"
    if height == 0:
        return f"{math.ceil(top):,}" if top < 1e6 else f"10^{math.log10(top):.1f}"
    exponent = top / _LOG_10 if height == 1 else (top - math.log(_LOG_10)) / _LOG_10
    shown = f"{exponent:.1f}" if exponent < 1000 else f"{exponent:.3g}"
    return "more than " + "10^(" * (height - 1) + f"10^{shown}" + ")" * (height - 1)
