"""`lmcjax match`: two checkpoints in, an aligned one out, or nothing if something is wrong."""

import json
import pickle
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import deserialize, safe_open
from safetensors.numpy import load_file, save_file

import lmcjax
from lmcjax import cli
from lmcjax.cli._checkpoint import params_by_path, permute_checkpoint
from lmcjax.cli._match_methods import METHODS
from lmcjax.matching import SIMILARITIES, load_matching
from lmcjax.symmetry import (
    PermutationSpec,
    fixed,
    named_leaves,
    permute,
    random_permutations,
    writes,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZES = ["--dataset", "digits", "--width", "8", "--num-hidden-layers", "2", "--num-points", "3"]
MODEL = ["--model", "mlp", *SIZES]
BY_SPEC = ["--spec", "spec.toml", "--similarity", "weights"]
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
    save_file(
        {name: np.array(leaf, order="C") for name, leaf in named_leaves(params).items()}, path
    )


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


def takers_of(option):
    """The methods that take an option, as messages list them."""
    return ", ".join(name for name, method in METHODS.items() if option in method.options)


COMMANDS = {
    "covariance": ["--similarity", "covariance"],
    "descent by weights": [
        *("--method", "coordinate_descent", "--similarity", "weights", "--restarts", "8")
    ],
}
SLOW_COMMANDS = {
    "weights": ["--similarity", "weights"],
    "activations": ["--method", "layerwise", "--similarity", "activations"],
    "correlation": ["--similarity", "correlation"],
    "descent by covariance": ["--method", "coordinate_descent", "--restarts", "8"],
    "Frank-Wolfe by weights": ["--method", "frank_wolfe", "--similarity", "weights"],
    "Frank-Wolfe by covariance": ["--method", "frank_wolfe"],
    "Sinkhorn": ["--method", "sinkhorn"],
    "annealing": ["--method", "annealing"],
}


@pytest.mark.parametrize(
    "method",
    [
        *(pytest.param(options, id=name) for name, options in COMMANDS.items()),
        *(
            pytest.param(options, id=name, marks=pytest.mark.slow)
            for name, options in SLOW_COMMANDS.items()
        ),
    ],
)
def test_a_shuffled_copy_comes_back(method, checkpoints, capsys):
    cli.main(["match", "a", "b", "--model", "mlp", *SIZES, *method])
    aligned = load_file("matched/aligned.safetensors")
    for name, leaf in named_leaves(checkpoints).items():
        np.testing.assert_array_equal(aligned[name], leaf)
    report = json.loads(Path("matched/report.json").read_text())
    assert report["distance"]["aligned"] == 0 < report["distance"]["as given"]
    test = report["test"]
    assert test["aligned"]["barrier"] < 1e-5
    assert test["aligned"]["loss half-way"] == pytest.approx(
        test["as given"]["loss of A"], rel=1e-5
    )
    assert test["as given"]["loss half-way"] != pytest.approx(
        test["as given"]["loss of A"], rel=1e-3
    )
    matching = load_matching("matched/matching.safetensors")
    assert {g: p.shape for g, p in matching.permutations.items()} == {
        "Dense_0": (8,),
        "Dense_1": (8,),
    }
    printed = capsys.readouterr().out
    for expected in ("Dense_1", "barrier", "matched/aligned.safetensors"):
        assert expected in printed


@pytest.mark.slow
def test_learned_from_the_loss(checkpoints, capsys):
    how = ["--method", "straight_through", "--loss", "midpoint_loss", "--iterations", "20"]
    cli.main(["match", "a", "b", "--model", "mlp", *SIZES, *how])
    test = json.loads(Path("matched/report.json").read_text())["test"]
    assert test["aligned"]["loss half-way"] < test["as given"]["loss half-way"]
    assert "matching by straight_through, compilation included, 20 steps" in capsys.readouterr().out


def test_by_a_spec_in_a_file(checkpoints):
    cli.main(["match", "a", "b", *BY_SPEC, "--out", "here"])
    aligned = load_file("here/aligned.safetensors")
    for name, leaf in named_leaves(checkpoints).items():
        np.testing.assert_array_equal(aligned[name], leaf)
    report = json.loads(Path("here/report.json").read_text())
    assert "test" not in report
    assert report["method"] == "layerwise"
    assert report["options"] == {"similarity": "weights"}
    for group in ("first", "second"):
        assert report["similarity"][group] > report["similarity_of_identity"][group]


DTYPES = (
    *(np.bool_, np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64),
    *(jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.bfloat16, np.float16, np.float32, np.float64),
)


def random_entries(dtype, shape, rng):
    """Values that need every bit of a 64-bit dtype, and stay finite when they are squared in
    float32.
    """
    dtype = np.dtype(dtype)
    if dtype == np.bool_:
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(max(info.min, -(2**50)), min(info.max, 2**50), shape, dtype)
    return rng.normal(size=shape).astype(dtype)


def raw_leaves(path):
    """Dtype, shape and bytes of every leaf, as the file has them."""
    return {
        name: (leaf["dtype"], leaf["shape"], leaf["data"])
        for name, leaf in deserialize(Path(path).read_bytes())
    }


@pytest.mark.filterwarnings("error")
def test_every_dtype_keeps_its_bytes(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    order, dtypes = rng.permutation(6), [np.dtype(dtype) for dtype in DTYPES]
    a, b, table = {}, {}, ["[axes]"]
    for dtype in dtypes:
        moved = random_entries(dtype, (6, 5), rng)
        a |= {f"moved/{dtype.name}": moved, f"kept/{dtype.name}": random_entries(dtype, (3,), rng)}
        b |= {
            f"moved/{dtype.name}": moved[order],
            f"kept/{dtype.name}": random_entries(dtype, (3,), rng),
        }
        table += [f'"moved/{dtype.name}" = ["writes hidden", ""]', f'"kept/{dtype.name}" = [""]']
    a["step"], b["step"] = np.array(2**40 + 1), np.array(2**40 + 3)  # no axis at all
    b["kept/float64"] = np.array([-0.0, 5e-324, 1 + 2**-50])  # which float32 does not have
    save_file(a, "a")
    save_file(b, "b", metadata={"trained_on": "digits"})
    (tmp_path / "spec.toml").write_text("\n".join([*table, "step = []"]))
    cli.main(["match", "a", "b", *BY_SPEC])

    aligned, original = raw_leaves("matched/aligned.safetensors"), raw_leaves("b")
    assert aligned.keys() == original.keys()
    for name, leaf in raw_leaves("a").items():
        assert aligned[name] == (leaf if name.startswith("moved") else original[name]), name
    with safe_open("matched/aligned.safetensors", "numpy") as file:
        assert file.metadata() == {"trained_on": "digits", "aligned_to": "a", "from": "b"}
    distance = json.loads(Path("matched/report.json").read_text())["distance"]
    for name, prefixes in {
        "as given": ("moved", "kept", "step"),
        "aligned": ("kept", "step"),
    }.items():
        squares = [
            np.sum((a[k].astype(float) - b[k].astype(float)) ** 2)
            for k in a
            if k.startswith(prefixes)
        ]
        assert distance[name] == pytest.approx(np.sqrt(sum(squares)), rel=1e-12)


def test_entries_move_as_permute_moves_them(rng):
    """Also where every layer of a stack, and every head, has a permutation of its own."""
    spec = PermutationSpec.from_axes(
        {
            "w": [
                fixed("layers"),
                writes("heads"),
                writes("channels", along=("layers", "heads")),
                None,
            ],
            "b": [fixed(2)],
        }
    )
    leaves = {"w": rng.normal(size=(2, 3, 4, 5)), "b": rng.normal(size=2)}
    bound = spec.bind(leaves)
    permutations = random_permutations(jax.random.key(0), bound)
    places = np.arange(120, dtype=np.int32).reshape(2, 3, 4, 5)
    moved = permute(bound, permutations, {"w": places, "b": np.arange(2)})
    aligned = permute_checkpoint(bound, permutations, leaves)
    np.testing.assert_array_equal(aligned["w"], leaves["w"].ravel()[moved["w"]])
    np.testing.assert_array_equal(aligned["b"], leaves["b"])


def test_networks_of_different_dtypes(checkpoints):
    leaves = load_file("b")
    wider = {name: leaf.astype(float) * (1 + 2**-40) for name, leaf in leaves.items()}
    narrower = {name: leaf.astype(jnp.bfloat16) for name, leaf in load_file("a").items()}
    save_file(narrower, "a")
    save_file(wider, "b")
    cli.main(["match", "a", "b", "--model", "mlp", *SIZES, "--similarity", "weights"])
    aligned = load_file("matched/aligned.safetensors")
    for name, leaf in named_leaves(checkpoints).items():
        assert aligned[name].dtype == np.float64
        np.testing.assert_array_equal(aligned[name], np.float64(leaf) * (1 + 2**-40))
    test = json.loads(Path("matched/report.json").read_text())["test"]
    assert test["aligned"]["barrier"] < 1e-3 < test["as given"]["barrier"]


def test_results_are_replaced_only_if_asked(checkpoints, capsys):
    arguments = ["a", "b", *BY_SPEC]
    cli.main(["match", *arguments])
    assert "matched/aligned.safetensors is already there; --overwrite replaces it" in fails(
        capsys, *arguments
    )
    cli.main(["match", *arguments, "--overwrite"])


def test_an_apply_needs_no_init(tmp_path, monkeypatch, rng):
    """The files' keys say what the parameters are."""
    monkeypatch.chdir(tmp_path)
    Path("only_apply.py").write_text(
        "import jax\n"
        "def apply(params, x):\n"
        "    x = x.reshape(len(x), -1)\n"
        "    return jax.nn.relu(x @ params['in']['w'] + params['in']['b']) @ params['out']\n"
    )
    params = {
        "in": {"w": jnp.asarray(rng.normal(size=(64, 6))), "b": jnp.asarray(rng.normal(size=6))},
        "out": jnp.asarray(rng.normal(size=(6, 10))),
    }
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    order = rng.permutation(6)
    shuffled = {
        "in": {"w": params["in"]["w"][:, order], "b": params["in"]["b"][order]},
        "out": params["out"][order],
    }
    write("a", params)
    write("b", shuffled)
    points = ["--num-points", "3"]
    cli.main(["match", "a", "b", "--apply", "only_apply:apply", "--dataset", "digits", *points])
    aligned = load_file("matched/aligned.safetensors")
    for name, leaf in named_leaves(params).items():
        np.testing.assert_array_equal(aligned[name], leaf)


def test_paths_that_are_no_tree_are_refused():
    leaf = np.zeros(2)
    key = jax.random.key(0)
    assert params_by_path({"a/b/c": leaf, "a/d": leaf}, key).keys() == {"a"}
    with pytest.raises(ValueError, match="'a' is a leaf itself"):
        params_by_path({"a": leaf, "a/b": leaf}, key)
    with pytest.raises(ValueError, match="'a' is a leaf, and has leaves"):
        params_by_path({"a/b": leaf, "a": leaf}, key)


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


def make_complex(params):
    params["Dense_0"]["bias"] = np.ones(8, np.complex64)
    write("b", params)


def make_half_bytes(params):
    header = b'{"w": {"dtype": "F4", "shape": [2, 2], "data_offsets": [0, 2]}}'
    Path("b").write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))


