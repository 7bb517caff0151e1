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
    """Moments of the activations of networks A and B at one place; `vmap` prepends axes to every
    field.

    Sums are centred (about the mean of the samples seen), so that large means cost no digits. Of
    one-hot vectors only the means are kept, which say all; their sums are None.
    """

    num_samples: Float[Array, ""]  # N
    mean_a: Float[Array, " n"]
    mean_b: Float[Array, " n_b"]  # as many as A's, unless the networks differ in width
    centred_aa: Float[Array, "n n"] | None  # sum_x (phi_A - mean_A)(phi_A - mean_A)^T
    centred_bb: Float[Array, "n_b n_b"] | None
    centred_ab: Float[Array, "n n_b"] | None  # rows: neurons of A, columns: neurons of B


def _outer_sum(x: Array, y: Array) -> Array:
    return jnp.matmul(x.T, y, precision=jax.lax.Precision.HIGHEST)


def sample_moments(
    a: Num[ArrayLike, "num_samples n"], b: Num[ArrayLike, "num_samples n_b"]
) -> Moments:
    """The moments of one batch of activations, accumulated in float32 at least, in float64 where
    x64 is on.

    Raises:
        ValueError: the batches differ in the number of samples or are empty.
    """
    shapes = jnp.shape(a), jnp.shape(b)
    if (
        (len(shapes[0]), len(shapes[1])) != (2, 2)
        or shapes[0][0] != shapes[1][0]
        or shapes[0][0] == 0
    ):
        raise ValueError(
            f"a and b are activations [num_samples, n] of as many samples, not {shapes[0]}, {shapes[1]}"
        )
    dtype = accumulation_dtype(a, b, least=jnp.result_type(float))
    a, b = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
    first_a, first_b = a[0], b[0]
    a, b = a - first_a, b - first_b  # small numbers, and exactly 0 for a constant neuron
    mean_a, mean_b = jnp.mean(a, axis=0), jnp.mean(b, axis=0)
    count = jnp.asarray(a.shape[0], dtype)
    a, b = a - mean_a, b - mean_b
    return Moments(
        count,
        first_a + mean_a,
        first_b + mean_b,
        _outer_sum(a, a),
        _outer_sum(b, b),
        _outer_sum(a, b),
    )


def merge_moments(first: Moments, second: Moments) -> Moments:
    """The moments of two sets of samples together: exact in real arithmetic, associative up to
    rounding.

    With `d = mean_2 - mean_1`: `C = C_1 + C_2 + N_1 N_2 / (N_1 + N_2) d d^T` (Chan, Golub and
    LeVeque 1983).
    """
    count = first.num_samples + second.num_samples
    share = second.num_samples / count
    delta_a, delta_b = second.mean_a - first.mean_a, second.mean_b - first.mean_b
    weight = first.num_samples * share

    def add(one: Array | None, other: Array | None, x: Array, y: Array) -> Array | None:
        return None if one is None or other is None else one + other + weight * jnp.outer(x, y)

    return Moments(
        count,
        first.mean_a + share * delta_a,
        first.mean_b + share * delta_b,
        add(first.centred_aa, second.centred_aa, delta_a, delta_a),
        add(first.centred_bb, second.centred_bb, delta_b, delta_b),
        add(first.centred_ab, second.centred_ab, delta_a, delta_b),
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
            num_samples, n]` to measure.
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
    inputs = jax.tree.map(jnp.asarray, inputs)

    def values(params: PyTree, x: PyTree) -> dict[str, Array]:
        named = activations(params, x).items()
        return {
            name: jnp.asarray(v, accumulation_dtype(v, least=jnp.result_type(float)))
            for name, v in named
        }

    first = jax.tree.map(lambda x: x[:1], inputs)
    origin_a, origin_b = (
        {name: value[..., :1, :] for name, value in values(params, first).items()}
        for params in (params_a, params_b)
    )

    def of_batch(x: PyTree) -> dict[str, Moments]:
        """Measured from the first sample: means stay small, and merging them costs no digits."""
        a, b = values(params_a, x), values(params_b, x)
        return {
            n: _measure(a[n] - origin_a[n], b[n] - origin_b[n], one_hot=n in one_hot) for n in a
        }

    def merge(first: dict[str, Moments], second: dict[str, Moments]) -> dict[str, Moments]:
        return {
            name: over_batch(merge_moments, m.num_samples.ndim)(m, second[name])
            for name, m in first.items()
        }

    def add_batch(total: dict[str, Moments], start: Array) -> tuple[dict[str, Moments], None]:
        batch = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, batch_size), inputs)
        return merge(total, of_batch(batch)), None

    batch_size = min(batch_size, num_samples)
    end = num_samples - num_samples % batch_size
    total = of_batch(jax.tree.map(lambda x: x[:batch_size], inputs))
    total, _ = jax.lax.scan(add_batch, total, jnp.arange(batch_size, end, batch_size))
    total = (
        total
        if end == num_samples
        else merge(total, of_batch(jax.tree.map(lambda x: x[end:], inputs)))
    )
    return {
        n: m._replace(
            mean_a=m.mean_a + origin_a[n][..., 0, :], mean_b=m.mean_b + origin_b[n][..., 0, :]
        )
        for n, m in total.items()
    }


def count_samples(inputs: PyTree) -> int:
    """The length of the leading axis that all inputs share.

    Raises:
        ValueError: the inputs differ in it, or there are none.
    """
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(inputs)}
    if len(counts) != 1 or counts == {()}:
        raise ValueError(
            f"inputs have a leading axis of samples, not {jax.tree.map(jnp.shape, inputs)}"
        )
    ((num_samples,),) = counts
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


def _measure(a: Array, b: Array, one_hot: bool) -> Moments:
    """`sample_moments` over leading axes."""
    if one_hot:
        count = jnp.full(a.shape[:-2], a.shape[-2], a.dtype)
        return Moments(count, a.mean(-2), b.mean(-2), None, None, None)
    return over_batch(sample_moments, a.ndim - 2)(a, b)


def second_moment(moments: Moments, *, ddof: int = 0) -> Float[Array, "n n"]:
    """The uncentred second moment of A, `sum_x phi_A phi_A^T / (N - ddof)`; the paper divides by N
    - 1 (Section 6).
    """
    if moments.centred_aa is None:  # one-hot vectors
        total = moments.num_samples * jnp.diag(moments.mean_a)
    else:
        total = moments.centred_aa + moments.num_samples * jnp.outer(moments.mean_a, moments.mean_a)
    return total / (moments.num_samples - ddof)


def cross_covariance(moments: Moments, *, ddof: int = 1) -> Float[Array, "n n_b"]:
    """The centred `sum_x (phi_A - mean_A)(phi_B - mean_B)^T / (N - ddof)`; rows A, columns B."""
    assert moments.centred_ab is not None  # one-hot vectors are no neurons
    return moments.centred_ab / (moments.num_samples - ddof)


def cross_correlation(moments: Moments) -> Float[Array, "n n_b"]:
    """Pearson's correlation of every neuron of A with every neuron of B, in [-1, 1]; 0 for a
    constant neuron.
    """

    def inverse_norm(centred: Array | None) -> Array:
        assert centred is not None
        squared = jnp.diagonal(centred)
        return jnp.where(squared == 0, 0, jax.lax.rsqrt(jnp.where(squared == 0, 1, squared)))

    assert moments.centred_ab is not None  # one-hot vectors are no neurons
    correlation = (
        inverse_norm(moments.centred_aa)[:, None]
        * moments.centred_ab
        * inverse_norm(moments.centred_bb)
    )
    return jnp.clip(correlation, -1, 1)  # rounding
