"""Flaxmodels."""

import functools
from typing import Any

import flaxmodels
import jax
import jax.numpy as jnp
import numpy as np

from zoo_networks import Example


def build(name: str, size: int, **options: Any) -> Example:
    """A model by its name, on images."""
    precision = str(jnp.result_type(float))  # in which it computes, whatever its parameters are
    model = getattr(flaxmodels, name)(
        output="logits", pretrained=None, num_classes=5, normalize=False, dtype=precision, **options
    )
    inputs = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    init = functools.partial(model.init, train=False)
    params = jax.eval_shape(init, jax.random.key(0), inputs)
    return Example(functools.partial(model.apply, train=False), params, inputs)


NETWORKS = {
    "ResNet18": functools.partial(build, "ResNet18", 32),
    "VGG16": functools.partial(build, "VGG16", 32, include_head=False),
}
