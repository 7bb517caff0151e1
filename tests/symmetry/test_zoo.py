"""Public networks whose packages are there, against groups and reasons worked out by hand.

`python benchmarks/zoo.py` measures more of them, and those of other packages.
"""

import importlib
import os
import sys
from pathlib import Path

import pytest

from lmcjax import discover, explain

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QUICK = ["flax", "haiku", "jraph", "torch"]
OTHERS = ["equinox", "equimo", "flaxmodels", "jaxkan", "keras", "torchvision", "transformers"]
ALWAYS = {"flax", "haiku"}


@pytest.fixture
def zoo(monkeypatch):
    """The command's module."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module("zoo")


@pytest.mark.parametrize(
    "package", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_what_is_there_is_found_and_what_stays_has_a_reason(zoo, package):
    needed = ALWAYS | ({"torch"} if os.environ.get("LMCJAX_NEEDS_TORCH") else set())
    if package not in needed:
        pytest.importorskip(package)
    networks = zoo.load(package)
    assert set(networks) == set(zoo.SYMMETRIES[package])
    for network, build in networks.items():
        symmetries = zoo.SYMMETRIES[package][network]
        example = build()
        spec = discover(example.apply, example.params, example.inputs)
        explanation = explain(example.apply, example.params, example.inputs)
        false, missed = zoo.compare_groups(spec, symmetries)
        assert (network, false, missed) == (network, [], [])
        assert zoo.unexplained(explanation, symmetries) == []
        assert zoo.stale(explanation, symmetries) == []
