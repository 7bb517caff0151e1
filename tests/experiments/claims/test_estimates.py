"""Intervals against SciPy's."""

import numpy as np
import pytest
from scipy import stats

from lmcjax.experiments.claims import Estimate
from lmcjax.experiments.claims._estimates import (
    bootstrap_estimate,
    difference,
    mean_estimate,
    no_estimate,
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
    """Differences of equal repetitions do not vary; those of different ones do."""
    x = rng.normal(size=(20, 3))

    def of_means(a, b):
        return float(a[:, 0].mean() - b[:, 0].mean())

    together = bootstrap_estimate(of_means, x, x - 1)
    np.testing.assert_allclose(together[:3], (1, 1, 1))
    assert together.samples == 20
    mismatched = bootstrap_estimate(of_means, x, rng.permutation(x) - 1)
    assert mismatched.high - mismatched.low > 0.5
    with pytest.raises(ValueError, match=r"as many repetitions each, not \[20, 15\]"):
        bootstrap_estimate(of_means, x, x[:15])


def test_what_is_often_nan_has_no_interval(rng):
    found = bootstrap_estimate(lambda drawn: np.nan if drawn.min() > 0 else 1.0, np.arange(4.0))
    assert found.value == 1
    assert np.isnan(found.low)
    assert np.isnan(bootstrap_estimate(lambda drawn: 1.0, [1.0]).low)


def test_differences_add_their_margins():
    found = difference(Estimate(1.0, 0.7, 1.3, 10), Estimate(3.0, 2.6, 3.4, 8))
    np.testing.assert_allclose(found, (-2, -2.5, -1.5, 8))


def test_what_is_not_there_is_nan():
    np.testing.assert_equal(tuple(no_estimate(3)), (np.nan, np.nan, np.nan, 3))
