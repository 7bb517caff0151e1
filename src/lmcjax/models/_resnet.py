"""Residual networks, for small images and for large ones."""

from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Float, Num

from lmcjax.models._convolution import Conv


class ResidualBlock(nn.Module):
    """Convolutions `Conv_0, Conv_1, ...` and a shortcut around them: `relu(shortcut(x) +
    convolutions(x))`.

    The shortcut is the identity, or where shapes differ a 1x1 convolution `projection`.

    Attributes:
        width: channels of the inner convolutions; with a bottleneck 4 times as many leave the
            block.
        stride: of the block, taken by its first 3x3 convolution.
        norm: constructor of a linen normalisation.
        bottleneck: convolutions of 1x1, 3x3, 1x1 instead of 3x3, 3x3.
    """

    width: int
    stride: int
    norm: Callable[..., nn.Module]
    bottleneck: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "num_samples height width channels"]
    ) -> Float[Array, "num_samples h w c"]:
        plain = ((self.width, 3, self.stride), (self.width, 3, 1))
        bottleneck = ((self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1))
        y = x
        for layer, (channels, size, stride) in enumerate(bottleneck if self.bottleneck else plain):
            y = nn.relu(y) if layer > 0 else y
            y = self.norm()(Conv(channels, (size, size), stride)(y))
        if x.shape != y.shape:
            x = Conv(y.shape[-1], (1, 1), self.stride, name="projection")(x)
            x = self.norm(name="projection_norm")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A convolution `Conv_0`, stages of residual blocks `ResidualBlock_0, ...`, the mean over the
    image, `Dense_0`.

    Each stage after the first halves the image and doubles the channels.

    Source: He et al. (2016), section 4.2 (small images), table 1 (large images).

    Attributes:
        width: channels of the first convolution and of the first stage's inner convolutions.
        num_classes: width of the last layer.
        blocks_per_stage: number of residual blocks, stage by stage.
        norm: constructor of a linen normalisation; all get it.
        bottleneck: blocks of 1x1, 3x3, 1x1 convolutions, which expand the channels by 4.
        large_images: start with a 7x7 convolution of stride 2 and 3x3 max pooling of stride 2,
            instead of 3x3.
    """

    width: int
    num_classes: int
    blocks_per_stage: tuple[int, ...] = (3, 3, 3)
    norm: Callable[..., nn.Module] = nn.LayerNorm
    bottleneck: bool = False
    large_images: bool = False

    @nn.compact
    def __call__(
        self, inputs: Num[Array, "num_samples height width channels"]
    ) -> Float[Array, "num_samples classes"]:
        if (
            not self.blocks_per_stage
            or min((*self.blocks_per_stage, self.width, self.num_classes)) < 1
        ):
            raise ValueError(
                f"a ResNet has stages of blocks, channels and classes, not blocks_per_stage={self.blocks_per_stage}, "
                f"width={self.width}, {self.num_classes} classes"
            )
        if inputs.ndim != 4:
            raise ValueError(
                f"a ResNet takes images [num_samples, height, width, channels], not {inputs.shape}"
            )
        size, stride = (7, 2) if self.large_images else (3, 1)
        x = nn.relu(self.norm()(Conv(self.width, (size, size), stride)(inputs)))
        if self.large_images:
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, num_blocks in enumerate(self.blocks_per_stage):
            for block in range(num_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = ResidualBlock(self.width * 2**stage, stride, self.norm, self.bottleneck)(x)
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


def resnet20(
    width: int = 16, num_classes: int = 10, norm: Callable[..., nn.Module] = nn.LayerNorm
) -> ResNet:
    """ResNet-20 for small images: three stages of three blocks of two convolutions, the paper's for
    `width=16`.
    """
    return ResNet(width, num_classes, (3, 3, 3), norm)


def resnet50(
    width: int = 64, num_classes: int = 1000, norm: Callable[..., nn.Module] = nn.LayerNorm
) -> ResNet:
    """ResNet-50 for large images: four stages of 3, 4, 6, 3 bottleneck blocks, the paper's for
    `width=64`.
    """
    return ResNet(width, num_classes, (3, 4, 6, 3), norm, bottleneck=True, large_images=True)
