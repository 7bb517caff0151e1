"""Residual networks, for small images and for large ones."""

from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Float, Num

from lmcjax.models._convolution import Conv


class ResidualBlock(nn.Module):
    """Convolutions and a shortcut around them: `relu(shortcut(x) + convolutions(x))`.

    The convolutions are named `Conv_0, Conv_1, ...`. The shortcut is the identity, or where shapes
    differ a 1x1 convolution `projection`.

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
        # Channels, size and stride of each convolution.
        if self.bottleneck:
            convolutions = [
                (self.width, 1, 1),
                (self.width, 3, self.stride),
                (4 * self.width, 1, 1),
            ]
        else:
            convolutions = [(self.width, 3, self.stride), (self.width, 3, 1)]
        y = x
        for layer, (channels, size, stride) in enumerate(convolutions):
            if layer > 0:
                y = nn.relu(y)
            y = Conv(channels, (size, size), stride)(y)
            y = self.norm()(y)
        if x.shape != y.shape:
            x = Conv(y.shape[-1], (1, 1), self.stride, name="projection")(x)
            x = self.norm(name="projection_norm")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A residual network: a convolution, stages of residual blocks, and one dense layer.

    The layers are named `Conv_0`, `ResidualBlock_0, ...` and `Dense_0`, which sees the mean over
    the image. Each stage after the first halves the image and doubles the channels.

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
        sizes = (*self.blocks_per_stage, self.width, self.num_classes)
        if not self.blocks_per_stage or min(sizes) < 1:
            raise ValueError(
                "a ResNet has stages of blocks, channels and classes, not "
                f"blocks_per_stage={self.blocks_per_stage}, width={self.width}, "
                f"{self.num_classes} classes"
            )
        if inputs.ndim != 4:
            raise ValueError(
                f"a ResNet takes images [num_samples, height, width, channels], not {inputs.shape}"
            )
        size, stride = (7, 2) if self.large_images else (3, 1)
        x = Conv(self.width, (size, size), stride)(inputs)
        x = nn.relu(self.norm()(x))
        if self.large_images:
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, num_blocks in enumerate(self.blocks_per_stage):
            for block in range(num_blocks):
                halves_image = stage > 0 and block == 0
                x = ResidualBlock(
                    width=self.width * 2**stage,
                    stride=2 if halves_image else 1,
                    norm=self.norm,
                    bottleneck=self.bottleneck,
                )(x)
        x = x.mean((1, 2))
        return nn.Dense(self.num_classes)(x)


def resnet20(
    width: int = 16, num_classes: int = 10, norm: Callable[..., nn.Module] = nn.LayerNorm
) -> ResNet:
    """ResNet-20 for small images; `width=16` is the one of its paper.

    It has three stages of three blocks of two convolutions.
    """
    return ResNet(width, num_classes, (3, 3, 3), norm)


def resnet50(
    width: int = 64, num_classes: int = 1000, norm: Callable[..., nn.Module] = nn.LayerNorm
) -> ResNet:
    """ResNet-50 for large images; `width=64` is the one of its paper.

    It has four stages of 3, 4, 6 and 3 bottleneck blocks.
    """
    return ResNet(width, num_classes, (3, 4, 6, 3), norm, bottleneck=True, large_images=True)
