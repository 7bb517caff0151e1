"""A transformer that classifies images or sequences of tokens."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num


class EncoderLayer(nn.Module):
    """Self-attention and an MLP, each of which normalises its inputs and adds its outputs.

    The layers are named `attention`, and `Dense_0` and `Dense_1` with a GELU between them.

    Attributes:
        num_heads: a divisor of the inputs' width.
        hidden: width of `Dense_0`.
    """

    num_heads: int
    hidden: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "num_samples tokens width"]
    ) -> Float[Array, "num_samples tokens width"]:
        y = nn.LayerNorm()(x)
        attention = nn.MultiHeadDotProductAttention(self.num_heads, name="attention")
        x = x + attention(y, y)
        y = nn.LayerNorm()(x)
        y = nn.gelu(nn.Dense(self.hidden)(y))
        return x + nn.Dense(x.shape[-1])(y)


class TransformerEncoder(nn.Module):
    """A transformer that classifies images or sequences of tokens.

    The layers are named `embedding`, to which learned `positions` are added, `EncoderLayer_0, ...`,
    each pre-norm, and `Dense_0`, which sees the mean over the tokens. Without a `vocabulary` the
    inputs are images `[num_samples, height, width, channels]`, cut into patches; with one they are
    sequences of tokens `[num_samples, length]`, whole numbers of any dtype.

    Source: Vaswani et al. (2017), the encoder; Dosovitskiy et al. (2021), section 3.1 (patches and
        pre-norm).

    Attributes:
        width: of the residual stream.
        num_heads: attention heads per layer, a divisor of the width.
        num_layers: number of layers.
        hidden: width of the layers' MLPs.
        num_classes: width of the last layer.
        patch_size: pixels along each side of a patch, a divisor of the image's sides; only for
            images.
        vocabulary: number of different tokens; None for images.
    """

    width: int
    num_heads: int
    num_layers: int
    hidden: int
    num_classes: int
    patch_size: int = 4
    vocabulary: int | None = None

    @nn.compact
    def __call__(
        self, inputs: Num[Array, "num_samples ..."]
    ) -> Float[Array, "num_samples num_classes"]:
        sizes = (self.width, self.num_heads, self.num_layers, self.hidden, self.num_classes)
        if min(sizes) < 1 or self.width % self.num_heads:
            raise ValueError(
                "a transformer has width (a multiple of the heads), heads, layers, hidden neurons "
                f"and classes, not {sizes}"
            )
        x = self._embed(inputs)
        positions = self.param("positions", nn.initializers.normal(0.02), x.shape[1:])
        x = x + positions
        for _ in range(self.num_layers):
            x = EncoderLayer(self.num_heads, self.hidden)(x)
        x = nn.LayerNorm()(x).mean(1)
        return nn.Dense(self.num_classes)(x)

    def _embed(
        self, inputs: Num[Array, "num_samples ..."]
    ) -> Float[Array, "num_samples tokens width"]:
        """One vector per token, or per patch."""
        if self.vocabulary is not None:
            if inputs.ndim != 2:
                raise ValueError(
                    f"a vocabulary of {self.vocabulary} asks for tokens [num_samples, length], "
                    f"not {inputs.shape}"
                )
            tokens = inputs.astype(jnp.int32)
            return nn.Embed(self.vocabulary, self.width, name="embedding")(tokens)
        size = self.patch_size
        if inputs.ndim != 4 or size < 1 or inputs.shape[1] % size or inputs.shape[2] % size:
            raise ValueError(
                "images [num_samples, height, width, channels] are cut into whole patches of "
                f"{size}x{size} pixels, not {inputs.shape}; for tokens, set a vocabulary"
            )
        x = nn.Conv(self.width, (size, size), size, name="embedding")(inputs)
        return x.reshape(x.shape[0], -1, self.width)
