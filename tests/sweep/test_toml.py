"""Sweeps from tables and TOML files, and what is said about mistakes in them."""

import json

import pytest

from lmcjax.sweep import Sweep, read_sweep, sweep_from_table


def test_plain_values_and_back():
    sweep = Sweep((3, 1), (4,), learning_rates="1e-3:1e-1:3", moment_samples=9)
    assert sweep_from_table(json.loads(json.dumps(sweep.asdict()))) == sweep


def test_toml(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(
        'dataset = "digits"\n'
        "seeds = 4\n"
        "widths = [4, 8]\n"
        'learning_rates = "1e-3:1e-1:3"\n'
        "epochs = 2\n"
    )
    expected = Sweep(range(4), (4, 8), learning_rates=(0.001, 0.01, 0.1), epochs=2)
    assert read_sweep(path) == (expected, "digits")


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
