"""Haiku."""

import functools
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

import lmcjax
from zoo_networks import Example


def of_function(
    function: Callable[..., Any], shape: tuple[int, ...], *, has_mode: bool = False
) -> Example:
    """On inputs of a shape, the batch left out; `has_mode`: it takes `is_training`."""
    transformed = hk.transform_with_state(function)
    inputs = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    training = {"is_training": True} if has_mode else {}
    init = functools.partial(transformed.init, **training)
    params, state = jax.eval_shape(init, jax.random.key(0), inputs)
    options = {"is_training": False} if has_mode else {}
    if state:
        apply, leaves = lmcjax.from_haiku(transformed, params, state, **options)
    else:
        apply, leaves = lmcjax.from_haiku(hk.without_state(transformed), params, **options)
    return Example(apply, leaves, inputs)


def attention(inputs: Any) -> Any:
    """`hk.MultiHeadAttention` on a residual stream."""
    tokens = hk.Linear(16)(inputs)
    layer = hk.MultiHeadAttention(4, 4, w_init=hk.initializers.VarianceScaling(), model_size=16)
    tokens = tokens + layer(tokens, tokens, tokens)
    return hk.Linear(5)(tokens.mean(1))


def lstm(inputs: Any) -> Any:
    """Two layers of `hk.LSTM`."""
    core = hk.DeepRNN([hk.LSTM(12), hk.LSTM(10)])
    outputs, _ = hk.dynamic_unroll(core, jnp.swapaxes(inputs, 0, 1), core.initial_state(2))
    return hk.Linear(5)(outputs[-1])


def resnet18(inputs: Any, is_training: bool) -> Any:
    """`hk.nets.ResNet18`."""
    return hk.nets.ResNet18(5)(inputs, is_training)


def mobilenet(inputs: Any, is_training: bool) -> Any:
    """`hk.nets.MobileNetV1`."""
    return hk.nets.MobileNetV1(num_classes=5)(inputs, is_training)


NETWORKS = {
    "nets.MLP": lambda: of_function(lambda x: hk.nets.MLP([12, 10, 5])(x), (7,)),
    "MultiHeadAttention": lambda: of_function(attention, (6, 7)),
    "LSTM, 2 layers": lambda: of_function(lstm, (6, 7)),
    "nets.ResNet18": lambda: of_function(resnet18, (32, 32, 3), has_mode=True),
    "nets.MobileNetV1": lambda: of_function(mobilenet, (32, 32, 3), has_mode=True),
}
