"""Networks as pure pairs of functions, against the module and the functions they are made of."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax.models import FlaxNetwork, FunctionNetwork, Network


def init(key):
    return {"w": jax.random.normal(key, (3, 2))}


def apply(params, inputs):
    return inputs @ params["w"]


def test_a_module_of_flax():
    """Its parameters without the collection's name; inputs may be NumPy's."""
    module = nn.Dense(2)
    network = FlaxNetwork(module, (3,))
    inputs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    variables = module.init(jax.random.key(4), jnp.zeros((1, 3)))
    params = network.init(jax.random.key(4))
    np.testing.assert_array_equal(params["kernel"], variables["params"]["kernel"])
    np.testing.assert_array_equal(network.apply(params, inputs), module.apply(variables, inputs))


def test_two_functions():
    network = FunctionNetwork(init, apply)
    params = network.init(jax.random.key(0))
    inputs = jnp.ones((5, 3))
    np.testing.assert_array_equal(network.apply(params, inputs), inputs @ params["w"])


@pytest.mark.parametrize(
    ("make", "make_other"),
    [
        (lambda: FlaxNetwork(nn.Dense(2), (3,)), lambda: FlaxNetwork(nn.Dense(2), (4,))),
        (lambda: FunctionNetwork(init, apply), lambda: FunctionNetwork(init, lambda p, x: x)),
    ],
    ids=["module", "functions"],
)
def test_equal_networks_are_one_program(make, make_other):
    """As a static argument: the same hash for equal ones, and no two for one program."""
    num_traces = 0

    def traced(network: Network, x):
        nonlocal num_traces
        num_traces += 1
        return x

    compiled = jax.jit(traced, static_argnums=0)
    assert isinstance(make(), Network)
    compiled(make(), 1.0)
    compiled(make(), 2.0)
    assert num_traces == 1
    compiled(make_other(), 1.0)
    assert num_traces == 2
