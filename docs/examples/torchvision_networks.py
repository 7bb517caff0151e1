"""Networks of torchvision for digits, as `lmcjax match --torch` takes them.

lmcjax match a.safetensors b.safetensors --torch docs.examples.torchvision_networks:resnet
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


def resnet() -> nn.Module:
    """torchvision's residual network in small: a block in each of three stages, one channel in."""
    block = torchvision.models.resnet.BasicBlock
    network = torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=10)
    network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    network.layer4 = nn.Identity()
    network.fc = nn.Linear(256, 10)
    return network


def vgg() -> nn.Module:
    """torchvision's VGG in small, without batch normalisation, for the same images."""
    features = torchvision.models.vgg.make_layers([16, "M", 32, 32, "M", 64, 64])
    features[0] = nn.Conv2d(1, 16, 3, padding=1)
    network = torchvision.models.VGG(features, num_classes=10)
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, 10)
    )
    return network
