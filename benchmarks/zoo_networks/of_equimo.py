"""Equimo: vision networks in Equinox."""

import functools
from typing import Any

import equimo.models
import jax

from zoo_networks import Example
from zoo_networks.of_equinox import of_module


def build(name: str, **options: Any) -> Example:
    """A model by the name of its class, on images `[3, 32, 32]`."""
    kind = getattr(equimo.models, name)
    model = kind(num_classes=5, key=jax.random.key(0), **options)
    return of_module(model, (3, 32, 32))


NETWORKS = {
    "VisionTransformer": functools.partial(
        build,
        "VisionTransformer",
        img_size=32,
        in_channels=3,
        dim=16,
        patch_size=8,
        num_heads=4,
        depths=[2],
        mlp_ratio=1.5,
    ),
    "ConvNeXt": functools.partial(
        build, "ConvNeXt", in_channels=3, depths=[1, 1, 1, 1], dims=[8, 12, 16, 20]
    ),
}
