"""Estimates against SciPy and closed forms, and how often their intervals hold."""

import numpy as np
import pytest
from scipy import stats

from lmcjax.experiments._estimates_drawn import bootstrap_estimate, difference, exponent_estimate, within_a_quarter
from lmcjax.experiments.claim import Estimate


def test_the_bootstrap_is_scipys(rng: np.random.Generator):
    """Of a mean, vectorised by SciPy; paired samples of a difference; two of different lengths."""
    x, y = rng.exponential(size=40), rng.exponential(size=40)
    reference = stats.bootstrap((x,), np.mean, n_resamples=9999, method="percentile", rng=1).confidence_interval
    found = bootstrap_estimate(lambda values: float(values.mean()), x)
    assert (found.value, found.samples) == (x.mean(), 40)
    np.testing.assert_allclose((found.low, found.high), reference, rtol=0.05)

    same = bootstrap_estimate(lambda a, b: float(a.mean() - b.mean()), x, x + 1)
    np.testing.assert_allclose(same[:3], -1)
    apart = bootstrap_estimate(lambda a, b: float(a.mean() - b.mean()), x, y[:30], paired=False)
    assert apart.high - apart.low == pytest.approx(
        2 * 1.96 * np.hypot(x.std() / 40**0.5, y[:30].std() / 30**0.5), rel=0.15
    )
    assert apart.samples == 30
    with pytest.raises(ValueError, match=r"as many repetitions each, not \[40, 30\]"):
        bootstrap_estimate(lambda a, b: 0.0, x, y[:30])


def test_where_nothing_can_be_said_there_is_no_interval():
    assert np.isnan(bootstrap_estimate(lambda x: float(x[0]), np.ones(1))[1:3]).all()
    assert np.isnan(bootstrap_estimate(lambda x: np.nan, np.ones(9))[:3]).all()
    often = bootstrap_estimate(lambda x: float(x.mean()) if x.max() == 9 else np.nan, np.arange(10.0))
    assert often.value == 4.5
    assert np.isnan(often[1:3]).all()


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
