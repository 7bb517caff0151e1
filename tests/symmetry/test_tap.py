"""Taps against what Flax itself captures, and against networks run by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import FlaxNetwork, PermutationSpec, discover, mlp_spec, tap
from lmcjax.models import MLP
from lmcjax.symmetry import reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGES = jax.random.normal(jax.random.key(1), (2, 9, 8, 3))
SEQUENCES = jax.random.normal(jax.random.key(2), (2, 5, 4))
TOKENS = jnp.arange(10).reshape(2, 5)


def tapped(module, x):
    params = module.init(jax.random.key(0), x)["params"]

    def apply(params, x):
        return module.apply({"params": params}, x)

    spec = discover(apply, params, x)
    return params, spec, jax.jit(lambda p, x: tap(apply, spec, p, x))(params, x)


def captured(module, params, x):
    """The outputs of all submodules by path, as Flax captures them."""
    _, state = module.apply(
        {"params": params}, x, capture_intermediates=True, mutable=["intermediates"]
    )
    leaves, _ = jax.tree_util.tree_flatten_with_path(state["intermediates"])
    return {jax.tree_util.keystr(p[:-2], simple=True, separator="/"): leaf for p, leaf in leaves}


def test_mlp_by_hand():
    network = FlaxNetwork(MLP((7, 5), 3), (4,))
    params = network.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, 4))
    taps = tap(network.apply, mlp_spec(2), params, x)
    hidden = jnp.maximum(x @ params["Dense_0"]["kernel"], 0)
    assert {name: value.shape for name, value in taps.inputs.items()} == {
        "Dense_0/kernel": (6, 4),
        "Dense_1/kernel": (6, 7),
        "Dense_2/kernel": (6, 5),
    }
    np.testing.assert_array_equal(taps.inputs["Dense_0/kernel"], x)
    np.testing.assert_allclose(
        taps.reads["Dense_0"]["Dense_1/kernel"], hidden, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        taps.outputs["Dense_1"]["Dense_1/kernel"],
        hidden @ params["Dense_1"]["kernel"],
        rtol=1e-5,
        atol=1e-6,
    )


class Convolutional(nn.Module):
    """Strides, dilation, padding, feature groups, a stretched image, a flatten."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 2), use_bias=False, padding="VALID")(x))
        x = nn.relu(nn.Conv(8, (3, 3), strides=(2, 1), use_bias=False)(x))
        x = nn.relu(nn.Conv(8, (3, 3), kernel_dilation=2, use_bias=False, feature_group_count=4)(x))
        x = nn.relu(nn.ConvTranspose(5, (2, 2), strides=(2, 2), use_bias=False)(x))
        return nn.Dense(3, use_bias=False)(x.reshape(x.shape[0], -1))


