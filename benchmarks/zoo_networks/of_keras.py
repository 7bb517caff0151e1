"""Keras 3, on JAX."""

import functools
import os
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np

from zoo_networks import Example

# Otherwise layers would compute in 32 bits what they are given in 64.
keras.config.set_floatx("float64" if jax.config.jax_enable_x64 else "float32")


def of_model(model: Any, shape: tuple[int, ...]) -> Example:
    """On inputs of a shape, the batch left out; statistics are among the parameters."""
    names = [variable.path for variable in model.variables]
    values = {name: variable.value for name, variable in zip(names, model.variables, strict=True)}
    trainable = [variable.path for variable in model.trainable_variables]
    others = [variable.path for variable in model.non_trainable_variables]

    def apply(params: Any, inputs: Any) -> Any:
        outputs, _ = model.stateless_call(
            [params[name] for name in trainable],
            [params[name] for name in others],
            inputs,
            training=False,
        )
        return outputs

    inputs = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    return Example(apply, values, inputs)


def of_application(name: str, **options: Any) -> Example:
    """A model by its name in `keras.applications`."""
    make = getattr(keras.applications, name)
    model = make(
        weights=None,
        input_shape=(32, 32, 3),
        classes=5,
        classifier_activation=None,  # logits: probabilities of fresh networks may be 0 and 1
        **options,
    )
    return of_model(model, (32, 32, 3))


def attention() -> Example:
    """`keras.layers.MultiHeadAttention` on a residual stream."""
    keras.utils.clear_session()  # names count from 0
    inputs = keras.Input((6, 7))
    tokens = keras.layers.Dense(16)(inputs)
    normed = keras.layers.LayerNormalization()(tokens)
    tokens = tokens + keras.layers.MultiHeadAttention(4, 4)(normed, normed)
    outputs = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling1D()(tokens))
    return of_model(keras.Model(inputs, outputs), (6, 7))


def grouped_queries() -> Example:
    """`keras.layers.GroupQueryAttention` on a residual stream."""
    keras.utils.clear_session()  # names count from 0
    inputs = keras.Input((6, 7))
    tokens = keras.layers.Dense(16)(inputs)
    tokens = tokens + keras.layers.GroupQueryAttention(4, 4, 2)(tokens, tokens)
    outputs = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling1D()(tokens))
    return of_model(keras.Model(inputs, outputs), (6, 7))


def lstm() -> Example:
    """Two layers of `keras.layers.LSTM`."""
    keras.utils.clear_session()  # names count from 0
    inputs = keras.Input((6, 7))
    hidden = keras.layers.LSTM(12, return_sequences=True)(inputs)
    outputs = keras.layers.Dense(5)(keras.layers.LSTM(10)(hidden))
    return of_model(keras.Model(inputs, outputs), (6, 7))


NETWORKS = {
    "MobileNetV2": functools.partial(of_application, "MobileNetV2", alpha=0.35),
    "ResNet50V2": functools.partial(of_application, "ResNet50V2"),
    "DenseNet121": functools.partial(of_application, "DenseNet121"),
    "MultiHeadAttention": attention,
    "GroupQueryAttention": grouped_queries,
    "LSTM, 2 layers": lstm,
}
