"""VGG, with layer normalisation as in Git Re-Basin."""

import itertools

import flax.linen as nn
from jaxtyping import Array, Float, Num

from lmcjax.models._convolution import Conv


class VGG(nn.Module):
    """Stages of 3x3 convolutions, then dense layers, the last of which gives logits.

    The layers are named `Conv_0, Conv_1, ...` and `Dense_0 ... Dense_L`. Each convolution is
    followed by `LayerNorm` over the channels, which has the bias, and ReLU, each stage by 2x2 max
    pooling, which leaves an image side of a single pixel as it is. The flattened image keeps its
    channels inside the pixels, so the first dense layer reads the last channels in one block per
    pixel.

    Source: Simonyan and Zisserman (2015), table 1; layer normalisation: Ainsworth et al. (2023),
        Git Re-Basin.

    Attributes:
        stages: widths of the convolutions, stage by stage.
        hidden: widths of the hidden dense layers; may be empty.
        num_classes: width of the last dense layer.
    """

    stages: tuple[tuple[int, ...], ...]
    hidden: tuple[int, ...]
    num_classes: int

    @nn.compact
    def __call__(
        self, inputs: Num[Array, "num_samples height width channels"]
    ) -> Float[Array, "num_samples classes"]:
        widths = (*itertools.chain(*self.stages), *self.hidden, self.num_classes)
        if not self.stages or not all(self.stages) or min(widths) < 1:
            raise ValueError(
                f"a VGG has stages of convolutions and classes, not stages={self.stages}, "
                f"hidden={self.hidden}, {self.num_classes} classes"
            )
        if inputs.ndim != 4:
            raise ValueError(
                f"a VGG takes images [num_samples, height, width, channels], not {inputs.shape}"
            )
        x = inputs
        for stage in self.stages:
            for width in stage:
                x = Conv(width, (3, 3))(x)
                x = nn.relu(nn.LayerNorm()(x))
            # A side of one pixel is left as it is.
            window = (min(2, x.shape[1]), min(2, x.shape[2]))
            x = nn.max_pool(x, window, window)
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.num_classes)(x)


def vgg16(width: int = 64, num_classes: int = 10) -> VGG:
    """VGG-16: 13 convolutions in five stages, and three dense layers.

    `width=64` is configuration D of its paper.

    Args:
        width: channels of the first stage; the last has 8 times as many, a hidden dense layer 64
            times.
        num_classes: width of the last dense layer.
    """
    stages = (
        (width,) * 2,
        (2 * width,) * 2,
        (4 * width,) * 3,
        (8 * width,) * 3,
        (8 * width,) * 3,
    )
    hidden = (64 * width, 64 * width)
    return VGG(stages, hidden, num_classes)
