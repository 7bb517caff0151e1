"""Discovery against groups written by hand from the mathematics, and against its false friends."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import FlaxNetwork, discover, mlp_spec, permute, verify
from lmcjax.models import MLP
from lmcjax.symmetry import PermutationSpec, fixed, named_leaves, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGES = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
TOKENS = jnp.arange(10).reshape(2, 5)
SEQUENCES = jax.random.normal(jax.random.key(2), (2, 5, 4))


def sizes(module, x):
    """What is discovered, by group, once `verify` has agreed."""
    params = module.init(jax.random.key(0), x)["params"]

    def apply(params, x):
        return module.apply({"params": params}, x)

    spec = discover(apply, params, x)
    verification = verify(apply, spec, params, x)
    assert verification.finite
    assert all(verification.holds.values()), verification.difference
    assert spec.unknown == ()
    return dict(spec.shapes)


def test_mlp_is_the_hand_written_spec():
    network = FlaxNetwork(MLP((7, 5, 6), 3), (4,))
    params = network.init(jax.random.key(0))
    assert discover(network.apply, params, jnp.ones((2, 4))) == mlp_spec(3).bind(params)
    assert hash(discover(network.apply, params, jax.ShapeDtypeStruct((2, 4), jnp.float32)))


class Block(nn.Module):
    channels: int
    stride: int
    norm: type

    @nn.compact
    def __call__(self, x):
        y = self.norm()(nn.Conv(self.channels, (3, 3), (self.stride,) * 2, use_bias=False)(x))
        y = self.norm()(nn.Conv(self.channels, (3, 3), use_bias=False)(nn.relu(y)))
        if x.shape != y.shape:
            x = self.norm()(nn.Conv(self.channels, (1, 1), (self.stride,) * 2, use_bias=False)(x))
        return nn.relu(x + y)


class ResNet20(nn.Module):
    width: int
    norm: type = nn.LayerNorm

    @nn.compact
    def __call__(self, x):
        x = nn.relu(self.norm()(nn.Conv(self.width, (3, 3), use_bias=False)(x)))
        for stage in range(3):
            for block in range(3):
                x = Block(self.width * 2**stage, 2 if stage and not block else 1, self.norm)(x)
        return nn.Dense(10)(x.mean((1, 2)))


@pytest.mark.parametrize(
    ("norm", "size"),
    [
        pytest.param(nn.LayerNorm, 4, marks=pytest.mark.slow),
        pytest.param(functools.partial(nn.GroupNorm, num_groups=2), 2, marks=pytest.mark.slow),
    ],
    ids=["layer norm", "group norm: two groups of channels"],
)
def test_resnet20(norm, size):
    """A residual stream per stage, and the inner channels of every block."""
    expected = {"Conv_0": (size,), "Block_3/Conv_1": (2 * size,), "Block_6/Conv_1": (4 * size,)}
    expected |= {f"Block_{i}/Conv_0": (size * 2 ** (i // 3),) for i in range(9)}
    if norm is not nn.LayerNorm:
        channels = {f"{group}/each": (2, num // 2 * 2) for group, (num,) in expected.items()}
        expected = dict.fromkeys(expected, (2,)) | channels
    assert sizes(ResNet20(4, norm), IMAGES) == expected


@pytest.mark.slow
def test_group_norm_has_groups_of_channels():
    """Of six channels in three groups, the groups may be permuted, and the channels in each."""

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.GroupNorm(num_groups=3)(nn.Conv(6, (3, 3))(x))
            return nn.Dense(2)(nn.relu(x).mean((1, 2)))

    module = Network()
    params = module.init(jax.random.key(0), IMAGES)["params"]
    spec = discover(lambda p, x: module.apply({"params": p}, x), params, IMAGES)
    assert dict(spec.leaves)["Conv_0/kernel"][-1] == writes("Conv_0") * writes(
        "Conv_0/each", along="Conv_0"
    )
    assert sizes(module, IMAGES) == {"Conv_0": (3,), "Conv_0/each": (3, 2)}


@pytest.mark.slow
def test_flatten_to_dense_in_blocks():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.max_pool(nn.relu(nn.LayerNorm()(nn.Conv(6, (3, 3))(x))), (2, 2), (2, 2))
            return nn.Dense(3)(nn.relu(nn.Dense(9)(x.reshape(x.shape[0], -1))))

    module = Network()
    params = module.init(jax.random.key(0), IMAGES)["params"]
    spec = discover(lambda p, x: module.apply({"params": p}, x), params, IMAGES)
    assert dict(spec.leaves)["Dense_1/kernel"] == (
        fixed(16) * reads("Conv_0"),
        writes("Dense_1"),
    )
    assert sizes(module, IMAGES) == {"Conv_0": (6,), "Dense_1": (9,)}


@pytest.mark.slow
def test_concatenations_have_a_group_in_each_stretch():
    class DenseNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(8, (3, 3))(x)
            for _ in range(2):
                y = nn.Conv(4, (3, 3))(nn.relu(nn.LayerNorm()(x)))
                x = jnp.concatenate([x, y], -1)
            return nn.Dense(5)(x.mean((1, 2)))

    module = DenseNet()
    params = module.init(jax.random.key(0), IMAGES)["params"]
    spec = discover(lambda p, x: module.apply({"params": p}, x), params, IMAGES)
    assert dict(spec.leaves)["Dense_0/kernel"] == (
        reads("Conv_0") | reads("Conv_1") | reads("Conv_2"),
        None,
    )
    assert sizes(module, IMAGES) == {"Conv_0": (8,), "Conv_1": (4,), "Conv_2": (4,)}


@pytest.mark.slow
def test_depthwise_convolution():
    class ConvNeXt(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(8, (2, 2), (2, 2))(x)
            y = nn.LayerNorm()(nn.Conv(8, (3, 3), feature_group_count=8)(x))
            x = x + nn.Dense(8)(nn.gelu(nn.Dense(32)(y))) * self.param(
                "scale", nn.initializers.ones, (8,)
            )
            return nn.Dense(5)(x.mean((1, 2)))

    assert sizes(ConvNeXt(), IMAGES) == {"Conv_0": (8,), "Dense_1": (32,)}


@pytest.mark.slow
def test_mixer_permutes_channels_but_not_tokens():
    class Mixer(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(8, (2, 2), (2, 2))(x).reshape(2, 16, 8)
            x = x + nn.Dense(16)(nn.gelu(nn.Dense(12)(x.swapaxes(1, 2)))).swapaxes(1, 2)
            x = x + nn.Dense(8)(nn.gelu(nn.Dense(20)(nn.LayerNorm()(x))))
            return nn.Dense(5)(x.mean(1))

    assert sizes(Mixer(), IMAGES) == {"Conv_0": (8,), "Dense_1": (12,), "Dense_3": (20,)}


class Transformer(nn.Module):
    num_layers: int = 2
    tied: bool = False

    @nn.compact
    def __call__(self, tokens):
        embedding = nn.Embed(10, 8)
        x = embedding(tokens)
        for _ in range(self.num_layers):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=2)(y, y)
            x = x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))
        x = nn.LayerNorm()(x)
        return embedding.attend(x) if self.tied else nn.Dense(3)(x.mean(1))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.slow
def test_transformer(tied):
    """Each layer has heads, hidden neurons, and in each head channels of queries and of values."""
    expected = {"Embed_0": (8,)}
    for layer in range(2):
        attention = f"MultiHeadDotProductAttention_{layer}"
        expected |= {f"{attention}/query": (2,), f"{attention}/query/qk": (2, 4)}
        expected |= {f"{attention}/value": (2, 4), f"Dense_{2 * layer + 1}": (16,)}
    assert sizes(Transformer(tied=tied), TOKENS) == expected


def attend(q, k, v):
    """Attention of two heads whose channels are laid end to end."""
    q, k, v = (x.reshape(*x.shape[:2], 2, 4) for x in (q, k, v))
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*q.shape[:2], 8)


def packed(p, x):
    return attend(*jnp.split(x @ p["attn"]["qkv"], 3, axis=-1)) @ p["attn"]["out"]


def side_by_side(p, x):
    p = p["attn"]
    return attend(x @ p["q"], x @ p["k"], x @ p["v"]) @ p["out"]


def one_head(p, x):
    q, k, v = jnp.split(x @ p["attn"]["qkv"], 3, axis=-1)
    return jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v @ p["attn"]["out"]


def two_halves(p, x):
    a, b = jnp.split(x @ p["up"]["kernel"], [5], axis=-1)
    return jnp.concatenate([jnp.tanh(a), jax.nn.relu(b)], axis=-1) @ p["down"]["kernel"]


QKV = {"attn": {"qkv": (4, 24), "out": (8, 3)}}
Q_K_V = {"attn": {"q": (4, 8), "k": (4, 8), "v": (4, 8), "out": (8, 3)}}
HALVES = {"up": {"kernel": (4, 8)}, "down": {"kernel": (8, 3)}}
PACKED = {"attn/qkv": (2,), "attn/qkv/qk": (2, 4), "attn/qkv/v": (2, 4)}
NAMES = {
    "packed": (packed, QKV, PACKED),
    "one head": (one_head, QKV, {"attn/qkv/qk": (8,), "attn/qkv/v": (8,)}),
    "side by side": (
        side_by_side,
        Q_K_V,
        {"attn/q": (2,), "attn/q/qk": (2, 4), "attn/v": (2, 4)},
    ),
    "two in one layer": (two_halves, HALVES, {"up/1": (5,), "up/2": (3,)}),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_say_what_groups_are(name):
    apply, shapes, expected = NAMES[name]
    params = jax.tree.map(jnp.ones, shapes, is_leaf=lambda node: isinstance(node, tuple))
    assert discover(apply, params, SEQUENCES).group_shapes() == expected


def test_names_are_not_given_twice():
    """A layer is called as one of two groups would be that are numbered."""

    def apply(p, x):
        return jnp.tanh(two_halves(p, x) @ p["up/1"]["kernel"]) @ p["last"]

    shapes = {**HALVES, "up/1": {"kernel": (3, 7)}, "last": (7, 2)}
    params = jax.tree.map(jnp.ones, shapes, is_leaf=lambda node: isinstance(node, tuple))
    spec = discover(apply, params, SEQUENCES)
    assert spec.group_shapes() == {
        "up/1.1": (5,),
        "up/2": (3,),
        "down": (3,),
        "up/1.2": (7,),
    }


def test_a_layer_may_be_called_stack():
    """What stacked layers differ along is called so, too, and gets a number."""

    def apply(p, x):
        def layer(x, weights):
            up, down = weights
            return x + jnp.tanh(x @ up) @ down, None

        return jax.lax.scan(layer, x, (p["stack"]["kernel"], p["down"]["kernel"]))[0]

    params = {
        "stack": {"kernel": jnp.ones((3, 4, 6))},
        "down": {"kernel": jnp.ones((3, 6, 4))},
    }
    spec = discover(apply, params, SEQUENCES)
    assert spec.group_shapes() == {"stack": (3, 6)}
    assert spec.along("stack") == ("stack.2",)


@pytest.mark.parametrize(
    ("cell", "name"),
    [(nn.OptimizedLSTMCell, "OptimizedLSTMCell_0/hi"), (nn.GRUCell, "GRUCell_0/ir")],
)
@pytest.mark.slow
def test_recurrent_state_is_one_group(cell, name):
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.RNN(cell(6))(x)[:, -1])

    params = Network().init(jax.random.key(0), SEQUENCES)["params"]

    def apply(params, x):
        return Network().apply({"params": params}, x)

    spec = discover(apply, params, SEQUENCES)
    assert dict(spec.shapes) == {name: (6,)}
    assert all(verify(apply, spec, params, SEQUENCES).holds.values())


@pytest.mark.slow
def test_stacked_layers_have_a_permutation_each():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + nn.Dense(8)(nn.relu(nn.Dense(12)(x))), None

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.scan(
                Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
            )
            x, _ = layers()(nn.Dense(8)(x), None)
            return nn.Dense(3)(x)

    assert sizes(Stack(), SEQUENCES) == {"Dense_0": (8,), "ScanLayer_0/Dense_1": (3, 12)}


@pytest.mark.parametrize(
    ("mix", "shape"),
    [
        (lambda h: h, (3, 6)),
        (lambda h: jnp.cumsum(h, axis=0), (6,)),
        (lambda h: h + h[::-1], (6,)),
        (lambda h: h + jnp.sort(h, axis=0), (6,)),
        (lambda h: h + h[jnp.array([1, 2, 0])], (6,)),
        (lambda h: h + jnp.concatenate([h[1:], h[:1]]), (6,)),
        (lambda h: h + jnp.einsum("kl,lbh->kbh", jnp.arange(9.0).reshape(3, 3), h), (6,)),
        (lambda h: h + h.sum(0), (6,)),
    ],
    ids=["not mixed", "running sum", "reversal", "sorting", "look-up", "shift", "matrix", "sum"],
)
def test_layers_that_are_mixed_share_their_permutation(mix, shape):
    """A stack of hidden layers, one permutation each, unless something works along the stack."""
    keys = jax.random.split(jax.random.key(6), 2)
    params = {
        "w": jax.random.normal(keys[0], (3, 4, 6)),
        "v": jax.random.normal(keys[1], (3, 6, 2)),
    }

    def apply(p, x):
        return jnp.einsum(
            "lbh,lho->lbo", mix(jnp.tanh(jnp.einsum("bi,lih->lbh", x, p["w"]))), p["v"]
        )

    spec = discover(apply, params, SEQUENCES[0])
    assert all(verify(apply, spec, params, SEQUENCES[0]).holds.values())
    assert dict(spec.shapes) == {"w": shape}


# Programs in plain JAX: hidden = relu(x w), something done to hidden, then read out.
PARAMS = {
    "w": jax.random.normal(jax.random.key(3), (3, 6)),
    "v": jax.random.normal(jax.random.key(4), (6, 2)),
}
X = jax.random.normal(jax.random.key(5), (4, 3))


def through(act):
    return lambda p, x: act(jax.nn.relu(x @ p["w"])) @ p["v"]


def test_the_plain_program_has_its_group():
    spec = discover(through(lambda h: h), PARAMS, X)
    expected = PermutationSpec.from_axes({"w": (None, writes("w")), "v": (reads("w"), None)})
    assert spec == expected.bind(PARAMS)


FALSE_FRIENDS = {
    "a fixed ramp": through(lambda h: h + jnp.arange(6.0)),
    "sorting, beside the unsorted": through(lambda h: h + jnp.sort(h, axis=-1)),
    "a single neuron": through(lambda h: h + h[..., :1]),
    "a neuron by index": lambda p, x: (h := x @ p["w"]) @ p["v"] + h[..., 0][:, None],
    "a running sum": through(lambda h: jnp.cumsum(h, axis=-1)),
    "a fixed random projection": through(
        lambda h: h @ jax.random.normal(jax.random.key(0), (6, 6))
    ),
    "reversal": through(lambda h: h + h[..., ::-1]),
    "hidden units as outputs": lambda p, x: ((h := x @ p["w"]) @ p["v"], h),
    "argmax of parameters": lambda p, x: (x @ p["w"]) @ p["v"] + jnp.argmax(p["w"].sum(0)),
    "a shift": through(lambda h: jnp.roll(h, 1, axis=-1)),
    "half of the neurons scaled": through(lambda h: h * jnp.repeat(jnp.array([1.0, 2.0]), 3)),
    "reshaped to be summed in pairs": through(
        lambda h: jnp.repeat(h.reshape(4, 3, 2).cumsum(-1).sum(-1), 2, axis=-1)
    ),
    "the largest neuron's number": lambda p, x: (
        (h := x @ p["w"]) @ p["v"] + jnp.argmax(h, axis=-1)[:, None]
    ),
    "a position mask": through(
        lambda h: jnp.where(jax.lax.broadcasted_iota(int, h.shape, 1) < 4, h, 0)
    ),
    "padding": through(lambda h: jnp.pad(h, ((0, 0), (1, 0)))[:, :6]),
    "a look-up table": through(lambda h: h[:, jnp.array([0, 0, 2, 3, 4, 5])]),
    "a convolution along neurons": through(
        lambda h: jnp.convolve(h[0], jnp.ones(3), mode="same") + h
    ),
}


@pytest.mark.parametrize("name", FALSE_FRIENDS)
def test_false_friends_stay_pinned(name):
    spec = discover(FALSE_FRIENDS[name], PARAMS, X)
    whole = [segments for _, axes in spec.leaves for segments in axes if segments == (writes("w"),)]
    assert not whole or spec.groups == ()
    assert all(size[-1] < 6 for _, size in spec.shapes)
    assert all(verify(FALSE_FRIENDS[name], spec, PARAMS, X).holds.values())


def test_a_sum_of_copies_that_are_regrouped_differently_has_one_symmetry():
    """The 16 neurons, as 2 x 8 and as 8 x 2, meet entry by entry: their order may be reversed.

    With numbers written in binary, one copy has the digits of the other in turn. So all four digits
    may change at once, and nothing else.
    """

    def apply(p, x):
        h = jnp.tanh(x @ p["w1"])
        regrouped = h.reshape(-1, 2, 8).swapaxes(1, 2).reshape(-1, 16)
        return (h + regrouped) @ p["w2"]

    params = {"w1": jnp.ones((5, 16)), "w2": jnp.ones((16, 3))}
    spec = discover(apply, params, jnp.ones((4, 5)))
    assert spec.group_shapes() == {"w1": (2,)}
    reversed_w1 = permute(spec, {"w1": jnp.array([1, 0])}, {**params, "w1": jnp.eye(16)[:5]})["w1"]
    np.testing.assert_array_equal(reversed_w1, jnp.eye(16)[:5, ::-1])
    assert all(verify(apply, spec, params, jnp.ones((4, 5))).holds.values())


def test_verify_says_where_a_spec_is_wrong():
    """The typo of a published spec: an axis that reads one group is said to read another."""
    wrong = PermutationSpec.from_axes(
        {"a": (None, writes("g")), "b": (None, writes("h")), "v": (reads("h"), None)}
    )
    params = {"a": PARAMS["w"], "b": PARAMS["w"][:, ::-1], "v": PARAMS["v"]}

    def apply(p, x):
        return (jnp.tanh(x @ p["a"]) * jnp.tanh(x @ p["b"])) @ p["v"]

    assert not any(verify(apply, wrong, params, X).holds.values())
    found = discover(apply, params, X)
    assert found.groups == ("a",)
    assert verify(apply, found, params, X).holds["a"]


def test_verify_is_not_fooled_by_fresh_parameters():
    """Zero biases and unit scales look symmetric."""
    wrong = PermutationSpec.from_axes({"w": (None, None), "b": (writes("g"),), "v": (None, None)})
    params = {**PARAMS, "b": jnp.zeros(6)}

    def apply(p, x):
        return jnp.tanh(x @ p["w"] + p["b"]) @ p["v"]

    assert not verify(apply, wrong, params, X).holds["g"]


def test_verify_in_float64():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), PARAMS)
        result = verify(
            through(jnp.tanh), discover(through(jnp.tanh), params, X), params, X.astype(jnp.float64)
        )
        assert result.difference["w"] < 1e-14


def test_an_unknown_primitive_pins_and_is_named():
    def apply(p, x):
        h = jnp.tanh(x @ p["w"])
        return jax.pure_callback(np.sin, h, h) @ p["v"] + jnp.tanh(x @ p["u"]) @ p["v2"]

    spec = discover(apply, {**PARAMS, "u": PARAMS["w"], "v2": PARAMS["v"]}, X)
    assert spec.groups == ("u",)
    (name, source), *_ = spec.unknown
    assert name == "pure_callback"
    assert "test_discover.py" in source
    assert "unknown primitive 'pure_callback'" in str(spec)


def test_dead_leaves_are_named():
    assert discover(through(jnp.tanh), {**PARAMS, "unused": jnp.ones(3)}, X).dead == ("unused",)


def test_one_leaf_used_twice_is_one_group():
    params = {"w": PARAMS["w"], "u": jnp.eye(6) + 0.1, "v": PARAMS["v"]}
    spec = discover(
        lambda p, x: jnp.tanh(jnp.tanh(x @ p["w"]) @ p["u"]) @ p["u"] @ p["v"], params, X
    )
    assert spec.groups == ("w",)
    assert dict(spec.leaves)["u"] == (reads("w"), writes("w"))


def test_overrides():
    network = FlaxNetwork(MLP((7, 5), 3), (4,))
    params = network.init(jax.random.key(0))
    spec = discover(
        network.apply, params, jnp.ones((2, 4)), pin=["Dense_0"], names={"Dense_1": "last"}
    )
    assert spec.shapes == (("last", (5,)),)
    with pytest.raises(
        ValueError, match=r"groups of shapes \(7,\) and \(5,\) cannot be merged as 'both'"
    ):
        discover(
            network.apply, params, jnp.ones((2, 4)), names={"Dense_0": "both", "Dense_1": "both"}
        )
    with pytest.raises(ValueError, match=r"no group 'Dense_9', only \('Dense_0', 'Dense_1'\)"):
        discover(network.apply, params, jnp.ones((2, 4)), pin=["Dense_9"])


def test_groups_of_one_name_are_one_group():
    network = FlaxNetwork(MLP((6, 6), 3), (4,))
    params = network.init(jax.random.key(0))
    spec = discover(
        network.apply, params, jnp.ones((2, 4)), names={"Dense_0": "both", "Dense_1": "both"}
    )
    assert spec.shapes == (("both", (6,)),)
    assert dict(spec.leaves)["Dense_1/kernel"] == (reads("both"), writes("both"))
    assert verify(network.apply, spec, params, jnp.ones((2, 4))).holds["both"]


def test_a_leaf_that_nothing_uses_has_no_groups():
    spec = discover(through(jnp.tanh), {**PARAMS, "unused": jnp.ones((4, 5))}, X)
    assert spec.groups == ("w",)
    assert dict(spec.leaves)["unused"] == (None, None)


@pytest.mark.parametrize(
    "act",
    [
        lambda h: jnp.stack([h, jnp.tanh(h)], axis=-1).sum(-1),
        lambda h: jnp.tile(h, (1, 2))[:, :6],
        lambda h: jnp.concatenate([h, jnp.tanh(h)], axis=-1)[:, 6:],
    ],
    ids=["stacked", "tiled", "beside a copy"],
)
def test_copies_side_by_side_keep_the_group(act):
    spec = discover(through(act), PARAMS, X)
    assert spec.shapes == (("w", (6,)),)
    assert verify(through(act), spec, PARAMS, X).holds["w"]


def test_leaves_of_one_name_are_an_error():
    with pytest.raises(ValueError, match="two leaves are named 'a/b/c'"):
        named_leaves({"a/b": {"c": 1}, "a": {"b/c": 2}})
