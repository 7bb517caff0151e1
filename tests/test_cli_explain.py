"""`lmcjax explain`: a network's program in, a table out."""

import pytest

from lmcjax import cli

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODULE = """
import jax
import jax.numpy as jnp


def init(key):
    return {
        "hidden": jax.random.normal(key, (64, 6)),
        "logits": jax.random.normal(key, (6, 10)),
        "half/logits": jax.random.normal(key, (3, 10)),
    }


def apply(params, inputs):
    hidden = jnp.tanh(inputs.reshape(inputs.shape[0], -1) @ params["hidden"])
    ranked = jnp.cumsum(hidden[:, :3], axis=-1)  # line 16
    return hidden @ params["logits"] + ranked @ params["half/logits"]
"""


def rows(capsys, *arguments):
    """The cells of the table, row by row."""
    cli.main(["explain", *arguments])
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


def test_a_network_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "explained_network.py").write_text(MODULE)
    cells = rows(capsys, "--apply", "explained_network:apply", "--dataset", "digits")
    assert ["hidden", "0", "64", "", "an axis of the inputs"] in cells
    why = "a running sum (cumsum), explained_network.py:16 (apply)"
    assert ["", "1", "6 = 3 | 3", "3: -", why] in cells
    assert ["", "", "", "3: hidden (writes)", ""] in cells
    assert ["", "1", "10", "", "an axis of the outputs"] in cells


def test_a_model(capsys):
    size = ["--width", "8", "--num-hidden-layers", "1"]
    cells = rows(capsys, "--model", "mlp", "--dataset", "digits", *size)
    assert cells == [
        ["Dense_0/kernel", "0", "64", "", "an axis of the inputs"],
        ["", "1", "8", "Dense_0 (writes)", ""],
        ["Dense_0/bias", "0", "8", "Dense_0 (writes)", ""],
        ["Dense_1/kernel", "0", "8", "Dense_0 (reads)", ""],
        ["", "1", "10", "", "an axis of the outputs"],
        ["Dense_1/bias", "0", "10", "", "an axis of the outputs"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "explain needs to know the network: give one of --model and --apply"),
        (["--model", "mlp", "--apply", "a:b"], "give one of --model and --apply"),
        (["--apply", "no_such_module:apply"], "cannot import 'no_such_module'"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["explain", "--dataset", "digits", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("lmcjax: error: ")
    assert message in error
    assert error.count("\n") == 1
