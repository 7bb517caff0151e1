"""What a claim is, when it counts as reproduced, and what an experiment brings."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import xarray as xr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Size: TypeAlias = Literal["tiny", "small", "full"]
"""`tiny`: seconds, shows that the experiment runs; `small`: all experiments in 15 minutes on 2
cores; `full`: the
paper's scale, for a GPU."""

Verdict: TypeAlias = Literal["reproduced", "not reproduced", "contradicted"]


class Estimate(NamedTuple):
    """A measured quantity with its interval at 95 %."""

    value: float
    low: float
    high: float
    samples: int  # independent repetitions that it rests on: pairs of networks, draws


class Claim(NamedTuple):
    """One sentence of the paper, its summary, or ours, put to the test."""

    statement: str
    source: str  # "paper, Theorem 5.2", "summary, Key Results", "this library"
    quantity: str  # what is measured, with its unit
    holds: tuple[
        float, float
    ]  # the claim is that the quantity lies between these two; may be infinite
    measure: Callable[[xr.Dataset], Estimate]  # from the experiment's stored results
    why: str = ""  # how the two numbers follow from the sentence, where that is not plain


class Experiment(NamedTuple):
    """One file of this folder."""

    name: str
    title: str
    about: str  # what is run, for the page; one paragraph
    run: Callable[
        [Size, Path, Callable[[str], None]], xr.Dataset
    ]  # size, a folder to resume in, what to tell
    claims: tuple[Claim, ...]
    draw: Callable[[xr.Dataset], "Figure"]


def verdict(estimate: Estimate, holds: tuple[float, float]) -> Verdict:
    """The rule for every claim, fixed before any result.

    Reproduced: the whole interval lies where the claim says; contradicted: all of it lies
        elsewhere. Not reproduced:
    part of it does, or nothing could be measured.

    >>> verdict(Estimate(-0.5, -0.6, -0.4, 20), (-1.0, -0.3))
    'reproduced'
    >>> verdict(Estimate(-0.5, -0.6, -0.2, 20), (-1.0, -0.3))
    'not reproduced'
    >>> verdict(Estimate(0.5, 0.4, 0.6, 20), (-1.0, -0.3))
    'contradicted'
    """
    if any(map(math.isnan, estimate[:3])):
        return "not reproduced"
    if holds[0] <= estimate.low and estimate.high <= holds[1]:
        return "reproduced"
    return (
        "contradicted" if estimate.high < holds[0] or estimate.low > holds[1] else "not reproduced"
    )
