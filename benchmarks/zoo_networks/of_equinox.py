"""Equinox."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import lmcjax
from zoo_networks import Example


class Attention(eqx.Module):
    """`eqx.nn.MultiheadAttention` on a residual stream, with rotary embeddings or without."""

    embedding: eqx.nn.Linear
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear
    rotary: eqx.nn.RotaryPositionalEmbedding | None

    def __init__(self, *, rotary: bool):
        keys = jax.random.split(jax.random.key(0), 3)
        self.embedding = eqx.nn.Linear(7, 16, key=keys[0])
        self.attention = eqx.nn.MultiheadAttention(4, 16, key=keys[1])
        self.norm = eqx.nn.LayerNorm(16)
        self.head = eqx.nn.Linear(16, 5, key=keys[2])
        self.rotary = eqx.nn.RotaryPositionalEmbedding(4) if rotary else None

    def __call__(self, inputs: Array) -> Array:
        """`[time, features]` to `[classes]`."""
        tokens = jax.vmap(self.embedding)(inputs)
        normed = jax.vmap(self.norm)(tokens)
        process = None
        if self.rotary is not None:
            turn = jax.vmap(self.rotary, in_axes=1, out_axes=1)

            def process(query: Array, key: Array, value: Array) -> tuple[Array, Array, Array]:
                return turn(query), turn(key), value

        tokens = tokens + self.attention(normed, normed, normed, process_heads=process)
        return self.head(tokens.mean(0))


class Recurrent(eqx.Module):
    """`eqx.nn.GRUCell` over a sequence."""

    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __init__(self) -> None:
        keys = jax.random.split(jax.random.key(0))
        self.cell = eqx.nn.GRUCell(7, 12, key=keys[0])
        self.head = eqx.nn.Linear(12, 5, key=keys[1])

    def __call__(self, inputs: Array) -> Array:
        """`[time, features]` to `[classes]`."""

        def step(state: Array, features: Array) -> tuple[Array, None]:
            return self.cell(features, state), None

        state, _ = jax.lax.scan(step, jnp.zeros(12), inputs)
        return self.head(state)


def of_module(module: eqx.Module, shape: tuple[int, ...]) -> Example:
    """On inputs of a shape, the batch left out."""
    apply, params = lmcjax.from_equinox(module)
    inputs = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    return Example(apply, params, inputs)


NETWORKS = {
    "MLP": lambda: of_module(eqx.nn.MLP(7, 5, 12, 2, key=jax.random.key(0)), (7,)),
    "MultiheadAttention": lambda: of_module(Attention(rotary=False), (6, 7)),
    "MultiheadAttention, rotary": lambda: of_module(Attention(rotary=True), (6, 7)),
    "GRUCell": lambda: of_module(Recurrent(), (6, 7)),
}
