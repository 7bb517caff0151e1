"""Limits of claims; the rule of the verdict is shown where it is defined."""

import math

import pytest

from lmcjax.experiments.claims._claim import (
    Estimate,
    Limits,
    at_least,
    at_most,
    verdict,
    within_a_quarter,
)


def test_limits():
    assert within_a_quarter(-2.0) == (-2.5, -1.5)
    assert within_a_quarter(2.0) == (1.5, 2.5)
    assert at_most(1.0) == (-math.inf, 1.0)
    assert at_least(1.0) == (1.0, math.inf)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.0, 2.0, "reproduced"),  # limits belong to what is claimed
        (1.5, 2.5, "not reproduced"),
        (2.5, 3.0, "contradicted"),
        (0.0, 0.5, "contradicted"),
        (math.nan, math.nan, "not reproduced"),
    ],
)
def test_verdicts(low, high, expected):
    estimate = Estimate((low + high) / 2, low, high, 5)
    assert verdict(estimate, Limits(1.0, 2.0)) == expected