def test_convolutions_see_patches():
    """`inputs @ W` is what Flax's convolutions put out."""
    module = Convolutional()
    params, spec, taps = tapped(module, IMAGES)
    outputs = captured(module, params, IMAGES)
    assert len(spec.kernels) == 5
    for kernel in spec.kernels:
        leaf = params[kernel.leaf.split("/")[0]]["kernel"]
        matrix = np.asarray(leaf).reshape(-1, leaf.shape[-1])
        seen = np.asarray(taps.inputs[kernel.name])
        if kernel.feature_groups == 1:
            found = seen @ matrix
        else:
            blocks = []
            columns = np.split(matrix, kernel.feature_groups, axis=1)
            for block_inputs, block_columns in zip(seen, columns, strict=True):
                blocks.append(block_inputs @ block_columns)
            found = np.concatenate(blocks, axis=1)
        expected = np.asarray(outputs[kernel.leaf.split("/")[0]]).reshape(found.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    written = taps.outputs["Conv_0"]["Conv_0/kernel"]
    np.testing.assert_allclose(written, outputs["Conv_0"].reshape(-1, 6), rtol=1e-4, atol=1e-5)


def test_a_flatten_is_read_channel_by_channel():
    class Flat(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.tanh(nn.Conv(6, (3, 3), use_bias=False)(x))
            return nn.Dense(3)(x.reshape(x.shape[0], -1))

    module = Flat()
    params, _, taps = tapped(module, IMAGES)
    hidden = np.tanh(captured(module, params, IMAGES)["Conv_0"])
    np.testing.assert_allclose(
        taps.reads["Conv_0"]["Dense_0/kernel"], hidden.reshape(-1, 6), rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_attention_and_embedding():
    class Attention(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(10, 8)(tokens)
            x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
            return nn.Dense(3)(x)

    module = Attention()
    params, _, taps = tapped(module, TOKENS)
    outputs = captured(module, params, TOKENS)
    attention = "MultiHeadDotProductAttention_0"
    np.testing.assert_array_equal(taps.inputs["Embed_0/embedding"], np.eye(10))
    np.testing.assert_array_equal(
        taps.outputs["Embed_0"]["Embed_0/embedding"], outputs["Embed_0"].reshape(-1, 8)
    )
    normed = outputs["LayerNorm_0"].reshape(-1, 8)
    query = outputs[f"{attention}/query"]
    np.testing.assert_allclose(
        taps.reads["Embed_0"][f"{attention}/query/kernel"], normed, rtol=1e-5, atol=1e-6
    )
    channels = taps.outputs[f"{attention}/query/qk"][f"{attention}/query/kernel"]
    by_head = jnp.moveaxis(query, 2, 0).reshape(2, -1, 4)
    np.testing.assert_allclose(channels, by_head, rtol=1e-4, atol=1e-5)
    heads = taps.outputs[f"{attention}/query"][f"{attention}/query/kernel"]
    np.testing.assert_allclose(heads, query.swapaxes(-1, -2).reshape(-1, 2), rtol=1e-4, atol=1e-5)
    written = taps.outputs["Embed_0"][f"{attention}/out/kernel"]
    np.testing.assert_allclose(
        written, outputs[f"{attention}/out"].reshape(-1, 8), rtol=1e-4, atol=1e-5
    )


def test_steps_in_time_are_samples():
    """A recurrent kernel inside `scan` sees every state but the last."""
    params = {
        "w": jax.random.normal(jax.random.key(1), (4, 6)),
        "u": jnp.eye(6) / 2,
        "v": jnp.ones((6, 2)),
    }

    def apply(p, x):
        def step(h, x_t):
            h = jnp.tanh(x_t @ p["w"] + h @ p["u"])
            return h, h

        h, _ = jax.lax.scan(step, jnp.zeros((x.shape[0], 6)), x.swapaxes(0, 1))
        return h @ p["v"]

    states = [np.zeros((2, 6))]
    for t in range(5):
        from_inputs = np.asarray(SEQUENCES[:, t] @ params["w"])
        states.append(np.tanh(from_inputs + states[-1] @ np.asarray(params["u"])))
    taps = tap(apply, discover(apply, params, SEQUENCES), params, SEQUENCES)
    np.testing.assert_allclose(taps.inputs["u"], np.concatenate(states[:-1]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(taps.reads["w"]["v"], states[-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(taps.inputs["w"], SEQUENCES.swapaxes(0, 1).reshape(-1, 4))


def test_stacked_layers_are_a_batch_axis():
    params = {
        "w": jax.random.normal(jax.random.key(1), (3, 4, 6)),
        "v": jax.random.normal(jax.random.key(2), (3, 6, 4)),
    }

    def layer(x, p):
        return jnp.tanh(x @ p["w"]) @ p["v"], None

    x = SEQUENCES[0]
    spec = discover(lambda p, x: jax.lax.scan(layer, x, p)[0], params, x)
    taps = tap(lambda p, x: jax.lax.scan(layer, x, p)[0], spec, params, x)
    for i in range(3):
        np.testing.assert_allclose(taps.inputs["w"][i], x, rtol=1e-5, atol=1e-6)
        hidden = jnp.tanh(x @ params["w"][i])
        np.testing.assert_allclose(taps.reads["w"]["v"][i], hidden, rtol=1e-5, atol=1e-6)
        x = hidden @ params["v"][i]


def test_shared_weights_pool_their_samples():
    params = {"w": jnp.eye(4) / 2, "v": jnp.ones((4, 2))}
    x = SEQUENCES[0]

    def apply(p, x):
        return jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"]) @ p["v"]

    taps = tap(apply, discover(apply, params, x), params, x)
    np.testing.assert_allclose(taps.inputs["w"], jnp.concatenate([x, jnp.tanh(x / 2)]), rtol=1e-6)


def test_gradients_pass_through():
    network = FlaxNetwork(MLP((7,), 3), (4,))
    params = network.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, 4))

    def size(params):
        taps = tap(network.apply, mlp_spec(1), params, x)
        return (taps.reads["Dense_0"]["Dense_1/kernel"] ** 2).sum()

    def size_by_hand(params):
        hidden = nn.relu(x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"])
        return (hidden**2).sum()

    found = jax.tree.leaves(jax.grad(size)(params))
    expected = jax.tree.leaves(jax.grad(size_by_hand)(params))
    for found_leaf, expected_leaf in zip(found, expected, strict=True):
        np.testing.assert_allclose(found_leaf, expected_leaf, rtol=1e-5, atol=1e-6)


def test_a_spec_that_misreads_a_kernel_is_an_error():
    params = {"w": jnp.ones((4, 6)), "v": jnp.ones((2, 6))}
    spec = PermutationSpec.from_axes(
        {"w": (None, writes("g")), "v": (reads("g"), None)}, inputs={"v": (0,)}
    )
    right = PermutationSpec.from_axes(
        {"w": (None, writes("g")), "v": (None, reads("g"))}, inputs={"v": (1,)}
    )

    def apply(p, x):
        return jnp.tanh(x @ p["w"]) @ p["v"].T

    assert tap(apply, right, params, SEQUENCES[0]).inputs["v"].shape == (5, 6)
    with pytest.raises(ValueError, match=r"group 'g' has|axis 0 of leaf 'v'"):
        tap(apply, spec, params, SEQUENCES[0])
    message = r"the spec describes.*inputs=\(0,\).*the program has.*inputs=\(1,\)"
    square = {"w": jnp.ones((4, 6)), "v": jnp.ones((6, 6))}
    with pytest.raises(ValueError, match=message):
        tap(apply, spec, square, SEQUENCES[0])
