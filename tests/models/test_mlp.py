"""The reference MLP: its function and its initial bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax.models import MLP, FlaxNetwork, lecun_normal_per_neuron


@pytest.mark.slow
def test_is_the_function_that_the_paper_writes():
    network = FlaxNetwork(MLP((7, 5), 3), (2, 2, 1))
    params = jax.tree.map(lambda leaf: leaf + 0.1, network.init(jax.random.key(0)))
    inputs = np.random.default_rng(0).normal(size=(4, 2, 2, 1)).astype(np.float32)
    phi = inputs.reshape(4, 4)
    for layer in range(3):
        phi = phi @ np.asarray(params[f"Dense_{layer}"]["kernel"]) + np.asarray(
            params[f"Dense_{layer}"]["bias"]
        )
        phi = np.maximum(phi, 0) if layer < 2 else phi
    np.testing.assert_allclose(network.apply(params, inputs), phi, rtol=1e-5, atol=1e-6)


def test_a_wider_layer_contains_a_narrower_one():
    key = jax.random.key(3)
    small, large = (lecun_normal_per_neuron(key, shape) for shape in ((20, 8), (50, 33)))
    np.testing.assert_allclose(small * np.sqrt(20), large[:20, :8] * np.sqrt(50), rtol=1e-6)
    same_inputs = lecun_normal_per_neuron(key, (20, 33))
    np.testing.assert_array_equal(small, same_inputs[:, :8])


def test_draws_have_the_distribution_of_flax_default():
    ours = np.asarray(lecun_normal_per_neuron(jax.random.key(0), (400, 300)))
    flax_default = np.asarray(jax.nn.initializers.lecun_normal()(jax.random.key(1), (400, 300)))
    assert abs(ours.mean()) < 4 * ours.std() / np.sqrt(ours.size)
    np.testing.assert_allclose(ours.std(), flax_default.std(), rtol=0.01)
    np.testing.assert_allclose(np.abs(ours).max(), np.abs(flax_default).max(), rtol=0.01)


@pytest.mark.slow
def test_initial_bits_depend_on_key_alone():
    network = FlaxNetwork(MLP((16,), 3), (5,))
    keys = jax.random.split(jax.random.key(0), 48)
    alone, among = network.init(keys[7]), jax.vmap(network.init)(keys)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[7]), alone, among)


def test_parameters_are_float64_where_x64_is_on():
    with jax.enable_x64(True):
        params = FlaxNetwork(MLP((4,), 2), (3,)).init(jax.random.key(0))
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float64")}


@pytest.mark.parametrize("module", [MLP((), 3), MLP((4, 0), 3), MLP((4,), 0)])
def test_layers_without_neurons(module):
    with pytest.raises(ValueError, match="an MLP has hidden layers and classes"):
        FlaxNetwork(module, (3,)).init(jax.random.key(0))
