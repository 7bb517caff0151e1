"""Fits against powers that were planted, and against NumPy's and SciPy's."""

import math

import numpy as np
import pytest
from scipy import stats

from lmcjax.experiments.claims._fits import (
    crossover,
    exponent_estimate,
    exponents,
    needed_width,
    slopes,
    squared_residual,
    upper_half,
)


def test_powers_and_slopes():
    widths = np.array([8, 16, 64])
    np.testing.assert_allclose(exponents(widths, [3 * widths**-0.5, widths**2.0]), [-0.5, 2])
    assert np.isnan(exponents(widths, [1.0, 0.0, 2.0]))
    rng = np.random.default_rng(1)
    y = rng.normal(size=(2, 3))
    np.testing.assert_allclose(
        slopes(widths, y), [stats.linregress(widths, row).slope for row in y]
    )


def test_the_residual_of_a_line_is_numpys():
    rng = np.random.default_rng(2)
    x = rng.normal(size=9)
    y = rng.normal(size=9)
    _, (expected,), *_ = np.polyfit(x, y, 1, full=True)
    assert squared_residual(x, y) == pytest.approx(expected)
    assert squared_residual(x, 3 * x + 1) == pytest.approx(0, abs=1e-12)


def test_the_upper_half_has_two_sizes_at_least():
    assert [0, 1][upper_half(2)] == [0, 1]
    assert [0, 1, 2][upper_half(3)] == [1, 2]
    assert [0, 1, 2, 3, 4][upper_half(5)] == [2, 3, 4]


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([3.0, 2.0, 1.0, 0.0], 64**0.5 * 2**0.5),  # half-way between 8 and 16, in octaves
        ([1.0, 0.5, 0.4, 0.3], 4.0),  # all below: no wider than the narrowest
        ([3.0, 0.0, 2.0, 1.0], 32 * 0.5**0.5),  # the last time that it falls below
        ([3.0, 2.0, 1.0, 1.6], np.inf),
        ([3.0, np.nan, 1.0, 0.0], 8.0),
    ],
)
def test_the_width_from_which_on_errors_are_small(errors, expected):
    assert needed_width([4, 8, 16, 32], errors, 1.5) == pytest.approx(expected)


def test_exponents_are_those_of_a_weighted_fit_and_their_intervals_hold(rng: np.random.Generator):
    """400 power laws of exponent -0.7, with noise that grows with n."""
    n = np.array([16.0, 32, 64, 128])
    noise = np.array([0.05, 0.1, 0.2, 0.3])
    held = []
    for _ in range(400):
        costs = n**-0.7 * (1 + noise * rng.normal(size=(20, 4)))
        found = exponent_estimate(n, costs.astype(np.float32))
        held.append(found.low <= -0.7 <= found.high)
    assert 0.92 <= np.mean(held) <= 0.98
    mean, error = costs.mean(0), costs.std(0, ddof=1)
    slope = np.polyfit(np.log(n), np.log(mean), 1, w=mean / error)[0]
    assert found.value == pytest.approx(slope, rel=1e-3)


def test_where_curves_cross():
    n = np.array([16.0, 32, 64])
    assert crossover(n, n**-1.0, np.full(3, 1 / 40)) == pytest.approx(40)
    assert math.isnan(crossover(n, n**-1.0, np.full(3, 1e-3)))
    assert math.isnan(crossover(n, n**-1.0, np.full(3, 1.0)))
