"""Intervals against SciPy's, fits against powers that were planted."""

import numpy as np
import pytest
from scipy import stats

from lmcjax.experiments._estimates import (
    bootstrap_estimate,
    exponents,
    mean_estimate,
    needed_width,
    slopes,
    upper_half,
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
    expected = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(5))
    np.testing.assert_allclose(found[1:3], expected.confidence_interval, atol=0.05)
    assert found.value == values.mean()
    assert found == bootstrap_estimate(lambda drawn: float(drawn.mean()), values)


def test_paired_samples_are_drawn_together(rng):
    """Differences of what belongs together do not vary; of what does not, they do."""
    x = rng.normal(size=(20, 3))

    def difference(a, b):
        return float(a[:, 0].mean() - b[:, 0].mean())

    together = bootstrap_estimate(difference, x, x - 1)
    np.testing.assert_allclose(together[:3], (1, 1, 1))
    apart = bootstrap_estimate(difference, x, x[:15] - 1, paired=False)
    assert apart.high - apart.low > 0.5
    assert apart.samples == 15
    with pytest.raises(ValueError, match=r"as many repetitions each, not \[20, 15\]"):
        bootstrap_estimate(difference, x, x[:15])


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
    np.testing.assert_allclose(slopes(widths, y), [stats.linregress(widths, row).slope for row in y])
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
