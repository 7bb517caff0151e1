"""Intervals against SciPy's, fits against powers that were planted."""

import numpy as np
import pytest
from scipy import stats

from lmcjax.experiments.claims._claim import Estimate
from lmcjax.experiments.claims._estimates import (
    bootstrap_estimate,
    difference,
    exponent_estimate,
    exponents,
    mean_estimate,
    needed_width,
    slopes,
    upper_half,
    within_a_quarter,
)


def test_the_mean_has_students_interval(rng):
    values = rng.normal(3, 1, 7)
    found = mean_estimate([*values, np.nan])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(found[:3], (values.mean(), *expected))
    assert found.samples == 7
    assert np.isnan(mean_estimate([2.0]).low)
    assert mean_estimate([2.0]).value == 2
    assert np.isnan(mean_estimate([np.nan]).value)


def test_the_bootstrap_is_scipys_of_a_mean(rng):
    values = rng.normal(size=30)
    found = bootstrap_estimate(lambda drawn: float(drawn.mean()), values)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(5)
    )
    np.testing.assert_allclose(found[1:3], expected.confidence_interval, atol=0.05)
    assert found.value == values.mean()
    assert found == bootstrap_estimate(lambda drawn: float(drawn.mean()), values)


def test_paired_samples_are_drawn_together(rng):
    """Differences of what belongs together do not vary; of what does not, they do."""
    x = rng.normal(size=(20, 3))

    def of_means(a, b):
        return float(a[:, 0].mean() - b[:, 0].mean())

    together = bootstrap_estimate(of_means, x, x - 1)
    np.testing.assert_allclose(together[:3], (1, 1, 1))
    apart = bootstrap_estimate(of_means, x, x[:15] - 1, paired=False)
    assert apart.high - apart.low > 0.5
    assert apart.samples == 15
    with pytest.raises(ValueError, match=r"as many repetitions each, not \[20, 15\]"):
        bootstrap_estimate(of_means, x, x[:15])


def test_what_is_often_nan_has_no_interval(rng):
    found = bootstrap_estimate(lambda drawn: np.nan if drawn.min() > 0 else 1.0, np.arange(4.0))
    assert found.value == 1
    assert np.isnan(found.low)
    assert np.isnan(bootstrap_estimate(lambda drawn: 1.0, [1.0]).low)


def test_powers_and_slopes():
    widths = np.array([8, 16, 64])
    np.testing.assert_allclose(exponents(widths, [3 * widths**-0.5, widths**2.0]), [-0.5, 2])
    assert np.isnan(exponents(widths, [1.0, 0.0, 2.0]))
    rng = np.random.default_rng(1)
    y = rng.normal(size=(2, 3))
    np.testing.assert_allclose(
        slopes(widths, y), [stats.linregress(widths, row).slope for row in y]
    )
    assert [list(range(n))[upper_half(n)] for n in (2, 3, 5)] == [[0, 1], [1, 2], [2, 3, 4]]


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


def test_difference_and_limits():
    found = difference(Estimate(1.0, 0.7, 1.3, 10), Estimate(3.0, 2.6, 3.4, 8))
    np.testing.assert_allclose(found, (-2, -2.5, -1.5, 8))
    assert within_a_quarter(-2.0) == (-2.5, -1.5)
    assert within_a_quarter(2.0) == (1.5, 2.5)
