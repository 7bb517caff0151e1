"""Widths that suffice for linear mode connectivity, by the paper's theorems, in logarithms."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num

from lmcjax._dtypes import accumulation_dtype

_LARGEST_EXPONENT = 80.0  # exp of it fits a float32
_LOG_10 = math.log(10)


class WidthTower(NamedTuple):
    """Widths of the hidden layers, first to last: `exp(exp(... top))` with `height` exponentials.

    `str` shows them in powers of ten.
    """

    height: Int[Array, " depth"]
    top: Float[Array, " depth"]  # the width itself where height is 0, or else above 80
    log_width: Float[Array, " depth"]  # natural log of the width; inf beyond the range of floats

    def __str__(self) -> str:
        lines: list[str] = []
        for height, top in zip(self.height, self.top, strict=True):
            layer = len(lines) + 1
            lines.append(f"layer {layer}: {_format_tower(int(height), float(top))} neurons")
        return "\n".join(lines)


class TwoLayerWidth(NamedTuple):
    """Logarithms of sufficient widths of one hidden layer; `vmap` prepends axes to every field."""

    log_width: Float[Array, ""]  # natural log of (T / eps)^m_0
    log_width_entezari: Float[Array, ""]  # natural log of (T / eps)^(2 m_0 + 4), the older bound


class LowDimensionalWidth(NamedTuple):
    """The width of a layer of nearly low-dimensional rows; `vmap` prepends axes to every field."""

    log_width: Float[Array, ""]  # natural log of the width
    crossover_error: Float[Array, ""]  # below this error the tail counts
    crossover_log_width: Float[Array, ""]  # natural log of the width at that error
    tail_dominates: Bool[Array, ""]  # whether the error asked for is below it


def width_upper_bound(
    error: Num[ArrayLike, ""],
    input_dim: Num[ArrayLike, ""],
    depth: int,
    *,
    constants: Num[ArrayLike, "*depth"] = 1.0,
    sub_gaussian_ratio: Num[ArrayLike, ""] = 1.0,
) -> WidthTower:
    """Compute widths of all hidden layers that suffice for a barrier of eps.

        m_l = (K T_l / eps)^(m_{l-1}),

    a tower of powers as high as the network is deep; widths are at least 1. For depth 1 this is
    `two_layer_width`. The recursion is proven (Theorem 5.2, up to logarithms) and tight in its
    exponents (Theorem 5.3). The T_l are constants that the theorem says exist. They are not
    calibrated here: with 1 the numbers show the shape only.

    Theorem 5.5 has the same for independent sub-Gaussian entries, with other constants. K is the
    ratio of the sub-Gaussian norm to the standard deviation, in the unit in which T_l is that of a
    Gaussian. It is 1 for Gaussian, uniform and Rademacher entries, which are strictly sub-Gaussian.

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
    eps = jnp.asarray(error, dtype)
    scale = jnp.asarray(sub_gaussian_ratio, dtype) * jnp.asarray(constants, dtype)
    rates = jnp.broadcast_to(jnp.log(scale / eps), (depth,))
    rates = jnp.maximum(rates, 0)  # a layer whose constant is below eps needs one neuron

    height = jnp.zeros((), jnp.int32)
    top = jnp.asarray(input_dim, dtype)
    heights = []
    tops = []
    for rate in rates:
        height, top = _power(rate, height, top)
        heights.append(height)
        tops.append(top)
    all_heights = jnp.stack(heights)
    all_tops = jnp.stack(tops)
    return WidthTower(all_heights, all_tops, _log_tower(all_heights, all_tops))


