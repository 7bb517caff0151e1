"""What a claim is, and when it counts as reproduced."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import xarray as xr

Verdict: TypeAlias = Literal["reproduced", "not reproduced", "contradicted"]


class Estimate(NamedTuple):
    """A measured quantity with its interval at 95 %."""

    value: float
    low: float
    high: float
    samples: int  # independent repetitions that it rests on: pairs of networks, draws


class Limits(NamedTuple):
    """The numbers between which a claim says that a quantity lies; either may be infinite."""

    low: float
    high: float


class Claim(NamedTuple):
    """One sentence of the paper, its summary, or ours, put to the test."""

    statement: str
    source: str  # "paper, Theorem 5.2", "summary, Key Results", "this library"
    quantity: str  # what is estimated, with its unit
    limits: Limits
    estimate: Callable[[xr.Dataset], Estimate]  # from the experiment's stored results
    why: str = ""  # how the limits follow from the statement, where that is not plain


def at_most(high: float) -> Limits:
    """Limits of a claim that names only an upper one."""
    return Limits(-math.inf, high)


def at_least(low: float) -> Limits:
    """Limits of a claim that names only a lower one."""
    return Limits(low, math.inf)


def within_a_quarter(value: float) -> Limits:
    """Limits 25 % below and above a value, as for the exponent of a power law."""
    ends = (0.75 * value, 1.25 * value)
    return Limits(min(ends), max(ends))


def verdict(estimate: Estimate, limits: Limits) -> Verdict:
    """Judge a claim, by one rule that was fixed before any result.

    - reproduced: the whole interval lies within the limits;
    - contradicted: the whole interval lies outside;
    - not reproduced: part of it lies within, or nothing could be measured.

    >>> verdict(Estimate(-0.5, -0.6, -0.4, 20), Limits(-1.0, -0.3))
    'reproduced'
    >>> verdict(Estimate(-0.5, -0.6, -0.2, 20), Limits(-1.0, -0.3))
    'not reproduced'
    >>> verdict(Estimate(0.5, 0.4, 0.6, 20), Limits(-1.0, -0.3))
    'contradicted'
    """
    numbers = (estimate.value, estimate.low, estimate.high)
    if any(math.isnan(number) for number in numbers):
        return "not reproduced"
    if limits.low <= estimate.low and estimate.high <= limits.high:
        return "reproduced"
    if estimate.high < limits.low or limits.high < estimate.low:
        return "contradicted"
    return "not reproduced"
