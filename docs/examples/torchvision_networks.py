"""Networks of torchvision for digits, as `lmcjax match --torch` takes them.

lmcjax match a.safetensors b.safetensors --torch docs.examples.torchvision_networks:resnet18
"""

import torch
from torch import nn

try:
    import torchvision
except RuntimeError:
    # A torchvision that is built for another build of PyTorch cannot load its own operations.
    # Classifiers need none of them, but the import asks for the declaration of these.
    _LIBRARY = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _LIBRARY.define(f"{_name}(Tensor boxes, Tensor scores, float limit) -> Tensor")
    import torchvision


def resnet18() -> nn.Module:
    """torchvision's ResNet-18 for images of one channel and ten classes."""
    network = torchvision.models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return network


def vgg() -> nn.Module:
    """torchvision's VGG in small, without batch normalisation, for the same images."""
    features = torchvision.models.vgg.make_layers([32, "M", 64, 64, "M", 128, 128])
    features[0] = nn.Conv2d(1, 32, 3, padding=1)
    network = torchvision.models.VGG(features, num_classes=10)
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier = nn.Sequential(
        nn.Linear(128, 256), nn.ReLU(), nn.Dropout(), nn.Linear(256, 10)
    )
    return network
