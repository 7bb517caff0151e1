"""Flax: Linen and NNX."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import lmcjax
from zoo_networks import Example


class Attention(nn.Module):
    """`MultiHeadDotProductAttention` on a residual stream."""

    @nn.compact
    def __call__(self, inputs: Any) -> Any:
        """`[batch, time, features]` to `[batch, classes]`."""
        tokens = nn.Dense(16)(inputs)
        normed = nn.LayerNorm()(tokens)
        tokens = tokens + nn.MultiHeadDotProductAttention(4, qkv_features=16)(normed)
        return nn.Dense(5)(tokens.mean(1))


class Recurrent(nn.Module):
    """A cell of Linen over a sequence."""

    cell: Any

    @nn.compact
    def __call__(self, inputs: Any) -> Any:
        """`[batch, time, features]` to `[batch, classes]`."""
        return nn.Dense(5)(nn.RNN(self.cell)(inputs)[:, -1])


class Normalised(nn.Module):
    """Dense layers in weight normalisation: their kernels are computed."""

    @nn.compact
    def __call__(self, inputs: Any) -> Any:
        """`[batch, features]` to `[batch, classes]`."""
        hidden = nn.relu(nn.WeightNorm(nn.Dense(12))(inputs))
        hidden = nn.relu(nn.WeightNorm(nn.Dense(10))(hidden))
        return nn.Dense(5)(hidden)


class LoRA(nnx.Module):
    """Dense layers of NNX with adapters of low rank."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.LoRALinear(7, 12, lora_rank=2, rngs=rngs)
        self.second = nnx.Linear(12, 5, rngs=rngs)

    def __call__(self, inputs: Any) -> Any:
        """`[batch, features]` to `[batch, classes]`."""
        return self.second(nnx.relu(self.first(inputs)))


def precision() -> Any:
    """Of the states of recurrent cells, which do not follow their inputs."""
    return jnp.result_type(float)


def of_linen(module: nn.Module, shape: tuple[int, ...]) -> Example:
    """On inputs of a shape, the batch left out."""
    inputs = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), inputs)
    return Example(module.apply, params, inputs)


def of_nnx(module: nnx.Module, shape: tuple[int, ...]) -> Example:
    """On inputs of a shape, the batch left out."""
    inputs = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    apply, params = lmcjax.from_nnx(module)
    return Example(apply, params, inputs)


NETWORKS = {
    "MultiHeadDotProductAttention": lambda: of_linen(Attention(), (6, 7)),
    "OptimizedLSTMCell": lambda: of_linen(
        Recurrent(nn.OptimizedLSTMCell(12, param_dtype=precision())), (6, 7)
    ),
    "GRUCell": lambda: of_linen(Recurrent(nn.GRUCell(12, param_dtype=precision())), (6, 7)),
    "ConvLSTMCell": lambda: of_linen(
        Recurrent(nn.ConvLSTMCell(8, (3, 3), param_dtype=precision())), (4, 6, 6, 2)
    ),
    "WeightNorm": lambda: of_linen(Normalised(), (7,)),
    "nnx.LoRALinear": lambda: of_nnx(LoRA(nnx.Rngs(0)), (7,)),
}
