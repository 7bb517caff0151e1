"""First and second moments of two networks' activations, in one pass over the data."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num, PyTree

from lmcjax._dtypes import accumulation_dtype

NamedActivations: TypeAlias = Callable[[PyTree, Any], Mapping[str, Array]]
"""`activations(params, inputs)`: named activations `[*batch, num_samples, n]`."""


class Moments(NamedTuple):
    """Moments of the activations of networks A and B at one place; `vmap` prepends axes to them.

    Sums are centred (about the mean of the samples seen), so that large means cost no digits. Of
    one-hot vectors only the means are kept, which say all; their sums are None.
    """

    num_samples: Float[Array, ""]  # N
    mean_a: Float[Array, " n"]
    mean_b: Float[Array, " n_b"]  # as many as A's, unless the networks differ in width
    centred_aa: Float[Array, "n n"] | None  # sum_x (phi_A - mean_A)(phi_A - mean_A)^T
    centred_bb: Float[Array, "n_b n_b"] | None
    centred_ab: Float[Array, "n n_b"] | None  # rows: neurons of A, columns: neurons of B


def sample_moments(
    a: Num[ArrayLike, "num_samples n"], b: Num[ArrayLike, "num_samples n_b"]
) -> Moments:
    """The moments of one batch of activations.

    They are accumulated in float32 at least, in float64 where x64 is on.

    Raises:
        ValueError: the batches differ in the number of samples or are empty.
    """
    shape_a = jnp.shape(a)
    shape_b = jnp.shape(b)
    are_matrices = len(shape_a) == len(shape_b) == 2
    if not are_matrices or shape_a[0] != shape_b[0] or shape_a[0] == 0:
        raise ValueError(
            f"a and b are activations [num_samples, n] of as many samples, not {shape_a}, {shape_b}"
        )
    dtype = accumulation_dtype(a, b, least=jnp.result_type(float))
    mean_a, centred_a = _centre(jnp.asarray(a, dtype))
    mean_b, centred_b = _centre(jnp.asarray(b, dtype))
    return Moments(
        num_samples=jnp.asarray(shape_a[0], dtype),
        mean_a=mean_a,
        mean_b=mean_b,
        centred_aa=_outer_sum(centred_a, centred_a),
        centred_bb=_outer_sum(centred_b, centred_b),
        centred_ab=_outer_sum(centred_a, centred_b),
    )


def _centre(samples: Array) -> tuple[Array, Array]:
    """The mean of some samples, and the samples less their mean."""
    first = samples[0]
    shifted = samples - first  # small numbers, and exactly 0 for a constant neuron
    mean = jnp.mean(shifted, axis=0)
    return first + mean, shifted - mean


def _outer_sum(x: Array, y: Array) -> Array:
    return jnp.matmul(x.T, y, precision=jax.lax.Precision.HIGHEST)


def merge_moments(first: Moments, second: Moments) -> Moments:
    """The moments of two sets of samples together.

    With `d = mean_2 - mean_1`: `C = C_1 + C_2 + N_1 N_2 / (N_1 + N_2) d d^T` (Chan, Golub and
    LeVeque 1983). Exact in real arithmetic, associative up to rounding.
    """
    count = first.num_samples + second.num_samples
    share = second.num_samples / count
    delta_a = second.mean_a - first.mean_a
    delta_b = second.mean_b - first.mean_b
    weight = first.num_samples * share

    def add(one: Array | None, other: Array | None, x: Array, y: Array) -> Array | None:
        if one is None or other is None:  # one-hot vectors
            return None
        return one + other + weight * jnp.outer(x, y)

    return Moments(
        num_samples=count,
        mean_a=first.mean_a + share * delta_a,
        mean_b=first.mean_b + share * delta_b,
        centred_aa=add(first.centred_aa, second.centred_aa, delta_a, delta_a),
        centred_bb=add(first.centred_bb, second.centred_bb, delta_b, delta_b),
        centred_ab=add(first.centred_ab, second.centred_ab, delta_a, delta_b),
    )


def stream_moments(
    activations: NamedActivations,
    params_a: PyTree,
    params_b: PyTree,
    inputs: PyTree,
    *,
    batch_size: int,
    one_hot: Collection[str] = (),
) -> dict[str, Moments]:
    """The moments of both networks' activations on the same inputs, in batches.

    Args:
        activations: static; `activations(params, inputs)` names the activations `[*batch,
            num_samples, n]` to measure. It is called with one sample, with whole batches, and with
            what is left for a last one.
        params_a, params_b: the two networks' parameters, traced.
        inputs: arrays with a leading axis of samples, traced; the last batch may be short.
        batch_size: static, samples per batch; it sets memory and speed, the result changes by
            rounding only.
        one_hot: static, names of those that are one-hot vectors.

    Returns:
        `Moments` per name, whose fields have the leading axes `*batch`.

    Raises:
        ValueError: no samples, or a batch size below 1.
    """
    num_samples = count_samples(inputs)
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, not {batch_size}")
    batch_size = min(batch_size, num_samples)
    end = num_samples - num_samples % batch_size  # of the whole batches
    inputs = jax.tree.map(jnp.asarray, inputs)

    def values(params: PyTree, batch: PyTree) -> dict[str, Array]:
        named = {}
        for name, value in activations(params, batch).items():
            dtype = accumulation_dtype(value, least=jnp.result_type(float))
            named[name] = jnp.asarray(value, dtype)
        return named

    # Measured from the first sample, means stay small, and merging them costs no digits.
    first_sample = jax.tree.map(lambda x: x[:1], inputs)
    origin_a = _first_samples(values(params_a, first_sample))
    origin_b = _first_samples(values(params_b, first_sample))

    def measure(batch: PyTree) -> dict[str, Moments]:
        values_a = values(params_a, batch)
        values_b = values(params_b, batch)
        moments = {}
        for name in values_a:
            a = values_a[name] - origin_a[name]
            b = values_b[name] - origin_b[name]
            moments[name] = _measure(a, b, one_hot=name in one_hot)
        return moments

    def add_batch(total: dict[str, Moments], start: Array) -> tuple[dict[str, Moments], None]:
        batch = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, batch_size), inputs)
        return _merge_all(total, measure(batch)), None

    total = measure(jax.tree.map(lambda x: x[:batch_size], inputs))
    total, _ = jax.lax.scan(add_batch, total, jnp.arange(batch_size, end, batch_size))
    if end < num_samples:
        rest = jax.tree.map(lambda x: x[end:], inputs)
        total = _merge_all(total, measure(rest))
    return {name: _shift(total[name], origin_a[name], origin_b[name]) for name in total}


def _first_samples(named: Mapping[str, Array]) -> dict[str, Array]:
    """The first row of samples of each: `[*batch, 1, n]`; an image has a row per patch."""
    return {name: value[..., :1, :] for name, value in named.items()}


def _measure(a: Array, b: Array, one_hot: bool) -> Moments:
    """`sample_moments` over leading axes."""
    if one_hot:
        count = jnp.full(a.shape[:-2], a.shape[-2], a.dtype)
        return Moments(count, a.mean(-2), b.mean(-2), None, None, None)
    return over_batch(sample_moments, a.ndim - 2)(a, b)


def _merge_all(first: Mapping[str, Moments], second: Mapping[str, Moments]) -> dict[str, Moments]:
    """`merge_moments` by name, over leading axes."""
    merged = {}
    for name, moments in first.items():
        merge = over_batch(merge_moments, moments.num_samples.ndim)
        merged[name] = merge(moments, second[name])
    return merged


def _shift(moments: Moments, origin_a: Array, origin_b: Array) -> Moments:
    """Moments measured from an origin `[*batch, 1, n]`, as they are from 0."""
    mean_a = moments.mean_a + origin_a[..., 0, :]
    mean_b = moments.mean_b + origin_b[..., 0, :]
    return moments._replace(mean_a=mean_a, mean_b=mean_b)


def count_samples(inputs: PyTree) -> int:
    """The length of the leading axis that all inputs share.

    Raises:
        ValueError: the inputs differ in it, or there are none.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(inputs)]
    counts = {shape[:1] for shape in shapes}
    if len(counts) != 1 or counts == {()}:
        raise ValueError(
            f"inputs have a leading axis of samples, not {jax.tree.map(jnp.shape, inputs)}"
        )
    num_samples = shapes[0][0]
    if num_samples == 0:
        raise ValueError(
            f"moments of an empty data set: inputs have shapes {jax.tree.map(jnp.shape, inputs)}"
        )
    return num_samples


