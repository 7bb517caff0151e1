"""What a sweep accepts, and what it says to the rest."""

import dataclasses
import json
import re

import numpy as np
import pytest

from lmcjax.sweep import Cell, Sweep, parse_learning_rates, read_sweep, sweep_from_table


def test_sequences_of_any_kind_become_tuples():
    sweep = Sweep(
        seeds=range(4),
        widths=np.array([8, 4]),
        learning_rates=["1e-3", 0.1],
        optimizers="adam",
        matchings=[],
    )
    assert (sweep.seeds, sweep.widths, sweep.optimizers, sweep.matchings) == (
        (0, 1, 2, 3),
        (8, 4),
        ("adam",),
        (),
    )
    assert sweep.learning_rates == (0.001, 0.1)
    assert isinstance(sweep.widths[0], int)
    assert hash(sweep) == hash(dataclasses.replace(sweep))


def test_cells_and_pairs_by_hand():
    sweep = Sweep(range(4), (4, 8), (1, 2), (0.1,), pairing="all")
    assert sweep.cells == tuple(Cell(w, d, "sgd", 0.1) for w in (4, 8) for d in (1, 2))
    assert sweep.pairs == ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    assert (sweep.num_networks, sweep.num_pairs) == (16, 24)
    assert dataclasses.replace(sweep, pairing="disjoint").pairs == ((0, 1), (2, 3))


def test_plain_values_and_back():
    sweep = Sweep((3, 1), (4,), learning_rates="1e-3:1e-1:3", moment_samples=9)
    assert sweep_from_table(json.loads(json.dumps(sweep.asdict()))) == sweep


def test_toml(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(
        'dataset = "digits"\nseeds = 4\nwidths = [4, 8]\nlearning_rates = "1e-3:1e-1:3"\nepochs = 2\n'
    )
    assert read_sweep(path) == (
        Sweep(range(4), (4, 8), learning_rates=(0.001, 0.01, 0.1), epochs=2),
        "digits",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = ", "sweep.toml: Invalid value"),
        ("seeds = 4\nwidhts = [4]", "'widhts' is no option of a sweep; did you mean 'widths'?"),
        ("widths = [4]", "a sweep needs seeds"),
        ("seeds = 4\nwidths = [4.5]", "widths: 4.5 is no whole number"),
        ('seeds = 4\nwidths = "4"', "widths: '4' is no whole number"),
        ("seeds = true", "seeds: True is no whole number"),
        ("seeds = 4\ndataset = 3", "dataset is a name or a folder, not 3"),
    ],
)
def test_mistakes_in_a_file_name_it(tmp_path, text, message):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"sweep\.toml") as error:
        read_sweep(path)
    assert message in str(error.value)


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
    assert parse_learning_rates(["1e-4:1e-1:6"]) == (
        0.0001,
        0.000398,
        0.00158,
        0.00631,
        0.0251,
        0.1,
    )
