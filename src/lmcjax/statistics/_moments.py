"""First and second moments of two networks' activations, in one pass over the data."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num, PyTree

from lmcjax._dtypes import accumulation_dtype

Taps: TypeAlias = Callable[[PyTree, Array], Mapping[str, Array]]
"""`taps(params, inputs)`: named activations `[num_samples, n]`, such as `MLP.taps`."""


class Moments(NamedTuple):
    """Moments of the activations of networks A and B at one tap; `vmap` prepends axes to every field.

    Sums are centred (about the mean of the samples seen), so that large means cost no digits.
    """

    num_samples: Float[Array, ""]  # N
    mean_a: Float[Array, " n"]
    mean_b: Float[Array, " n"]
    centred_aa: Float[Array, "n n"]  # sum_x (phi_A - mean_A)(phi_A - mean_A)^T
    centred_bb: Float[Array, "n n"]
    centred_ab: Float[Array, "n n"]  # rows: neurons of A, columns: neurons of B


def _outer_sum(x: Array, y: Array) -> Array:
    return jnp.matmul(x.T, y, precision=jax.lax.Precision.HIGHEST)


def sample_moments(a: Num[ArrayLike, "num_samples n"], b: Num[ArrayLike, "num_samples n"]) -> Moments:
    """The moments of one batch of activations, accumulated in float32 at least, in float64 where x64 is on.

    Raises:
        ValueError: the batches differ in shape or are empty.
    """
    if jnp.ndim(a) != 2 or jnp.shape(a) != jnp.shape(b) or jnp.shape(a)[0] == 0:
        raise ValueError(f"a and b are activations [num_samples, n] of equal shape, not {jnp.shape(a)}, {jnp.shape(b)}")
    dtype = accumulation_dtype(a, b, least=jnp.result_type(float))
    a, b = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
    first_a, first_b = a[0], b[0]
    a, b = a - first_a, b - first_b  # small numbers, and exactly 0 for a constant neuron
    mean_a, mean_b = jnp.mean(a, axis=0), jnp.mean(b, axis=0)
    count = jnp.asarray(a.shape[0], dtype)
    a, b = a - mean_a, b - mean_b
    return Moments(count, first_a + mean_a, first_b + mean_b, _outer_sum(a, a), _outer_sum(b, b), _outer_sum(a, b))


def merge_moments(first: Moments, second: Moments) -> Moments:
    """The moments of two sets of samples together: exact in real arithmetic, associative up to rounding.

    With `d = mean_2 - mean_1`: `C = C_1 + C_2 + N_1 N_2 / (N_1 + N_2) d d^T` (Chan, Golub and LeVeque 1983).
    """
    count = first.num_samples + second.num_samples
    share = second.num_samples / count
    delta_a, delta_b = second.mean_a - first.mean_a, second.mean_b - first.mean_b
    weight = first.num_samples * share
    return Moments(
        count,
        first.mean_a + share * delta_a,
        first.mean_b + share * delta_b,
        first.centred_aa + second.centred_aa + weight * jnp.outer(delta_a, delta_a),
        first.centred_bb + second.centred_bb + weight * jnp.outer(delta_b, delta_b),
        first.centred_ab + second.centred_ab + weight * jnp.outer(delta_a, delta_b),
    )


def activation_moments(
    taps: Taps, params_a: PyTree, params_b: PyTree, inputs: Num[ArrayLike, "num_samples ..."], *, batch_size: int = 1000
) -> dict[str, Moments]:
    """The moments of both networks' activations on the same inputs, streamed in batches with flat memory.

    Args:
        taps: static; `taps(params, inputs)` names the activations `[num_samples, n]` to measure. For `match_layerwise`
            they are called by group (what its readers see) and, for a kernel that reads no group, by the kernel's leaf.
        params_a, params_b: the two networks' parameters, traced.
        inputs: traced; the last batch may be short.
        batch_size: static, samples per batch; it sets memory and speed, the result changes by rounding only.

    Returns:
        `Moments` per tap.

    Raises:
        ValueError: no samples, or a batch size below 1.
    """
    num_samples = jnp.shape(inputs)[0]
    if num_samples == 0:
        raise ValueError(f"activation moments of an empty data set: inputs have shape {jnp.shape(inputs)}")
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, not {batch_size}")
    inputs = jnp.asarray(inputs)

    def activations(params: PyTree, x: Array) -> dict[str, Array]:
        values = taps(params, x).items()
        return {name: jnp.asarray(v, accumulation_dtype(v, least=jnp.result_type(float))) for name, v in values}

    origin_a, origin_b = (
        {name: value[0] for name, value in activations(params, inputs[:1]).items()} for params in (params_a, params_b)
    )

    def of_batch(x: Array) -> dict[str, Moments]:
        """Measured from the first sample: means stay small, and merging them costs no digits."""
        a, b = activations(params_a, x), activations(params_b, x)
        return {n: sample_moments(a[n] - origin_a[n], b[n] - origin_b[n]) for n in a}

    def merge(first: dict[str, Moments], second: dict[str, Moments]) -> dict[str, Moments]:
        return {name: merge_moments(first[name], second[name]) for name in first}

    def add_batch(total: dict[str, Moments], start: Array) -> tuple[dict[str, Moments], None]:
        return merge(total, of_batch(jax.lax.dynamic_slice_in_dim(inputs, start, batch_size))), None

    batch_size = min(batch_size, num_samples)
    end = num_samples - num_samples % batch_size
    total = of_batch(inputs[:batch_size])
    total, _ = jax.lax.scan(add_batch, total, jnp.arange(batch_size, end, batch_size))
    total = total if end == num_samples else merge(total, of_batch(inputs[end:]))
    return {n: m._replace(mean_a=m.mean_a + origin_a[n], mean_b=m.mean_b + origin_b[n]) for n, m in total.items()}


def second_moment(moments: Moments, *, ddof: int = 0) -> Float[Array, "n n"]:
    """The uncentred second moment of A, `sum_x phi_A phi_A^T / (N - ddof)`; the paper divides by N - 1 (Section 6)."""
    total = moments.centred_aa + moments.num_samples * jnp.outer(moments.mean_a, moments.mean_a)
    return total / (moments.num_samples - ddof)


def cross_covariance(moments: Moments, *, ddof: int = 1) -> Float[Array, "n n"]:
    """The centred `sum_x (phi_A - mean_A)(phi_B - mean_B)^T / (N - ddof)`; rows A, columns B."""
    return moments.centred_ab / (moments.num_samples - ddof)


def cross_correlation(moments: Moments) -> Float[Array, "n n"]:
    """Pearson's correlation of every neuron of A with every neuron of B, in [-1, 1]; 0 for a constant neuron."""

    def inverse_norm(centred: Array) -> Array:
        squared = jnp.diagonal(centred)
        return jnp.where(squared == 0, 0, jax.lax.rsqrt(jnp.where(squared == 0, 1, squared)))

    correlation = inverse_norm(moments.centred_aa)[:, None] * moments.centred_ab * inverse_norm(moments.centred_bb)
    return jnp.clip(correlation, -1, 1)  # rounding
