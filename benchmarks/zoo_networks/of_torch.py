"""`torch.nn`."""

from typing import Any

import numpy as np
import torch
from torch import nn

import lmcjax
from zoo_networks import Example

CLASSES = 5


class LastStep(nn.Module):
    """A recurrent network, whose outputs at the last step are classified."""

    def __init__(self, recurrent: nn.Module, size: int):
        super().__init__()
        self.recurrent = recurrent
        self.head = nn.Linear(size, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`[batch, time, features]` to `[batch, classes]`."""
        outputs, _ = self.recurrent(inputs)
        return self.head(outputs[:, -1])


class SelfAttention(nn.Module):
    """An embedding, one attention layer, a mean, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(7, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`[batch, time, features]` to `[batch, classes]`."""
        tokens = self.embedding(inputs)
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.head(attended.mean(1))


class Encoder(nn.Module):
    """An embedding, `nn.TransformerEncoder`, a mean, a classifier."""

    def __init__(self, *, norm_first: bool):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            16, 4, dim_feedforward=24, batch_first=True, norm_first=norm_first
        )
        self.embedding = nn.Linear(7, 16)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`[batch, time, features]` to `[batch, classes]`."""
        return self.head(self.encoder(self.embedding(inputs)).mean(1))


class EncoderDecoder(nn.Module):
    """`nn.Transformer`, whose decoder reads the same sequence as its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(7, 16)
        self.transformer = nn.Transformer(16, 4, 1, 1, dim_feedforward=24, batch_first=True)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`[batch, time, features]` to `[batch, time, classes]`."""
        tokens = self.embedding(inputs)
        return self.head(self.transformer(tokens, tokens))


def of_sequence(module: nn.Module) -> Example:
    """On 6 steps of 7 features."""
    apply, params = lmcjax.from_torch(module)
    inputs = np.random.default_rng(0).normal(size=(2, 6, 7)).astype(np.float32)
    return Example(apply, params, inputs)


def group_norm() -> Any:
    """Convolutions in groups, GroupNorm."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 3),
        nn.GroupNorm(3, 12),
        nn.ReLU(),
        nn.Conv2d(12, 18, 3, groups=3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(18, CLASSES),
    )


def of_images(module: nn.Module, size: int) -> Example:
    """On images with three channels."""
    apply, params = lmcjax.from_torch(module)
    inputs = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
    return Example(apply, params, inputs)


NETWORKS = {
    "MultiheadAttention": lambda: of_sequence(SelfAttention()),
    "TransformerEncoder": lambda: of_sequence(Encoder(norm_first=False)),
    "TransformerEncoder, norm first": lambda: of_sequence(Encoder(norm_first=True)),
    "Transformer": lambda: of_sequence(EncoderDecoder()),
    "LSTM, 2 layers": lambda: of_sequence(LastStep(nn.LSTM(7, 12, 2, batch_first=True), 12)),
    "GRU, 2 directions": lambda: of_sequence(
        LastStep(nn.GRU(7, 12, bidirectional=True, batch_first=True), 24)
    ),
    "convolutions in groups, GroupNorm": lambda: of_images(group_norm(), 9),
}
