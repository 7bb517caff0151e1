"""Widths and towers against whole numbers and closed forms."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax.theory import low_dimensional_width, two_layer_width, width_upper_bound

pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.cache
def tower(depth: int):
    return jax.jit(
        lambda eps, m, c, k: width_upper_bound(eps, m, depth, constants=c, sub_gaussian_ratio=k)
    )


def test_powers_of_two() -> None:
    """eps = 1/2, m_0 = 2: 4, 16, 2^16, 2^65536, 2^(2^65536), and so on: whole numbers of Python."""
    found = tower(7)(0.5, 2.0, 1.0, 1.0)
    np.testing.assert_array_equal(found.height, [0, 0, 0, 1, 2, 3, 4])
    np.testing.assert_allclose(found.top[:3], [4, 16, 2**16], rtol=1e-5)
    log_of_fourth = math.log(2**2**16)
    assert float(found.top[3]) == pytest.approx(log_of_fourth, rel=1e-5)
    for top in found.top[4:]:  # log log of 2^(2^65536)
        assert float(top) == pytest.approx(log_of_fourth + math.log(math.log(2)), rel=1e-5)
    np.testing.assert_allclose(
        found.log_width[:4], [math.log(4), math.log(16), math.log(2**16), log_of_fourth], 1e-5
    )
    assert np.all(np.isinf(found.log_width[4:]))


def test_towers_print_as_such() -> None:
    lines = str(width_upper_bound(0.5, 2, 6)).splitlines()
    assert lines[0] == "layer 1: 4 neurons"
    assert lines[2] == "layer 3: 65,536 neurons"
    digits = f"{2**16 * math.log10(2):.3g}"
    assert lines[3] == f"layer 4: more than 10^{digits} neurons"
    assert lines[4] == f"layer 5: more than 10^(10^{digits}) neurons"
    assert lines[5] == f"layer 6: more than 10^(10^(10^{digits})) neurons"
    assert str(width_upper_bound(0.1, 784, 1)) == "layer 1: more than 10^784.0 neurons"
    assert "nan" in str(width_upper_bound(math.nan, 784, 1))


def test_constants_per_layer_and_the_sub_gaussian_ratio() -> None:
    """`(K T_l / eps)^(m_{l-1})` by hand; a layer whose T_l is below eps needs one neuron."""
    found = tower(3)(0.1, 2.0, jnp.array([0.2, 0.3, 0.15]), 1.0)
    np.testing.assert_allclose(found.top, [2**2, 3**4, 1.5**81], rtol=1e-4)
    scaled = tower(3)(0.1, 2.0, jnp.array([0.1, 0.15, 0.075]), 2.0)
    np.testing.assert_allclose(scaled.top, found.top, rtol=1e-4)
    below = tower(3)(0.1, 784.0, jnp.array([1.0, 0.05, 1.0]), 1.0)
    np.testing.assert_allclose(
        below.log_width, [784 * math.log(10), 0, math.log(10)], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("eps", [0.3, 0.01])
def test_two_layers(eps: float) -> None:
    found = jax.jit(two_layer_width)(eps, 784.0)
    assert float(found.log_width) == pytest.approx(-784 * math.log(eps), rel=1e-5)
    assert float(found.log_width_entezari) == pytest.approx(-1572 * math.log(eps), rel=1e-5)
    assert float(tower(1)(eps, 784.0, 1.0, 1.0).log_width[0]) == pytest.approx(
        float(found.log_width), rel=1e-5
    )


def test_low_dimensional_rows_cross_over() -> None:
    """k = 3 of 50 dimensions, eta = 0.05: exponents -3 above, -50 below, and one curve."""
    eps = jnp.array([0.5, 0.1, 0.0501, 0.0499, 0.025, 0.01])
    width = jax.jit(jax.vmap(lambda e: low_dimensional_width(e, 3, 50, 0.05)))
    found = width(eps)
    slopes = np.diff(np.asarray(found.log_width)) / np.diff(np.log(eps))
    np.testing.assert_allclose(slopes[[0, 1, 3, 4]], [-3, -3, -50, -50], rtol=1e-3)
    np.testing.assert_array_equal(found.tail_dominates, [False] * 3 + [True] * 3)
    assert float(found.log_width[0]) == pytest.approx(3 * math.log(2), rel=1e-5)
    np.testing.assert_allclose(found.crossover_log_width, -3 * math.log(0.05), rtol=1e-5)
    assert abs(float(found.log_width[2] + found.log_width[3]) / 2 + 3 * math.log(0.05)) < 0.1
    none = low_dimensional_width(1e-6, 3, 50, 0.0)
    assert float(none.log_width) == pytest.approx(3 * 6 * math.log(10), rel=1e-5)
    assert not none.tail_dominates
    assert np.isinf(none.crossover_log_width)
    full = low_dimensional_width(0.01, 50, 50, 0.05, constant=2, sub_gaussian_ratio=1.5)
    assert float(full.log_width) == pytest.approx(50 * (math.log(3 / 0.05) + math.log(5)), rel=1e-5)


def test_gradient_of_a_log_width() -> None:
    """`d log m_1 / d log eps = -m_0`."""
    assert float(
        jax.grad(lambda e: width_upper_bound(e, 784, 1).log_width[0])(0.1)
    ) == pytest.approx(-7840, rel=1e-4)


@pytest.mark.usefixtures("unchecked")
def test_errors() -> None:
    with pytest.raises(ValueError, match="depth=0"):
        width_upper_bound(0.1, 5, 0)
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        width_upper_bound(0.1, 5, 3, constants=jnp.ones(2))
