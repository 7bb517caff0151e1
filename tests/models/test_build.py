"""Networks by name, and those of a user's own module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax.models import MLP, MODELS, VGG, FlaxNetwork, build_network, takes_width

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODULE = """
import jax
import jax.numpy as jnp
from lmcjax import MLP, FlaxNetwork

def init(key):
    return {"w": jax.random.normal(key, (64, 10))}

def apply(params, inputs):
    return inputs.reshape(len(inputs), 64) @ params["w"]

def build(input_shape, num_classes, width, num_hidden_layers):
    return FlaxNetwork(MLP((width,) * num_hidden_layers, num_classes), input_shape)

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module in the current folder, which is not on the path yet."""
    name = f"users_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.setattr("sys.path", [])  # restored afterwards; the current folder is added
    monkeypatch.chdir(tmp_path)
    return name


def build(model, input_shape=(8, 8, 1), width=8):
    return build_network(model, input_shape, 10, width=width, num_hidden_layers=2)


@pytest.mark.parametrize("model", MODELS)
def test_logits_of_every_model(model):
    network = build(model)
    params = jax.eval_shape(network.init, jax.random.key(0))
    inputs = jax.ShapeDtypeStruct((3, 8, 8, 1), jnp.float32)
    assert jax.eval_shape(network.apply, params, inputs).shape == (3, 10)
    assert takes_width(model)


def test_an_mlp_takes_samples_of_any_shape_as_they_are():
    assert build("mlp", (5,)) == FlaxNetwork(MLP((8, 8), 10), (5,))


def test_images_are_seen_between_minus_one_and_one():
    inputs = jax.random.uniform(jax.random.key(1), (2, 8, 8, 1))
    module = VGG(((4,), (8,), (16,)), (32,), 10)
    params = module.init(jax.random.key(0), inputs)["params"]
    expected = module.apply({"params": params}, 2 * inputs - 1)
    np.testing.assert_allclose(build("vgg", width=4).apply(params, inputs), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("input_shape", "width", "patch_size", "num_heads"),
    [((28, 28, 1), 8, 7, 4), ((8, 8, 1), 6, 4, 2), ((12, 8, 3), 5, 4, 1), ((11, 13, 1), 8, 1, 4)],
)
def test_patches_and_heads_divide_what_they_cut(input_shape, width, patch_size, num_heads):
    transformer = build("transformer", input_shape, width).network.module
    assert transformer.patch_size == patch_size
    assert transformer.num_heads == num_heads


def test_a_users_function_is_a_network(module):
    network = build(f"{module}:apply")
    params = network.init(jax.random.key(0))
    inputs = jnp.ones((3, 8, 8))
    np.testing.assert_allclose(network.apply(params, inputs)[0], params["w"].sum(0), rtol=1e-5)
    assert not takes_width(f"{module}:apply")


def test_a_users_function_builds_networks(module):
    assert build(f"{module}:build") == FlaxNetwork(MLP((8, 8), 10), (8, 8, 1))
    assert takes_width(f"{module}:build")


@pytest.mark.parametrize(
    ("model", "input_shape", "message"),
    [
        ("lenet", (8, 8, 1), "model 'lenet' is not one of"),
        ("vgg", (64,), r"model 'vgg' takes images .*, not samples of shape \(64,\)"),
        ("no_such_module:apply", (8, 8, 1), "cannot import 'no_such_module'"),
        ("math:nothing", (8, 8, 1), "module 'math' has no function 'nothing'"),
        ("math:pi", (8, 8, 1), "module 'math' has no function 'pi'"),
        ("math:sqrt", (8, 8, 1), "module 'math' has no function 'init'"),
    ],
)
def test_what_cannot_be_built(model, input_shape, message):
    with pytest.raises(ValueError, match=message):
        build(model, input_shape)
