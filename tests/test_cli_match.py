"""`lmcjax match`: two checkpoints in, an aligned one out; nothing is written where something is wrong."""

import json
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lmcjax
from lmcjax import cli
from lmcjax.matching import Matching
from lmcjax.symmetry import named_leaves, permute, random_permutations

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZES = ["--dataset", "digits", "--width", "8", "--num-hidden-layers", "2", "--num-points", "3"]
SPEC = """
[axes]
"Dense_0/kernel" = ["", "writes first"]
"Dense_0/bias" = ["writes first"]
"Dense_1/kernel" = ["reads first", "writes second"]
"Dense_1/bias" = ["writes second"]
"Dense_2/kernel" = ["reads second", ""]
"Dense_2/bias" = [""]
"""


def write(path, params):
    save_file({name: np.array(leaf, order="C") for name, leaf in named_leaves(params).items()}, path)


@pytest.fixture
def checkpoints(tmp_path, monkeypatch, generic_like):
    """`a`, and in `b` the same network in another order."""
    monkeypatch.chdir(tmp_path)
    network = lmcjax.FlaxNetwork(lmcjax.MLP((8, 8), 10), (64,))
    params = generic_like(jax.eval_shape(network.init, jax.random.key(0)))  # no neuron is dead
    spec = lmcjax.mlp_spec(2)
    permutations = random_permutations(jax.random.key(1), spec, params)
    write("a", params)
    write("b", permute(spec, permutations, params))
    (tmp_path / "spec.toml").write_text(SPEC)
    return params


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["match", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("lmcjax: error: ")
    assert error.count("\n") == 1
    return error


OTHER_METHODS = ("weights", "activations", "correlation", "frank-wolfe", "sinkhorn", "annealing")


@pytest.mark.parametrize(
    "method",
    [
        ["covariance"],
        ["coordinate-descent", "--restarts", "8"],
        *(pytest.param([name], marks=pytest.mark.slow) for name in OTHER_METHODS),
    ],
    ids=lambda method: method[0],
)
def test_a_shuffled_copy_comes_back(method, checkpoints, capsys):
    cli.main(["match", "a", "b", "--model", "mlp", *SIZES, "--method", *method])
    aligned = load_file("matched/aligned.safetensors")
    for name, leaf in named_leaves(checkpoints).items():
        np.testing.assert_array_equal(aligned[name], leaf)
    report = json.loads(Path("matched/report.json").read_text())
    assert report["distance"]["aligned"] == 0 < report["distance"]["as given"]
    test = report["test"]
    assert test["aligned"]["barrier"] < 1e-5
    assert test["aligned"]["loss half-way"] == pytest.approx(test["as given"]["loss of A"], rel=1e-5)
    assert test["as given"]["loss half-way"] != pytest.approx(test["as given"]["loss of A"], rel=1e-3)
    matching = Matching.load("matched/matching.safetensors")
    assert {g: p.shape for g, p in matching.permutations.items()} == {"Dense_0": (8,), "Dense_1": (8,)}
    printed = capsys.readouterr().out
    for expected in ("Dense_1", "barrier", "matched/aligned.safetensors"):
        assert expected in printed


@pytest.mark.slow
def test_learned_from_the_loss(checkpoints, capsys):
    how = ["--method", "straight-through", "--objective", "midpoint", "--steps", "20"]
    cli.main(["match", "a", "b", "--model", "mlp", *SIZES, *how])
    test = json.loads(Path("matched/report.json").read_text())["test"]
    assert test["aligned"]["loss half-way"] < test["as given"]["loss half-way"]
    assert "matching by straight-through, compilation included, 20 steps" in capsys.readouterr().out


def test_by_a_spec_in_a_file(checkpoints):
    cli.main(["match", "a", "b", "--spec", "spec.toml", "--method", "weights", "--out", "here"])
    aligned = load_file("here/aligned.safetensors")
    for name, leaf in named_leaves(checkpoints).items():
        np.testing.assert_array_equal(aligned[name], leaf)
    assert "test" not in json.loads(Path("here/report.json").read_text())


def test_results_are_replaced_only_if_asked(checkpoints, capsys):
    arguments = ["a", "b", "--spec", "spec.toml", "--method", "weights"]
    cli.main(["match", *arguments])
    assert "matched/aligned.safetensors is already there; --overwrite replaces it" in fails(capsys, *arguments)
    cli.main(["match", *arguments, "--overwrite"])


def truncate(params):
    Path("b").write_bytes(Path("b").read_bytes()[:-7])


def make_pickle(params):
    Path("b").write_bytes(pickle.dumps({"Dense_0/kernel": [1.0]}))


def drop_leaf(params):
    del params["Dense_1"]["bias"]
    write("b", params)


def widen(params):
    write("b", lmcjax.FlaxNetwork(lmcjax.MLP((8, 9), 10), (64,)).init(jax.random.key(0)))


def add_leaf(params):
    write("b", params | {"other": np.zeros(2)})


def break_spec(params):
    Path("spec.toml").write_text("axes = [")


def misname_spec(params):
    Path("spec.toml").write_text(SPEC.replace("Dense_2/bias", "Dense_9/bias"))


MODEL, BY_SPEC = ["--model", "mlp", *SIZES], ["--spec", "spec.toml", "--method", "weights"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (truncate, MODEL, "b: no safetensors file, or truncated"),
        (make_pickle, MODEL, "b: no safetensors file, or truncated"),
        (drop_leaf, MODEL, "b: lacks 'Dense_1/bias', which the network has"),
        (add_leaf, MODEL, "b: has 'other', which the network lacks"),
        (widen, MODEL, "b: 'Dense_1/bias' has shape (9,), the network's has (8,)"),
        (widen, BY_SPEC, "leaf 'Dense_1/bias' has shape (8,) in params_a but (9,) in params_b"),
        (break_spec, BY_SPEC, "spec.toml: no TOML"),
        (misname_spec, BY_SPEC, "the spec names leaf 'Dense_9/bias'"),
        (None, [], "give one of --model, --apply and --spec"),
        (None, [*MODEL, "--apply", "a.b:c"], "give one of --model, --apply and --spec"),
        (None, ["--spec", "spec.toml"], "--method covariance needs the program of the networks"),
        (None, [*BY_SPEC[:2], "--method", "sinkhorn", "--objective", "midpoint"], "sinkhorn needs the program"),
        (
            None,
            [*MODEL, "--steps", "3"],
            "of sinkhorn, straight-through, annealing, not of covariance",
        ),
        (None, [*MODEL, "--restarts", "3"], "--restarts are of coordinate-descent, not of covariance"),
        (None, ["--apply", "no.module:apply"], "cannot import 'no.module'"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(change, arguments, message, checkpoints, capsys, tmp_path):
    if change is not None:
        change(checkpoints)
    before = sorted(tmp_path.iterdir())
    assert message in fails(capsys, "a", "b", *arguments)
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_checkpoint(checkpoints, capsys):
    assert "c: no such checkpoint" in fails(capsys, "a", "c", *MODEL)
