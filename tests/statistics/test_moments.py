"""Streaming moments against NumPy in float64."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcjax import Moments
from lmcjax.statistics import (
    cross_correlation,
    cross_covariance,
    merge_moments,
    sample_moments,
    second_moment,
    stream_moments,
)

pytestmark = pytest.mark.usefixtures("strict_promotion")


def taps(params: Any, inputs: jax.Array) -> dict[str, jax.Array]:
    """Two taps of different widths, one of them nonlinear."""
    return {"in": inputs, "out": jnp.tanh(jnp.matmul(inputs, params))}


def samples(
    rng: np.random.Generator, num_samples: int, n: int = 4, mean: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Correlated activations of A and B, float32."""
    a = rng.normal(size=(num_samples, n)) @ rng.normal(size=(n, n)) / np.sqrt(n)
    b = 0.5 * a + rng.normal(size=(num_samples, n))
    return (a + mean).astype(np.float32), (b - mean).astype(np.float32)


def numpy_moments(a: np.ndarray, b: np.ndarray) -> Moments:
    a, b = a.astype(np.float64), b.astype(np.float64)
    n = a.shape[1]
    sums = (len(a) - 1) * np.cov(a.T, b.T)
    return Moments(
        np.float64(len(a)), a.mean(0), b.mean(0), sums[:n, :n], sums[n:, n:], sums[:n, n:]
    )


@functools.partial(jax.jit, static_argnames="batch_size")
def stream(a: jax.Array, b: jax.Array, batch_size: int) -> Moments:
    """`stream_moments` of given activations, side by side in the inputs."""
    n = a.shape[1]
    inputs = jnp.concatenate([a, b], axis=1)

    def pick(start: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        return {"tap": jax.lax.dynamic_slice_in_dim(x, start, n, axis=1)}

    return stream_moments(pick, jnp.array(0), jnp.array(n), inputs, batch_size=batch_size)["tap"]


def assert_moments(actual: Moments, expected: Moments, rtol: float) -> None:
    """Each field to `rtol` of its largest entry."""
    chex.assert_trees_all_equal_shapes(actual, expected)
    for name, value, truth in zip(Moments._fields, actual, expected, strict=True):
        scale = np.abs(truth).max()
        np.testing.assert_allclose(value, truth, atol=rtol * scale, rtol=0, err_msg=name)


@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
def test_streamed_moments_equal_numpy(batch_size: int, rng: np.random.Generator) -> None:
    """Whatever the batches, a short last one and one larger than the data among them."""
    a, b = samples(rng, 100)
    assert_moments(stream(a, b, batch_size), numpy_moments(a, b), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [10, 700, 2000])
def test_a_large_mean_costs_no_digits(batch_size: int) -> None:
    """Mean 1e4, standard deviation 1: an uncentred float32 sum would keep no digit."""
    for seed in range(5):
        a, b = samples(np.random.default_rng(seed), 2000, mean=1e4)
        assert_moments(stream(a, b, batch_size), numpy_moments(a, b), rtol=1e-4)
        naive = a.T @ a / np.float32(2000) - np.outer(a.mean(0), a.mean(0))
        assert np.abs(naive - np.cov(a.T)).max() > 0.1


@given(sizes=st.lists(st.integers(1, 5), min_size=3, max_size=3), seed=st.integers(0, 1000))
def test_merging_is_associative_commutative_and_equals_numpy(sizes: list[int], seed: int) -> None:
    a, b = samples(np.random.default_rng(seed), sum(sizes))
    cuts = np.cumsum(sizes)[:-1]
    parts = [
        numpy_float32(*part) for part in zip(np.split(a, cuts), np.split(b, cuts), strict=True)
    ]
    left = merge_moments(merge_moments(parts[0], parts[1]), parts[2])
    assert_moments(left, merge_moments(parts[0], merge_moments(parts[1], parts[2])), rtol=1e-5)
    assert_moments(left, merge_moments(parts[2], merge_moments(parts[1], parts[0])), rtol=1e-5)
    assert_moments(left, numpy_moments(a, b), rtol=1e-5)


def numpy_float32(a: np.ndarray, b: np.ndarray) -> Moments:
    """As `numpy_moments`, for a single sample too, whose covariance NumPy leaves undefined."""
    centred = [(x - x.mean(0)).astype(np.float64) for x in (a, b)]
    sums = [
        x.T @ y
        for x, y in ((centred[0], centred[0]), (centred[1], centred[1]), (centred[0], centred[1]))
    ]
    return jax.tree.map(
        lambda v: jnp.asarray(v, jnp.float32), Moments(float(len(a)), a.mean(0), b.mean(0), *sums)
    )


def test_every_tap_is_measured_under_its_name(rng: np.random.Generator) -> None:
    x = rng.normal(size=(30, 3)).astype(np.float32)
    w_a, w_b = rng.normal(size=(2, 3, 5)).astype(np.float32)
    moments = jax.jit(functools.partial(stream_moments, taps, batch_size=8))(w_a, w_b, x)
    assert set(moments) == {"in", "out"}
    assert_moments(moments["in"], numpy_moments(x, x), rtol=1e-5)
    assert_moments(moments["out"], numpy_moments(np.tanh(x @ w_a), np.tanh(x @ w_b)), rtol=1e-5)


@pytest.mark.parametrize("ddof", [0, 1])
def test_second_moment_and_covariance_equal_numpy(ddof: int, rng: np.random.Generator) -> None:
    a, b = samples(rng, 50, mean=2.0)
    moments = sample_moments(a, b)
    np.testing.assert_allclose(
        second_moment(moments, ddof=ddof), a.T @ a / (50 - ddof), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        cross_covariance(moments, ddof=ddof),
        np.cov(a.T, b.T, ddof=ddof)[:4, 4:],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_correlation_equals_numpy(mean: float, rng: np.random.Generator) -> None:
    a, b = samples(rng, 60, mean=mean)
    np.testing.assert_allclose(
        cross_correlation(sample_moments(a, b)), np.corrcoef(a.T, b.T)[:4, 4:], atol=1e-5
    )


def test_correlation_stays_between_minus_one_and_one(rng: np.random.Generator) -> None:
    """Neurons against themselves and their negatives, where rounding would show."""
    a, _ = samples(rng, 500, n=40)
    correlation = np.asarray(cross_correlation(sample_moments(a, -a)))
    np.testing.assert_allclose(np.diag(correlation), -1, atol=1e-6)
    assert np.abs(correlation).max() <= 1


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_correlation_does_not_depend_on_the_scale(scale: float, rng: np.random.Generator) -> None:
    a, b = samples(rng, 60)
    expected = cross_correlation(sample_moments(a, b))
    scaled = cross_correlation(sample_moments(a * np.float32(scale), b * np.float32(scale)))
    np.testing.assert_allclose(scaled, expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [60, 7])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1234.567])