def two_layer_width(
    error: Num[ArrayLike, ""], input_dim: Num[ArrayLike, ""], *, constant: Num[ArrayLike, ""] = 1.0
) -> TwoLayerWidth:
    """Compute widths of one hidden layer that suffice for a barrier of eps.

    They are `(T/eps)^m_0` by the paper, and `(T/eps)^(2 m_0 + 4)` by the bound before it. The
    exponents are proven, up to logarithms. T exists, is not given by the theorems, and need not be
    the same for both: leave it at 1 unless it has been calibrated. The best matching has error
    `n^(-1/m_0)` in the root mean square, so no fewer suffice in general (`matching_lower_bound`).

    Args:
        error: eps, traced, in the unit of T.
        input_dim: m_0, traced.
        constant: T, traced.

    Source: the paper, Theorem 5.2 and the remark after it; Entezari et al. (2022), Theorem 3.1.
    """
    dtype = accumulation_dtype(error, input_dim, constant)
    eps = jnp.asarray(error, dtype)
    m_0 = jnp.asarray(input_dim, dtype)
    scale = jnp.asarray(constant, dtype)
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
    """Compute the width of a layer whose rows vary in k directions, and by eta in the others.

    The width is `(T/eps)^k` as long as eps > eta. At eps = eta, where it is `(T/eta)^k`, the other
    directions (the tail) begin to count, and the rate of all m_{l-1} dimensions returns:
    `(T/eta)^k (eta/eps)^(m_{l-1})`. The two exponents and the order of the crossover are proven (up
    to logarithms). That both sides meet with one constant T is a model, continuous and calibrated
    by T alone. Widths up to that of the crossover do not depend on the layer before, so that the
    tower of `width_upper_bound` does not arise there.

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
    eps = jnp.asarray(error, dtype)
    k = jnp.asarray(dominant_dim, dtype)
    d = jnp.asarray(input_dim, dtype)
    eta = jnp.asarray(tail_std, dtype)
    scale = jnp.asarray(constant, dtype) * jnp.asarray(sub_gaussian_ratio, dtype)

    log_scale = jnp.log(scale)
    log_eps = jnp.log(eps)
    has_tail = eta > 0
    log_eta = jnp.where(has_tail, jnp.log(jnp.where(has_tail, eta, 1)), -jnp.inf)

    crossover = k * jnp.maximum(log_scale - log_eta, 0)
    tail_dominates = log_eps < log_eta
    above = k * jnp.maximum(log_scale - log_eps, 0)
    # Without a tail both terms are infinite: 0 in their place keeps nan out of derivatives.
    at_crossover = jnp.where(tail_dominates, crossover, 0)
    from_tail = d * jnp.where(tail_dominates, log_eta - log_eps, 0)
    below = at_crossover + from_tail
    return LowDimensionalWidth(
        log_width=jnp.where(tail_dominates, below, above),
        crossover_error=eta,
        crossover_log_width=crossover,
        tail_dominates=tail_dominates,
    )


def _power(rate: Array, height: Array, top: Array) -> tuple[Array, Array]:
    """The tower `exp(rate x)` of a tower x = exp(exp(... top)), with as few exponentials as fit."""
    log_rate = jnp.log(jnp.where(rate > 0, rate, 1))
    # The top of the exponent rate x. For a number x it is rate x. For x = exp(top) it is the
    # logarithm log rate + top. For higher towers the rate is lost in the rounding of x.
    exponent = jnp.select([height == 0, height == 1], [rate * top, log_rate + top], top)
    fits = exponent <= _LARGEST_EXPONENT
    new_top = jnp.where(fits, jnp.exp(jnp.where(fits, exponent, 0)), exponent)
    new_height = jnp.where(fits, height, height + 1)
    # exp(0 x) is 1.
    new_height = jnp.where(rate > 0, new_height, 0)
    new_top = jnp.where(rate == 0, 1, new_top)
    return new_height, new_top


def _log_tower(height: Array, top: Array) -> Array:
    """Natural logarithms of towers; inf beyond the range of floats."""
    is_number = height == 0
    one_exponential = height == 1
    two_exponentials = height == 2
    beyond = jnp.where(jnp.isnan(top), jnp.nan, jnp.inf)
    return jnp.select(
        [is_number, one_exponential, two_exponentials],
        [
            jnp.log(jnp.where(is_number, top, 1)),
            top,
            jnp.exp(jnp.where(two_exponentials, top, 0)),
        ],
        beyond,
    )


def _format_tower(height: int, top: float) -> str:
    """A tower in powers of ten: `10^784`, `10^(10^784)`."""
    if math.isnan(top):
        return "nan"
    if height == 0 and top < 1e6:
        return f"{math.ceil(top):,}"
    if height == 0:
        return f"10^{math.log10(top):.1f}"
    if height > 1:
        top = top - math.log(_LOG_10)  # the innermost power of e becomes one of 10
    exponent = top / _LOG_10
    shown = f"{exponent:.1f}" if exponent < 1000 else f"{exponent:.3g}"
    opening = "10^(" * (height - 1)
    closing = ")" * (height - 1)
    return f"more than {opening}10^{shown}{closing}"