def make_table(params):
    """A network that looks something up, in whose place the file has numbers with a fraction."""
    Path("lookup.py").write_text(
        "import jax.numpy as jnp\n"
        "def init(key): return {'index': jnp.arange(64), 'kernel': jnp.ones((64, 10))}\n"
        "def apply(params, x): return x[:, params['index']] @ params['kernel']\n"
    )
    for name in "ab":
        save_file({"index": np.full(64, 0.5), "kernel": np.ones((64, 10))}, name)


def break_spec(params):
    Path("spec.toml").write_text("axes = [")


def misname_spec(params):
    Path("spec.toml").write_text(SPEC.replace("Dense_2/bias", "Dense_9/bias"))


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
        (make_complex, BY_SPEC, "b: 'Dense_0/bias' has dtype C64, not one of BOOL, U8,"),
        (make_half_bytes, BY_SPEC, "b: 'w' has dtype F4, not one of BOOL, U8,"),
        (
            make_table,
            ["--apply", "lookup:apply", "--dataset", "digits"],
            "a: 'index' has dtype float64, the network's has int32",
        ),
        (break_spec, BY_SPEC, "spec.toml: no TOML"),
        (misname_spec, BY_SPEC, "the spec names leaf 'Dense_9/bias'"),
        (None, [], "give one of --model, --apply, --torch and --spec"),
        (None, [*MODEL, "--apply", "a.b:c"], "give one of --model, --apply, --torch and --spec"),
        (None, BY_SPEC[:2], "--similarity covariance needs the program of the networks"),
        (
            None,
            [*BY_SPEC[:2], "--method", "sinkhorn", "--loss", "midpoint_loss"],
            "--loss midpoint_loss needs the program of the networks",
        ),
        (
            None,
            [*MODEL, "--iterations", "3"],
            f"--iterations is for --method {takers_of('iterations')}, not for layerwise",
        ),
        (
            None,
            [*MODEL, "--loss", "weight_distance"],
            f"--loss is for --method {takers_of('loss')}, not for layerwise",
        ),
        (
            None,
            [*MODEL, "--restarts", "3"],
            f"--restarts is for --method {takers_of('restarts')}, not for layerwise",
        ),
        (
            None,
            [*MODEL, "--method", "annealing", "--similarity", "weights"],
            f"--similarity is for --method {takers_of('similarity')}, not for annealing",
        ),
        (
            None,
            [*MODEL, "--method", "frank_wolfe", "--similarity", "activations"],
            "--method frank_wolfe compares by weights or covariance, not by activations",
        ),
        (None, ["--apply", "no.module:apply"], "cannot import 'no.module'"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    change, arguments, message, checkpoints, capsys, tmp_path
):
    if change is not None:
        change(checkpoints)
    before = sorted(tmp_path.iterdir())
    assert message in fails(capsys, "a", "b", *arguments)
    assert sorted(tmp_path.iterdir()) == before


def test_the_help_speaks_of_all_methods_and_similarities(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "2000")  # so that no word is cut
    with pytest.raises(SystemExit):
        cli.main(["match", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, method in METHODS.items():
        assert f"{name} {method.about}." in text
    for name in SIMILARITIES:
        assert re.search(rf"\b{name}( \([\w, ]+ only\))?: [A-Z]", text)
    (takers,) = re.findall(r"activations \(([^)]* only)\): Covariances of activations\.", text)
    assert "layerwise" in takers
    assert "frank_wolfe" not in takers
    (defaults,) = re.findall(r"Steps of sinkhorn, [^(]*\(default: ([^)]*)\)", text)
    assert {"200", "100", "20,000"} <= set(defaults.split(", "))


def test_a_missing_checkpoint(checkpoints, capsys):
    assert "c: no such checkpoint" in fails(capsys, "a", "c", *MODEL)
