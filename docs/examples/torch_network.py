"""A PyTorch network for digits, as `lmcjax match --torch` takes it.

lmcjax match a.safetensors b.safetensors --torch docs.examples.torch_network:build
"""

from torch import nn


def build() -> nn.Module:
    """A small convolutional network with batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 10),
    )
