"""Powers of two, against NumPy's `frexp` and `ldexp`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax._powers_of_two import (
    in_original_unit,
    in_unit_range,
    pair_in_unit_range,
    times_power_of_two,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

scaled = jax.jit(jax.vmap(in_unit_range))
times = jax.jit(jax.vmap(times_power_of_two))
restored = jax.jit(jax.vmap(in_original_unit))


def test_no_bit_of_any_leaf_changes(rng: np.random.Generator) -> None:
    """From the smallest normal number to the largest, in batches with zeros, nan and inf beside."""
    exponents = np.arange(-120, 127)
    values = rng.uniform(-1, 1, (len(exponents), 5)).astype(np.float32)
    leaves = {
        "small": np.ldexp(values, exponents[:, None] - 3),
        "large": np.ldexp(values, exponents[:, None]),
    }
    leaves["large"][0, 0] = np.nan
    leaves["large"][1, 0] = -np.inf
    near, exponent = scaled(leaves)
    sizes = np.abs(np.concatenate([leaves["small"], leaves["large"]], axis=1))
    largest = np.where(np.isfinite(sizes), sizes, 0).max(axis=1)
    np.testing.assert_array_equal(exponent, np.frexp(largest)[1] - 1)
    for name, leaf in near.items():
        np.testing.assert_array_equal(leaf, np.ldexp(leaves[name], -np.asarray(exponent)[:, None]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_are_exact(dtype: type, x64: None) -> None:
    """Also those that no number of the dtype can be, where the product can."""
    limit = -2 * np.finfo(dtype).minexp
    exponents = np.arange(-limit, limit + 1, dtype=np.int32)
    smallest_exponent = np.finfo(dtype).minexp
    start_exponents = np.clip(-exponents, smallest_exponent, -smallest_exponent)
    start = np.ldexp(dtype(1.2345678), start_exponents)
    result = times(start, exponents)
    assert result.dtype == dtype
    exact = np.ldexp(start, exponents)
    normal = np.isinf(exact) | (exact >= np.finfo(dtype).tiny)
    assert normal.sum() > limit
    np.testing.assert_array_equal(np.asarray(result)[normal], exact[normal])


def test_what_is_no_number_says_so() -> None:
    values = np.array([1.5, -1.5, 1.5, -1.5, 0, 0, np.nan, np.inf], np.float32)
    exponents = np.array([200, 200, -200, -127, 200, -200, 0, -200], np.int32)
    expected = [np.inf, -np.inf, np.nan, np.nan, 0, 0, np.nan, np.inf]
    np.testing.assert_array_equal(restored(values, exponents), expected)


def test_zeros_integers_and_keys() -> None:
    """Each network has its own power of two; half precision comes back as float32."""
    a = {
        "count": np.array([-5, 3], np.int32),
        "key": jax.random.key(0),
        "rest": jnp.full(2, 2**-14, jnp.float16),
    }
    b = {"zero": np.zeros(3, np.float32), "none": np.zeros((0, 2), np.float32)}
    near_a, near_b, exponent = jax.jit(pair_in_unit_range)(a, b)
    assert near_a["count"].tolist() == [-1.25, 0.75]
    assert near_a["rest"].dtype == jnp.float32
    assert near_a["rest"].tolist() == [2**-16, 2**-16]
    assert near_a["key"] == a["key"]
    assert near_b["zero"].tolist() == [0, 0, 0]
    assert near_b["none"].shape == (0, 2)
    assert times_power_of_two(jnp.float32(0), exponent) == 0


@pytest.mark.parametrize("k", [-40, 0, 40])
def test_gradients_go_through_as_if_nothing_had_been_scaled(k: int) -> None:
    def square(x: jax.Array) -> jax.Array:
        near, exponent = in_unit_range(x)
        return in_original_unit(jnp.sum(near**2), 2 * exponent)

    x = np.ldexp(np.array([1.5, -0.25, 0], np.float32), k)
    np.testing.assert_array_equal(jax.grad(square)(x), 2 * x)