def test_a_constant_neuron_has_correlation_zero(
    value: float, batch_size: int, rng: np.random.Generator
) -> None:
    """Neither nan nor the rounding of its mean, with constant neurons too."""
    a, b = samples(rng, 60)
    a[:, 1] = b[:, 2] = value
    correlation = np.asarray(cross_correlation(stream(a, b, batch_size)))
    np.testing.assert_array_equal(correlation[1], np.zeros(4))
    np.testing.assert_array_equal(correlation[:, 2], np.zeros(4))
    assert np.abs(correlation[0, 0]) > 0.01


def test_float64_stays_float64(rng: np.random.Generator, x64: None) -> None:
    a, b = rng.normal(size=(2, 30, 4)) + 1e6
    moments = stream(a, b, batch_size=8)
    assert all(field.dtype == jnp.float64 for field in moments)
    assert_moments(moments, numpy_moments(a, b), rtol=1e-8)


def test_half_precision_accumulates_in_float32() -> None:
    """Sums of 1,000 ones: bfloat16 would stop counting at 256."""
    a = jnp.tile(jnp.array([[1.0, 0.0], [1.0, 2.0]], jnp.bfloat16), (500, 1))
    with jax.numpy_dtype_promotion("standard"):
        moments = stream(a, a, batch_size=300)
    assert all(field.dtype == jnp.float32 for field in moments)
    assert_moments(
        moments, numpy_moments(np.asarray(a, np.float32), np.asarray(a, np.float32)), rtol=1e-5
    )


def test_integer_inputs_are_moments_of_numbers() -> None:
    """Images as bytes."""
    x = np.random.default_rng(0).integers(0, 256, (40, 3)).astype(np.uint8)
    with jax.numpy_dtype_promotion("standard"):
        moments = stream(x, x, batch_size=16)
    assert_moments(moments, numpy_moments(x, x), rtol=1e-5)


def test_a_nan_in_one_network_spoils_no_neighbour(rng: np.random.Generator) -> None:
    x = rng.normal(size=(21, 3)).astype(np.float32)
    w_a, w_b = rng.normal(size=(2, 3, 3, 5)).astype(np.float32)
    measure = jax.jit(jax.vmap(lambda a, b: stream_moments(taps, a, b, x, batch_size=5)["out"]))
    clean = measure(w_a, w_b)
    w_b[1, 0, 0] = np.nan
    spoilt = measure(w_a, w_b)
    chex.assert_trees_all_equal(*(jax.tree.map(lambda v: v[::2], m) for m in (clean, spoilt)))
    assert np.isnan(spoilt.mean_b[1]).any()


@pytest.mark.usefixtures("unchecked")
def test_errors_show_the_shapes() -> None:
    with pytest.raises(ValueError, match=r"empty.*\(0, 3\)"):
        stream_moments(taps, jnp.zeros((3, 5)), jnp.zeros((3, 5)), jnp.zeros((0, 3)), batch_size=1)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        stream_moments(taps, jnp.zeros((3, 5)), jnp.zeros((3, 5)), jnp.zeros((4, 3)), batch_size=0)
    for shape in ((3, 3), (0, 3)):
        with pytest.raises(
            ValueError, match=r"\(4, 3\), \(\d, \d\)" if shape[0] else r"\(0, 3\), \(0, 3\)"
        ):
            sample_moments(jnp.zeros((4, 3) if shape[0] else shape), jnp.zeros(shape))
