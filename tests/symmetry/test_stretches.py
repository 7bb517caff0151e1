"""Axes that are cut within each entry of another index set, such as within each head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import activation_moments, compose, discover, match_coordinate_descent, match_layerwise
from lmcjax.matching import Activations
from lmcjax.symmetry import (
    explain,
    fixed,
    identity_permutations,
    permute,
    random_permutations,
    reads,
    spec_from_table,
    writes,
)
from lmcjax.symmetry._nodes import Nodes

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

WIDTH = 6
HEADS = 3
CHANNELS = 4
NUM_OUTPUTS = 2
X = np.random.default_rng(0).normal(size=(2, 5, WIDTH))


def draw(seed=1, **shapes):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def separate_params(seed=1):
    inner = HEADS * CHANNELS
    return draw(seed, q=(WIDTH, inner), k=(WIDTH, inner), v=(WIDTH, inner), o=(inner, NUM_OUTPUTS))


def packed_params(seed=1):
    packed = 3 * HEADS * CHANNELS
    return draw(seed, w=(WIDTH, packed), b=(packed,), o=(HEADS * CHANNELS, NUM_OUTPUTS))


def heads_of(flat):
    return flat.reshape(*flat.shape[:-1], HEADS, -1)


def attend(params, query, key, value):
    """Attention of `[batch, tokens, heads, channels]`, and the output projection."""
    scores = jnp.einsum("bshc,bthc->bhst", query, key)
    seen = jnp.einsum("bhst,bthc->bshc", jax.nn.softmax(scores), value)
    return seen.reshape(*seen.shape[:2], -1) @ params["o"]


def angles(x, num_pairs):
    positions = jnp.arange(x.shape[1], dtype=x.dtype)[:, None, None]
    return positions / 10.0 ** jnp.arange(num_pairs, dtype=x.dtype)


def rotate_half(x):
    """As in Llama: the first half of each head's channels is turned with the second."""
    first, second = jnp.split(x, 2, axis=-1)
    both = jnp.tile(angles(x, x.shape[-1] // 2), 2)
    return x * jnp.cos(both) + jnp.concatenate([-second, first], axis=-1) * jnp.sin(both)


def rotary(params, x):
    query, key, value = (heads_of(x @ params[name]) for name in "qkv")
    return attend(params, rotate_half(query), rotate_half(key), value)


def partly_rotary(params, x):
    """As in GPT-J: only the first two channels of each head are turned."""
    query, key, value = (heads_of(x @ params[name]) for name in "qkv")

    def turn(y):
        return jnp.concatenate([rotate_half(y[..., :2]), y[..., 2:]], axis=-1)

    return attend(params, turn(query), turn(key), value)


def packed_in_each_head(params, x):
    """As in Bloom and GPT-NeoX: each head has its query, key and value side by side."""
    packed = heads_of(x @ params["w"] + params["b"])
    return attend(params, *jnp.split(packed, 3, axis=-1))


def indexed_in_each_head(params, x):
    packed = x @ params["w"] + params["b"]
    apart = packed.reshape(*packed.shape[:-1], HEADS, 3, CHANNELS)
    return attend(params, apart[..., 0, :], apart[..., 1, :], apart[..., 2, :])


def unstacked_in_each_head(params, x):
    packed = x @ params["w"] + params["b"]
    apart = packed.reshape(*packed.shape[:-1], HEADS, 3, CHANNELS)
    return attend(params, *jnp.moveaxis(jnp.tanh(apart), 3, 0))


def value_with_query_in_each_head(params, x):
    packed = heads_of(x @ params["w"] + params["b"])
    query, key, value = jnp.split(packed, 3, axis=-1)
    return attend(params, query, key, value * query)


def test_heads_under_rotary_positions(verified_spec):
    """Channels of queries and keys stay, heads and the channels of values do not."""
    spec = verified_spec(rotary, separate_params(), X)
    assert dict(spec.shapes) == {"q": (HEADS,), "v": (HEADS, CHANNELS)}
    leaves = dict(spec.leaves)
    assert leaves["q"] == leaves["k"] == (None, writes("q") * fixed(CHANNELS))
    assert leaves["v"] == (None, writes("q") * writes("v", along="q"))
    assert leaves["o"] == (reads("q") * reads("v", along="q"), None)


def test_channels_that_are_not_turned(verified_spec):
    spec = verified_spec(partly_rotary, separate_params(), X)
    assert dict(spec.shapes) == {"q": (HEADS,), "q/qk": (HEADS, 2), "v": (HEADS, CHANNELS)}
    turned_and_not = fixed(2) | writes("q/qk", along="q")
    assert dict(spec.leaves)["k"] == (None, writes("q") * turned_and_not)


@pytest.mark.parametrize(
    "apply", [packed_in_each_head, indexed_in_each_head, unstacked_in_each_head]
)
def test_query_key_and_value_side_by_side_in_each_head(apply, verified_spec):
    spec = verified_spec(apply, packed_params(), X)
    shapes = {"w": (HEADS,), "w/qk": (HEADS, CHANNELS), "w/v": (HEADS, CHANNELS)}
    assert dict(spec.shapes) == shapes
    compared = writes("w/qk", along="w")
    packed = writes("w") * (compared | compared | writes("w/v", along="w"))
    assert dict(spec.leaves)["w"] == (None, packed)
    assert dict(spec.leaves)["b"] == (packed,)


def test_written_by_hand():
    by_hand = spec_from_table(
        {
            "axes": {
                "w": ["", "writes heads*(qk/heads | qk/heads | v/heads)"],
                "b": ["writes heads*(qk/heads | qk/heads | v/heads)"],
                "o": ["reads heads*v/heads", ""],
            }
        }
    )
    names = {"w": "heads", "w/qk": "qk", "w/v": "v"}
    assert by_hand.leaves == discover(packed_in_each_head, packed_params(), X, names=names).leaves


@pytest.mark.parametrize(
    ("apply", "make"),
    [
        pytest.param(rotary, separate_params, marks=pytest.mark.slow),
        pytest.param(partly_rotary, separate_params, marks=pytest.mark.slow),
        pytest.param(packed_in_each_head, packed_params, marks=pytest.mark.slow),
    ],
)
def test_planted_permutations_are_found(apply, make, verified_spec):
    params = make()
    spec = verified_spec(apply, params, X)
    shuffle = random_permutations(jax.random.key(0), spec, params)
    shuffled = permute(spec, shuffle, params)
    moments = activation_moments(apply, spec, params, shuffled, X)
    identity = identity_permutations(spec, params)
    for matching in (
        match_coordinate_descent(spec, params, shuffled),
        match_layerwise(spec, params, shuffled, similarity=Activations(moments)),
    ):
        undone = compose(spec, matching.permutations, shuffle)
        for group in spec.groups:
            np.testing.assert_array_equal(undone[group], identity[group])


def test_channels_that_all_three_share(verified_spec):
    spec = verified_spec(value_with_query_in_each_head, packed_params(), X)
    assert dict(spec.shapes) == {"w": (HEADS,), "w/each": (HEADS, CHANNELS)}


def test_explained():
    """The stretches inside a product stand in parentheses."""
    explanation = explain(packed_in_each_head, packed_params(), X)
    rows = explanation.of("w", 1)
    assert {row.layout for row in rows} == {"3 * (4 | 4 | 4)"}
    assert [row.group for row in rows] == ["w", "w/qk", "w/qk", "w/v"]
    query = explain(rotary, separate_params(), X).of("q", 1)
    assert [row.group for row in query] == ["q", None]
    assert "iota" in query[1].reason


def test_channels_that_other_heads_read_in_another_order(spec_of_trap):
    """The halves of each head are swapped in one of two places that read them."""

    def swapped(h):
        heads = h.reshape(*h.shape[:-1], 3, 2)
        first, second = jnp.split(heads, 2, axis=-1)
        other = jnp.concatenate([second, first], axis=-1)
        return h * other.reshape(h.shape) * jnp.cumsum(heads, -1).reshape(h.shape)

    params = draw(w=(WIDTH, 6), b=(6,), v=(6, NUM_OUTPUTS))
    spec = spec_of_trap(lambda p, x: swapped(x @ p["w"] + p["b"]) @ p["v"], params, X[:, 0])
    assert dict(spec.shapes) == {"w": (3,)}


def test_constants_that_differ_within_each_entry(verified_spec):
    """Two numbers take turns: the two neurons of each number may be swapped, and no others."""

    def apply(params, x):
        number = jnp.full((2, 1), 0.3)
        turns = jnp.concatenate([number, jnp.exp(number)], axis=-1).reshape(4)
        return jnp.tanh(x @ params["w"] + turns) @ params["v"]

    spec = verified_spec(apply, draw(w=(WIDTH, 4), v=(4, NUM_OUTPUTS)), X[:, 0])
    assert dict(spec.shapes) == {"w": (2, 2)}


def test_an_axis_whose_inner_factor_is_cut_twice():
    """Cut at 2 in one place and at 3 in another: stretches of 2, 1 and 1 in each of 3."""
    nodes = Nodes()
    outer, inner = nodes.new(3), nodes.new(4)
    whole = nodes.axis(12)
    nodes.merge(whole, ((outer, inner),))
    nodes.cut(((inner,),), 0, 2)
    nodes.cut(((inner,),), 3, 4)
    ((first, second),) = nodes.expand(whole)
    assert first == nodes.find(outer)
    stretches = nodes.stretches(second)
    assert [nodes.length((stretch,)) for stretch in stretches] == [2, 1, 1]
    assert nodes.multiply_out(whole) == tuple((first, *stretch) for stretch in stretches)
    assert nodes.atoms(whole) == [first, *(atom for stretch in stretches for atom in stretch)]
    assert nodes.pinned(first) is None


def test_stretches_inside_equal_products_are_merged():
    nodes = Nodes()
    axes = []
    for cut in (1, 3):
        inner = nodes.new(4)
        nodes.cut(((inner,),), 0, cut)
        axes.append(((nodes.new(3), inner),))
    nodes.merge(*axes)
    one, other = (nodes.expand(axis) for axis in axes)
    assert one == other
    ((_, inner),) = one
    assert [nodes.length((stretch,)) for stretch in nodes.stretches(inner)] == [1, 2, 1]
