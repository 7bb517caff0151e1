"""What a sweep accepts, and what it says about the rest."""

import dataclasses
import re

import numpy as np
import pytest

from lmcjax.sweep import Cell, Sweep, parse_learning_rates


def test_sequences_of_any_kind_become_tuples():
    sweep = Sweep(
        seeds=range(4),
        widths=np.array([8, 4]),
        learning_rates=["1e-3", 0.1],
        optimizers="adam",
        matchings=[],
    )
    assert sweep.seeds == (0, 1, 2, 3)
    assert sweep.widths == (8, 4)
    assert sweep.optimizers == ("adam",)
    assert sweep.matchings == ()
    assert sweep.learning_rates == (0.001, 0.1)
    assert isinstance(sweep.widths[0], int)
    assert hash(sweep) == hash(dataclasses.replace(sweep))


def test_cells_and_pairs_by_hand():
    sweep = Sweep(range(4), (4, 8), (1, 2), (0.1,), pairing="all")
    assert sweep.cells == (
        Cell(4, 1, "sgd", 0.1),
        Cell(4, 2, "sgd", 0.1),
        Cell(8, 1, "sgd", 0.1),
        Cell(8, 2, "sgd", 0.1),
    )
    assert sweep.pairs == ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    assert (sweep.num_networks, sweep.num_pairs) == (16, 24)
    assert dataclasses.replace(sweep, pairing="disjoint").pairs == ((0, 1), (2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": ()}, "seeds: at least one is needed"),
        ({"seeds": (1, 2, 3)}, "pairing 'disjoint' needs two seeds per pair, not 3 in all"),
        ({"seeds": (1,), "pairing": "all"}, "pairing 'all' needs two seeds per pair, not 1 in all"),
        ({"seeds": (1, 1)}, "seeds: 1 is given twice"),
        ({"seeds": (-1, 1)}, "seeds lie between 0 and"),
        ({"widths": (0,)}, "widths are at least 1"),
        ({"widths": (4, 4)}, "widths: 4 is given twice"),
        ({"num_hidden_layers": (0,)}, "num_hidden_layers are at least 1"),
        ({"learning_rates": (0.1, -1)}, "learning rates are positive numbers"),
        ({"learning_rates": (float("nan"),)}, "learning rates are positive numbers"),
        ({"learning_rates": "1:2"}, "'1:2' is neither a number nor a range"),
        ({"optimizers": "lion"}, "optimizers: 'lion' is not one of"),
        ({"optimizers": ("adm",)}, "did you mean 'adam'?"),
        ({"matchings": ("weight",)}, "did you mean 'weights'?"),
        ({"matchings": ("none",)}, "'none' is not one of"),
        ({"pairing": "some"}, "pairing is 'disjoint' or 'all', not 'some'"),
        ({"epochs": 0}, "epochs is at least 1, not 0"),
        ({"epochs": None}, "epochs: None is no whole number"),
        ({"num_points": 1}, "num_points is at least 2, not 1"),
        ({"moment_samples": 1}, "moment_samples is at least 2, not 1"),
        ({"model": "resnet"}, "did you mean 'resnet20'?"),
        ({"model": "vgg", "num_hidden_layers": (1, 2)}, "'vgg' has a depth of its own"),
        ({"model": "docs.examples.row_reader:apply", "widths": (1, 2)}, "is one network as it is"),
        ({"model": "no.such:thing"}, "cannot import 'no.such'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Sweep(**{"seeds": (0, 1), **options})


def test_rates():
    rates = (0.0001, 0.000398, 0.00158, 0.00631, 0.0251, 0.1)
    assert parse_learning_rates(["1e-4:1e-1:6"]) == rates