def over_batch(function: Callable, num_axes: int) -> Callable:
    """A function of single moments, mapped over leading axes."""
    for _ in range(num_axes):
        function = jax.vmap(function)
    return function


def second_moment(moments: Moments, *, ddof: int = 0) -> Float[Array, "n n"]:
    """The uncentred second moment of A, `sum_x phi_A phi_A^T / (N - ddof)`.

    The paper divides by N - 1 (Section 6).
    """
    count = moments.num_samples
    if moments.centred_aa is None:  # one-hot vectors
        total = count * jnp.diag(moments.mean_a)
    else:
        total = moments.centred_aa + count * jnp.outer(moments.mean_a, moments.mean_a)
    return total / (count - ddof)


def cross_covariance(moments: Moments, *, ddof: int = 1) -> Float[Array, "n n_b"]:
    """The centred `sum_x (phi_A - mean_A)(phi_B - mean_B)^T / (N - ddof)`; rows A, columns B."""
    assert moments.centred_ab is not None  # one-hot vectors are no neurons
    return moments.centred_ab / (moments.num_samples - ddof)


def cross_correlation(moments: Moments) -> Float[Array, "n n_b"]:
    """Pearson's correlation of every neuron of A with every neuron of B, in [-1, 1].

    It is 0 for a constant neuron.
    """
    assert moments.centred_ab is not None  # one-hot vectors are no neurons
    inverse_norm_a = _inverse_norm(moments.centred_aa)
    inverse_norm_b = _inverse_norm(moments.centred_bb)
    correlation = inverse_norm_a[:, None] * moments.centred_ab * inverse_norm_b
    return jnp.clip(correlation, -1, 1)  # rounding


def _inverse_norm(centred: Array | None) -> Array:
    """One over each neuron's norm; 0 for a constant neuron."""
    assert centred is not None
    squared = jnp.diagonal(centred)
    is_constant = squared == 0
    # the inner `where` keeps the gradient of the branch that is not taken finite
    return jnp.where(is_constant, 0, jax.lax.rsqrt(jnp.where(is_constant, 1, squared)))
