"""A network as a pure pair of functions."""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Key, PyTree


@runtime_checkable
class Network(Protocol):
    """What training asks of a network: a pure pair of functions, hashable as one."""

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters."""
        ...

    def apply(self, params: PyTree, inputs: Array) -> Array:
        """Outputs `[num_samples, ...]` for inputs `[num_samples, ...]`."""
        ...

    def __hash__(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class FlaxNetwork:
    """A Flax linen module whose variables are parameters only, as a pure init/apply pair.

    >>> import jax
    >>> from lmcjax.models import MLP
    >>> network = FlaxNetwork(MLP((32, 32), 10), input_shape=(28, 28, 1))
    >>> params = network.init(jax.random.key(0))
    >>> sorted(params)
    ['Dense_0', 'Dense_1', 'Dense_2']

    Attributes:
        module: the linen module.
        input_shape: shape of one sample.
    """

    module: nn.Module
    input_shape: tuple[int, ...]

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters, the contents of the collection `"params"`."""
        return self.module.init(key, jnp.zeros((1, *self.input_shape)))["params"]

    def apply(self, params: PyTree, inputs: ArrayLike) -> Array:
        """The module's outputs for a batch of inputs `[num_samples, *input_shape]`."""
        return self.module.apply({"params": params}, jnp.asarray(inputs))


@dataclasses.dataclass(frozen=True)
class FunctionNetwork:
    """Two functions of any library as a network: `init(key)` and `apply(params, inputs)`.

    >>> import jax
    >>> def init(key):
    ...     return {"w": jax.random.normal(key, (3, 2))}
    >>> def apply(params, inputs):
    ...     return inputs @ params["w"]
    >>> network = FunctionNetwork(init, apply)
    >>> network.apply(network.init(jax.random.key(0)), jnp.ones((5, 3))).shape
    (5, 2)
    """

    init: Callable[..., PyTree]
    apply: Callable[..., Array]
