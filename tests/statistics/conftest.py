"""Networks of several kinds, whose moments are measured."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from lmcjax import PermutationSpec, discover


class Attention(nn.Module):
    """Embedding, heads, channels that nobody reads, a stream with several readers."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(10, 8)(tokens)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        return nn.Dense(3)(x + nn.Dense(8)(nn.gelu(nn.Dense(12)(x))))


class Convolutional(nn.Module):
    """Strides and a flatten, and a concatenation."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = jnp.concatenate([x, nn.relu(nn.Conv(5, (3, 3))(x))], axis=-1)
        x = nn.relu(nn.Conv(6, (2, 2), strides=(2, 2))(x))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return x + nn.Dense(8)(nn.relu(nn.Dense(6)(x))), None

        layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(3)(layers()(nn.Dense(8)(x), None)[0])


CASES = {
    "attention": (Attention(), jax.random.randint(jax.random.key(0), (7, 5), 0, 10)),
    "convolutional": (Convolutional(), jax.random.normal(jax.random.key(1), (7, 6, 6, 2))),
    "stack": (Stack(), jax.random.normal(jax.random.key(2), (7, 4))),
}


class MeasuredPair(NamedTuple):
    """Two networks of one kind, and inputs."""

    apply: Callable[[Any, Any], Any]
    spec: PermutationSpec
    params_a: Any
    params_b: Any
    inputs: Any


@pytest.fixture(scope="session")
def measured_pair() -> Callable[[str], MeasuredPair]:
    """`measured_pair(name)`: `"attention"`, `"convolutional"` or `"stack"`."""

    def build(name: str) -> MeasuredPair:
        module, inputs = CASES[name]

        def apply(params, x):
            return module.apply({"params": params}, x)

        init = jax.jit(module.init)
        params_a = init(jax.random.key(3), inputs)["params"]
        params_b = init(jax.random.key(4), inputs)["params"]
        spec = discover(apply, params_a, inputs)
        return MeasuredPair(apply, spec, params_a, params_b, inputs)

    return build
