"""What `explain` says of axes, against what was written into small programs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmcjax import discover, explain
from lmcjax.symmetry import ExplainedFactor

pytestmark = pytest.mark.usefixtures("quick_compilation")


def shapes(**leaves):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in leaves.items()}


X = jax.ShapeDtypeStruct((4, 3), jnp.float32)
PARAMS = shapes(w=(3, 6), v=(6, 2))
TOKENS = jax.ShapeDtypeStruct((2, 5), jnp.int32)
ATTENTION = shapes(
    embedding=(10, 8), q=(8, 2, 4), k=(8, 2, 4), v=(8, 2, 4), o=(2, 4, 8), head=(8, 3)
)


def through(act):
    return lambda p, x: act(jnp.tanh(x @ p["w"])) @ p["v"]


def rotate(x, angles):
    """Rotary positions: channels i and i + n / 2 are a pair."""
    a, b = jnp.split(x, 2, axis=-1)
    cos = jnp.cos(angles)
    sin = jnp.sin(angles)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def counted_angles(x):
    return jnp.arange(x.shape[1])[:, None, None] * 10.0 ** -jnp.arange(x.shape[-1] // 2)


def stored_angles(x):
    """The same numbers, as constants of the program."""
    return np.arange(x.shape[1])[:, None, None] * 10.0 ** -np.arange(x.shape[-1] // 2)


def attention(angles_of):
    def apply(p, tokens):
        x = p["embedding"][tokens]
        q, k, v = (jnp.einsum("btd,dhc->bthc", x, p[name]) for name in ("q", "k", "v"))
        q = rotate(q, angles_of(q))
        k = rotate(k, angles_of(k))
        weights = jax.nn.softmax(jnp.einsum("bqhc,bkhc->bhqk", q, k))
        mixed = jnp.einsum("bhqk,bkhc->bqhc", weights, v)
        return (x + jnp.einsum("bqhc,hcd->bqd", mixed, p["o"])) @ p["head"]

    return apply


@pytest.mark.parametrize(
    ("angles", "reason"),
    [
        (counted_angles, "meets numbers that count along it (iota)"),
        (stored_angles, "meets a constant that is not uniform along it"),
    ],
)
def test_rotary_attention(angles, reason):
    """Channels of queries and keys are multiplied by angles of their own, and stay."""
    explanation = explain(attention(angles), ATTENTION, TOKENS)
    for name in ("q", "k"):
        stream, heads, channels = explanation.of(name)
        assert (stream.group, stream.role) == ("embedding", "reads")
        assert (heads.group, heads.role) == ("q", "writes")
        assert (channels.group, channels.length, channels.reason) == (None, 4, reason)
        assert re.fullmatch(r".*test_explain.py:\d+:\d+ \(.*rotate\)", channels.source)
    assert [row.group for row in explanation.of("v")] == ["embedding", "q", "v"]
    (vocabulary,) = explanation.of("embedding", 0)
    assert vocabulary.reason == "looked up by position"
    assert "test_explain.py" in vocabulary.source
    (outputs,) = explanation.of("head", 1)
    assert outputs == ExplainedFactor(
        "head", 1, 3, "3", 3, None, None, "an axis of the outputs", ""
    )
    assert len(explanation) == len(list(explanation)) == 16
    groups = [row.group for row in explanation if row.group is not None]
    assert set(groups) == set(discover(attention(angles), ATTENTION, TOKENS).groups)


def test_the_table():
    explanation = explain(through(lambda h: h[:, ::-1] + h), PARAMS, X)
    printed = re.sub(r"py:\d+", "py:1", str(explanation))
    assert printed == (
        "leaf  axis  length  permuted by  or why not\n"
        "w     0     3                    an axis of the inputs\n"
        "      1     6                    reversed (rev), test_explain.py:1 (<lambda>)\n"
        "v     0     6                    reversed (rev), test_explain.py:1 (<lambda>)\n"
        "      1     2                    an axis of the outputs"
    )


def test_convolution_and_flatten():
    """Pixels and channels share an axis of the dense layer; each is explained."""

    def apply(p, x):
        h = lax.conv_general_dilated(
            x, p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        h = jnp.tanh(h + p["bias"]).reshape(x.shape[0], -1)
        return h @ p["dense"]

    params = shapes(conv=(3, 3, 1, 5), bias=(5,), dense=(80, 2))
    explanation = explain(apply, params, jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float32))
    rows = explanation.of("conv")
    assert [row.reason for row in rows] == [
        "a spatial axis of a convolution",
        "a spatial axis of a convolution",
        "a single entry",
        "",
    ]
    assert rows[0].source.endswith("apply)")
    pixels, channels = explanation.of("dense", 0)
    assert (pixels.length, pixels.layout) == (80, "16 * 5")
    assert (pixels.size, pixels.group, pixels.reason) == (16, None, rows[0].reason)
    assert (channels.size, channels.group, channels.role) == (5, "conv", "reads")
    table = str(explanation).splitlines()
    start = next(i for i, line in enumerate(table) if line.startswith("dense"))
    assert re.match(r"dense  0     80 = 16 \* 5  16: -  +a spatial axis", table[start])
    assert re.match(r" +5: conv \(reads\)", table[start + 1])


def test_an_unknown_primitive():
    explanation = explain(through(lambda h: jax.pure_callback(np.sin, h, h)), PARAMS, X)
    (hidden,) = explanation.of("w", 1)
    assert hidden.group is None
    assert hidden.reason == "touched by primitive 'pure_callback', which is not known"
    assert "test_explain.py" in hidden.source


def test_leaves_that_nothing_uses():
    """A counter of a norm is no dead leaf."""
    params = {
        **PARAMS,
        **shapes(unused=(3, 1), number=()),
        "num_batches_tracked": jax.ShapeDtypeStruct((), jnp.int32),
        "buffer": jax.ShapeDtypeStruct((7,), jnp.int32),
    }
    explanation = explain(through(jnp.tanh), params, X)
    reasons = {(row.leaf, row.axis): row.reason for row in explanation if row.group is None}
    assert reasons == {
        ("w", 0): "an axis of the inputs",
        ("v", 1): "an axis of the outputs",
        ("unused", 0): "a leaf that nothing uses",
        ("unused", 1): "a single entry",
        ("number", None): "a leaf that nothing uses",
        ("num_batches_tracked", None): "a counter: an integer that nothing uses",
        ("buffer", 0): "a leaf that nothing uses",
    }
    spec = discover(through(jnp.tanh), params, X)
    assert sorted(spec.dead) == ["buffer", "number", "unused"]
    assert "num_batches_tracked" in dict(spec.leaves)


def test_a_leaf_that_is_an_output_is_not_dead():
    params = {**PARAMS, "count": jax.ShapeDtypeStruct((), jnp.int32), **shapes(mean=(6,))}

    def apply(p, x):
        return through(jnp.tanh)(p, x), p["count"], p["mean"]

    explanation = explain(apply, params, X)
    assert explanation.of("count")[0].reason == "a single number"
    assert explanation.of("mean")[0].reason == "an axis of the outputs"
    assert discover(apply, params, X).dead == ()


def test_each_stretch_has_its_reason():
    """Two neurons are reversed, one stands alone, three are a group."""

    def mix(h):
        return jnp.concatenate([h[:, :2] + h[:, 1::-1], h[:, 2:]], axis=-1) + h[:, 2:3]

    explanation = explain(through(mix), PARAMS, X)
    pair, single, rest = explanation.of("w", 1)
    assert {row.layout for row in explanation.of("w", 1)} == {"2 | 1 | 3"}
    assert (pair.size, pair.reason) == (2, "reversed (rev)")
    assert (single.size, single.reason) == (1, "a single entry")
    assert (rest.size, rest.group, rest.reason) == (3, "w", "")


REASONS = {
    "a running sum (cumsum)": lambda h: jnp.cumsum(h, axis=-1),
    "meets numbers that count along it (iota)": lambda h: h + jnp.arange(6.0),
    "meets a constant that is not uniform along it": lambda h: h @ np.eye(6, dtype=np.float32),
    "only every so many entries are taken, by a slice with a stride (slice)": lambda h: jnp.repeat(
        h[:, ::2], 2, axis=-1
    ),
    "padded (pad)": lambda h: jnp.pad(h, ((0, 0), (1, 0)))[:, :6],
    "a Fourier transform (fft)": lambda h: jnp.fft.fft(h).real,
    "looked up by position": lambda h: h[:, jnp.array([0, 0, 2, 3, 4, 5])],
    "written by position": lambda h: h.at[:, jnp.array([0, 2])].set(1.0),
    "cut from a position that is computed (dynamic_slice)": lambda h: (
        h + lax.dynamic_slice_in_dim(h, h.shape[0] - jnp.int32(h[0, 0]), 1, axis=1)
    ),
    "overwritten from a position that is computed (dynamic_update_slice)": lambda h: (
        lax.dynamic_update_slice_in_dim(h, h[:, :2], jnp.int32(h[0, 0]), axis=1)
    ),
    "the position of its largest entry is taken, the first of several (argmax)": lambda h: (
        h + jnp.argmax(h, axis=-1)[:, None]
    ),
    "positions along it are read as numbers": lambda h: h + lax.top_k(h, 2)[1][:, :1],
    "sorted, which shows the order of what compares equal (sort)": lambda h: (
        h + jnp.argsort(h, axis=-1)[:, :1]
    ),
    "pooled in windows (reduce_window_max)": lambda h: lax.reduce_window(
        h, -jnp.inf, lax.max, (1, 2), (1, 1), "SAME"
    ),
    "the turns of a scan": lambda h: lax.scan(lambda c, y: (c + y, c), h[:, 0] * 0, h.T)[1].T,
    "axes that are reshaped differently in two places": lambda h: (
        h + h.reshape(-1, 2, 3).swapaxes(1, 2).reshape(-1, 6)
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_reasons_and_their_lines(reason):
    explanation = explain(through(REASONS[reason]), PARAMS, X)
    reasons = {row.reason: row.source for row in explanation.of("w", 1)}
    assert reason in reasons, reasons
    assert "test_explain.py" in reasons[reason]


def test_the_first_reason_is_kept():
    """The sum is in the first line, the reversal in the second."""

    def mix(h):
        h = jnp.cumsum(h, axis=-1)
        return h[:, ::-1]

    (hidden,) = explain(through(mix), PARAMS, X).of("v", 0)
    assert hidden.reason == "reversed (rev)"
    (hidden,) = explain(through(mix), PARAMS, X).of("w", 1)
    assert hidden.reason == "a running sum (cumsum)"


def test_without_ties():
    def apply(p, x):
        return through(lambda h: h * (jnp.argmax(h, -1)[:, None] == jnp.arange(6)))(p, x)

    (hidden,) = explain(apply, PARAMS, X).of("w", 1)
    assert hidden.group is None
    (hidden,) = explain(apply, PARAMS, X, assume_no_ties=True).of("w", 1)
    assert hidden.group == "w"
