"""`torchvision.models`."""

import functools
from typing import Any

# It imports torchvision as it can be imported, whatever PyTorch it was built for.
from docs.examples.torchvision_networks import torchvision

from zoo_networks import Example
from zoo_networks.of_torch import of_images

CLASSES = 5


def small_vit() -> Any:
    """The vision transformer that `vit_b_16` is, with 2 layers."""
    return torchvision.models.VisionTransformer(
        image_size=32,
        patch_size=16,
        num_layers=2,
        num_heads=4,
        hidden_dim=32,
        mlp_dim=48,
        num_classes=CLASSES,
    )


def small_swin() -> Any:
    """The Swin transformer that `swin_t` is, with 2 stages."""
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4],
        num_classes=CLASSES,
    )


def of_zoo(name: str, size: int = 64, **options: Any) -> Example:
    """A model by its name in torchvision."""
    return of_images(
        getattr(torchvision.models, name)(num_classes=CLASSES, weights=None, **options), size
    )


NETWORKS = {
    "resnet18": functools.partial(of_zoo, "resnet18"),
    "resnext50_32x4d": functools.partial(of_zoo, "resnext50_32x4d"),
    "vgg11": functools.partial(of_zoo, "vgg11"),
    "mobilenet_v2": functools.partial(of_zoo, "mobilenet_v2"),
    "mobilenet_v3_small": functools.partial(of_zoo, "mobilenet_v3_small"),
    "efficientnet_b0": functools.partial(of_zoo, "efficientnet_b0"),
    "densenet121": functools.partial(of_zoo, "densenet121"),
    "squeezenet1_1": functools.partial(of_zoo, "squeezenet1_1"),
    "regnet_y_400mf": functools.partial(of_zoo, "regnet_y_400mf"),
    "convnext_tiny": functools.partial(of_zoo, "convnext_tiny"),
    "vit_b_16, small": lambda: of_images(small_vit(), 32),
    "swin_t, small": lambda: of_images(small_swin(), 32),
}
