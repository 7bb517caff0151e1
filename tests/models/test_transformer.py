"""The transformer encoder: shapes, its size in the literature, and permutation symmetries."""

import jax
import jax.numpy as jnp
import pytest

from lmcjax.models import FlaxNetwork, TransformerEncoder

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGES = FlaxNetwork(TransformerEncoder(8, 2, 2, 12, 3, patch_size=2), (4, 6, 3))
TOKENS = FlaxNetwork(TransformerEncoder(8, 2, 2, 12, 3, vocabulary=10), (5,))


def inputs(network):
    if network is TOKENS:
        return jnp.arange(10).reshape(2, 5)
    return jax.random.normal(jax.random.key(1), (2, *network.input_shape))


def test_has_the_parameters_of_vit_b16():
    """Without its class token and that token's position."""
    network = FlaxNetwork(TransformerEncoder(768, 12, 12, 3072, 1000, patch_size=16), (224, 224, 3))
    params = jax.eval_shape(network.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 86_567_656 - 2 * 768


@pytest.mark.parametrize(
    ("network", "embedding", "length"),
    [(IMAGES, ("kernel", (2, 2, 3, 8)), 6), (TOKENS, ("embedding", (10, 8)), 5)],
    ids=["images", "tokens"],
)
def test_shapes(network, embedding, length):
    params = jax.eval_shape(network.init, jax.random.key(0))
    leaf, shape = embedding
    assert params["embedding"][leaf].shape == shape
    assert params["positions"].shape == (length, 8)
    assert jax.eval_shape(network.apply, params, inputs(network)).shape == (2, 3)


def test_tokens_of_any_dtype(generic_like):
    params = generic_like(jax.eval_shape(TOKENS.init, jax.random.key(0)))
    whole = jax.jit(TOKENS.apply)(params, inputs(TOKENS))
    assert jnp.array_equal(whole, jax.jit(TOKENS.apply)(params, inputs(TOKENS).astype(jnp.float32)))


def check_groups(network, verified_spec, generic_like):
    """One stream; per layer heads, channels of queries and keys, of values, and hidden neurons."""
    params = generic_like(jax.eval_shape(network.init, jax.random.key(0)))
    spec = verified_spec(network.apply, params, inputs(network))
    expected = {"embedding": (8,)}
    for root in ("EncoderLayer_0", "EncoderLayer_1"):
        expected |= {
            f"{root}/attention/query": (2,),
            f"{root}/attention/query/qk": (2, 4),
        }
        expected |= {f"{root}/attention/value": (2, 4), f"{root}/Dense_0": (12,)}
    assert dict(spec.shapes) == expected


@pytest.mark.parametrize("network", [IMAGES, TOKENS], ids=["images", "tokens"])
@pytest.mark.slow
def test_groups(network, verified_spec, generic_like):
    check_groups(network, verified_spec, generic_like)


@pytest.mark.slow
def test_groups_in_float64(x64, verified_spec, generic_like):
    check_groups(TOKENS, verified_spec, generic_like)


@pytest.mark.parametrize(
    "module",
    [
        TransformerEncoder(8, 3, 1, 4, 2),
        TransformerEncoder(8, 2, 0, 4, 2),
        TransformerEncoder(8, 2, 1, 4, 0),
    ],
    ids=["heads that do not divide the width", "no layers", "no classes"],
)
def test_sizes_that_do_not_fit(module):
    with pytest.raises(ValueError, match="a transformer has width"):
        FlaxNetwork(module, (4, 4, 3)).init(jax.random.key(0))


@pytest.mark.parametrize(
    ("vocabulary", "shape", "message"),
    [
        (None, (4, 6, 3), r"whole patches of 4x4 pixels, not \(1, 4, 6, 3\)"),
        (None, (5,), r"not \(1, 5\); for tokens, set a vocabulary"),
        (10, (4, 4, 3), r"a vocabulary of 10 asks for tokens .* not \(1, 4, 4, 3\)"),
    ],
    ids=["part of a patch", "tokens without a vocabulary", "images with a vocabulary"],
)
def test_inputs_that_do_not_fit(vocabulary, shape, message):
    network = FlaxNetwork(TransformerEncoder(8, 2, 1, 4, 2, vocabulary=vocabulary), shape)
    with pytest.raises(ValueError, match=message):
        network.init(jax.random.key(0))
