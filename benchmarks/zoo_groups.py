"""The permutation symmetries of the networks of the zoo, worked out by hand.

From the definition of each network, not from what `discover` says: how many groups of which shape
there are, what each permutes, and why nothing permutes the other axes. A shape is `(*batch, n)`:
`(4, 8)` are 8 channels in each of 4 heads, with a permutation for each head.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Group(NamedTuple):
    """A group of neurons."""

    shape: tuple[int, ...]
    what: str


class Pinned(NamedTuple):
    """Axes that nothing permutes, and why."""

    reason: str
    # patterns of leaves with an axis, `layer.*.weight[0]`
    places: tuple[str, ...]


class Symmetries(NamedTuple):
    """All there is to say about a network."""

    groups: list[Group]
    pinned: list[Pinned]


def inputs(*places: str) -> Pinned:
    """The order of the inputs is given."""
    return Pinned("the inputs have an order", places)


def outputs(*places: str) -> Pinned:
    """The order of the outputs is given."""
    return Pinned("the outputs have an order", places)


def positions(*places: str) -> Pinned:
    """Kernels of convolutions."""
    return Pinned("the positions in a kernel have an order", places)


def patches(*places: str) -> Pinned:
    """Embeddings of the places in an image."""
    return Pinned("the patches of an image have an order", places)


def numbers(*places: str) -> Pinned:
    """What is looked up."""
    return Pinned("entries are looked up by number: tokens, places, kinds", places)


def rotary(*places: str) -> Pinned:
    """Channels of queries and keys under rotary embeddings."""
    return Pinned("rotary embeddings turn each pair of channels by an angle of its own", places)


def alibi(*places: str) -> Pinned:
    """Heads under linear biases."""
    return Pinned("each head has a slope of its own (ALiBi)", places)


def unused(*places: str) -> Pinned:
    """What the outputs do not depend on."""
    return Pinned("the outputs do not depend on it", places)


def layers(*sizes: int) -> list[Group]:
    """The neurons of hidden layers, one group each."""
    return [Group((size,), "neurons of a hidden layer") for size in sizes]


def stream(size: int) -> Group:
    """A residual stream: one permutation for all that writes it or reads it."""
    return Group((size,), "channels of a residual stream")


def attention(heads: int, qk: int, v: int | None = None) -> list[Group]:
    """Heads, and the channels in each: those of queries meet those of keys alone."""
    return [
        Group((heads,), "heads"),
        Group((heads, qk), "channels of queries and keys, in each head"),
        Group((heads, v or qk), "channels of values, in each head"),
    ]


def grouped_queries(heads: int, queries: int, v: int) -> list[Group]:
    """Heads of keys and values, the queries that share each, and the channels of values."""
    return [
        Group((heads,), "heads of keys and values"),
        Group((heads, queries), "queries that share one head of keys and values"),
        Group((heads, v), "channels of values, in each head"),
    ]


def transformer(width: int, blocks: Sequence[list[Group]]) -> list[Group]:
    """One residual stream, and blocks."""
    groups = [stream(width)]
    for block in blocks:
        groups += block
    return groups


def encoder(width: int, heads: int, mlp: int, depth: int) -> list[Group]:
    """Blocks of attention and a perceptron."""
    block = [*attention(heads, width // heads), *layers(mlp)]
    return transformer(width, [block] * depth)


def inside_groups(groups: int, size: int) -> Group:
    """Channels in each group of a convolution in groups."""
    return Group((groups, size), "channels, in each group of a convolution")


def basic_resnet(widths: Sequence[int]) -> list[Group]:
    """ResNet-18: a stream for each stage, two blocks in it. The stem writes the first stream."""
    groups = []
    for width in widths:
        groups += [stream(width), *layers(width, width)]
    return groups


def resnext(widths: Sequence[int], depths: Sequence[int]) -> list[Group]:
    """ResNeXt-50 32x4d: in each block two layers of 32 groups, which are permuted alike."""
    groups = layers(64)
    for width, depth in zip(widths, depths, strict=True):
        groups.append(stream(width))
        block = [Group((32,), "groups of a convolution"), *[inside_groups(32, width // 64)] * 2]
        groups += block * depth
    return groups


def bottleneck_resnet(widths: Sequence[int], depths: Sequence[int]) -> list[Group]:
    """ResNet-50: the stem, a stream for each stage, two layers in each block."""
    groups = layers(64)
    for width, depth in zip(widths, depths, strict=True):
        groups += [stream(width), *layers(width // 4, width // 4) * depth]
    return groups


def regnet(
    stem: int, widths: Sequence[int], depths: Sequence[int], *, size: int, squeezed: Sequence[int]
) -> list[Group]:
    """RegNet Y: groups of channels in each block, and what squeeze-and-excitation squeezes to."""
    groups = [stream(stem)]
    before = stem
    for width, depth, second in zip(widths, depths, squeezed, strict=True):
        groups.append(stream(width))
        count = width // size
        for number in range(depth):
            groups += [
                Group((count,), "groups of a convolution"),
                *[inside_groups(count, size)] * 2,
            ]
            groups += layers(before // 4 if number == 0 else second)
        before = width
    return groups


def densenet(depths: Sequence[int]) -> list[Group]:
    """DenseNet with growth 32: all stretches of the concatenations are groups of their own."""
    groups = layers(64)
    channels = 64
    for stage, depth in enumerate(depths):
        groups += layers(128, 32) * depth
        channels += 32 * depth
        if stage < len(depths) - 1:
            channels //= 2
            groups += layers(channels)
    return groups


def squeezenet() -> list[Group]:
    """SqueezeNet 1.1: in each module what is squeezed, and two expansions side by side."""
    groups = layers(64)
    for squeezed in (16, 16, 32, 32, 48, 48, 64, 64):
        groups += layers(squeezed, 4 * squeezed, 4 * squeezed)
    return groups


def inverted_residuals(
    stem: int,
    stages: Sequence[tuple[int, int, int]],
    last: int,
) -> list[Group]:
    """MobileNetV2: stages of (expansion, width, blocks); a depthwise layer keeps its channels."""
    groups = layers(stem)
    before = stem
    for expansion, width, depth in stages:
        groups.append(stream(width))
        for _ in range(depth):
            if expansion > 1:
                groups += layers(expansion * before)
            before = width
    return [*groups, *layers(last)]


MOBILENET_V2 = [
    (1, 16, 1),
    (6, 24, 2),
    (6, 32, 3),
    (6, 64, 4),
    (6, 96, 3),
    (6, 160, 3),
    (6, 320, 1),
]
# with its widths times 0.35, rounded to multiples of 8
MOBILENET_V2_NARROW = [
    (1, 8, 1),
    (6, 8, 2),
    (6, 16, 3),
    (6, 24, 4),
    (6, 32, 3),
    (6, 56, 3),
    (6, 112, 1),
]


def narrow_mobilenet_v2() -> list[Group]:
    """The stages of 8 and 8 channels are two streams: the second begins without a skip."""
    return inverted_residuals(16, MOBILENET_V2_NARROW, 1280)


def mobilenet_v3_small() -> list[Group]:
    """Blocks of (expansion, squeezed, output); an output of 0 continues the stream."""
    blocks = [
        (0, 8, 16),
        (72, 0, 24),
        (88, 0, 0),
        (96, 24, 40),
        (240, 64, 0),
        (240, 64, 0),
        (120, 32, 48),
        (144, 40, 0),
        (288, 72, 96),
        (576, 144, 0),
        (576, 144, 0),
    ]
    groups = layers(16)
    for block in blocks:
        groups += layers(*(size for size in block if size))
    return [*groups, *layers(576, 1024)]


def efficientnet_b0() -> list[Group]:
    """Blocks as in MobileNetV2, each with what squeeze-and-excitation squeezes to."""
    stages = [(6, 24, 2), (6, 40, 2), (6, 80, 3), (6, 112, 3), (6, 192, 4), (6, 320, 1)]
    groups = layers(32, 8, 16)
    before = 16
    for expansion, width, depth in stages:
        groups.append(stream(width))
        for _ in range(depth):
            groups += layers(expansion * before, before // 4)
            before = width
    return [*groups, *layers(1280)]


def convnext(widths: Sequence[int], depths: Sequence[int]) -> list[Group]:
    """A stream for each stage, a perceptron in each block."""
    groups = []
    for width, depth in zip(widths, depths, strict=True):
        groups += [stream(width), *layers(4 * width) * depth]
    return groups


def swin(widths: Sequence[int], heads: Sequence[int], depth: int) -> list[Group]:
    """A stream for each stage. The merging of patches reads four copies of the stream."""
    groups = []
    for width, num_heads in zip(widths, heads, strict=True):
        groups += encoder(width, num_heads, 4 * width, depth)
    return groups


SEQUENCE = [inputs("embedding.weight[1]"), outputs("head.*[0]")]
TORCH = {
    "MultiheadAttention": Symmetries(
        [stream(16), *attention(4, 4), *layers(16)],  # no skip: what attention gives is a layer
        SEQUENCE,
    ),
    "TransformerEncoder": Symmetries(encoder(16, 4, 24, 2), SEQUENCE),
    "TransformerEncoder, norm first": Symmetries(encoder(16, 4, 24, 2), SEQUENCE),
    "Transformer": Symmetries(
        # both streams start from one embedding
        transformer(16, [attention(4, 4), layers(24), attention(4, 4) * 2, layers(24)]),
        SEQUENCE,
    ),
    "LSTM, 2 layers": Symmetries(
        layers(12, 12), [inputs("recurrent.weight_ih_l0[1]"), outputs("head.*[0]")]
    ),
    "GRU, 2 directions": Symmetries(
        layers(12, 12), [inputs("recurrent.weight_ih_l0*[1]"), outputs("head.*[0]")]
    ),
    "convolutions in groups, GroupNorm": Symmetries(
        [
            Group((3,), "groups, of the norm and of the convolution alike"),
            inside_groups(3, 4),
            inside_groups(3, 6),
        ],
        [
            inputs("0.weight[1]"),
            positions("0.weight[2]", "0.weight[3]", "3.weight[2]", "3.weight[3]"),
            outputs("7.*[0]"),
        ],
    ),
}

TORCHVISION = {
    "resnet18": Symmetries(
        basic_resnet((64, 128, 256, 512)),
        [
            inputs("conv1.weight[1]"),
            positions("*conv?.weight[2]", "*conv?.weight[3]"),
            outputs("fc.*[0]"),
        ],
    ),
    "resnext50_32x4d": Symmetries(
        resnext((256, 512, 1024, 2048), (3, 4, 6, 3)),
        [
            inputs("conv1.weight[1]"),
            positions("*conv?.weight[2]", "*conv?.weight[3]"),
            outputs("fc.*[0]"),
        ],
    ),
    "vgg11": Symmetries(
        layers(64, 128, 256, 256, 512, 512, 512, 512, 4096, 4096),
        [
            inputs("features.0.weight[1]"),
            positions("features.*.weight[2]", "features.*.weight[3]"),
            outputs("classifier.6.*[0]"),
            Pinned("the places of the last image have an order", ("classifier.0.weight[1]",)),
        ],
    ),
    "mobilenet_v2": Symmetries(
        inverted_residuals(32, MOBILENET_V2, 1280),
        [
            inputs("features.0.0.weight[1]"),
            positions("features.*.weight[2]", "features.*.weight[3]"),
            outputs("classifier.1.*[0]"),
        ],
    ),
    "mobilenet_v3_small": Symmetries(
        mobilenet_v3_small(),
        [
            inputs("features.0.0.weight[1]"),
            positions("features.*.weight[2]", "features.*.weight[3]"),
            outputs("classifier.3.*[0]"),
        ],
    ),
    "efficientnet_b0": Symmetries(
        efficientnet_b0(),
        [
            inputs("features.0.0.weight[1]"),
            positions("features.*.weight[2]", "features.*.weight[3]"),
            outputs("classifier.1.*[0]"),
        ],
    ),
    "densenet121": Symmetries(
        densenet((6, 12, 24, 16)),
        [
            inputs("features.conv0.weight[1]"),
            positions("features.*conv?.weight[2]", "features.*conv?.weight[3]"),
            outputs("classifier.*[0]"),
        ],
    ),
    "squeezenet1_1": Symmetries(
        squeezenet(),
        [
            inputs("features.0.weight[1]"),
            positions("features.*.weight[2]", "features.*.weight[3]"),
            outputs("classifier.1.*[0]"),
        ],
    ),
    "regnet_y_400mf": Symmetries(
        regnet(32, (48, 104, 208, 440), (1, 3, 6, 6), size=8, squeezed=(12, 26, 52, 110)),
        [
            inputs("stem.0.weight[1]"),
            positions("*.weight[2]", "*.weight[3]"),
            outputs("fc.*[0]"),
        ],
    ),
    "convnext_tiny": Symmetries(
        convnext((96, 192, 384, 768), (3, 3, 9, 3)),
        [
            inputs("features.0.0.weight[1]"),
            positions("features.*.weight[2]", "features.*.weight[3]"),
            outputs("classifier.2.*[0]"),
        ],
    ),
    "vit_b_16, small": Symmetries(
        encoder(32, 4, 48, 2),
        [
            inputs("conv_proj.weight[1]"),
            positions("conv_proj.weight[2]", "conv_proj.weight[3]"),
            patches("encoder.pos_embedding[1]"),
            outputs("heads.head.*[0]"),
        ],
    ),
    "swin_t, small": Symmetries(
        swin((16, 32), (2, 4), 2),
        [
            inputs("features.0.0.weight[1]"),
            positions("features.0.0.weight[2]", "features.0.0.weight[3]"),
            patches("features.*.relative_position_index[0]"),
            numbers("features.*.relative_position_bias_table[0]"),
            outputs("head.*[0]"),
        ],
    ),
}

EMBEDDINGS = numbers("*embedding*/embedding[0]")
CLASSIFIER = outputs("classifier/kernel[1]", "classifier/bias[0]")
ROTARY_LAYERS = rotary("model/layers/*/q_proj/kernel[1]", "model/layers/*/k_proj/kernel[1]")
IMAGES = [
    positions("*/projection/kernel[0]", "*/projection/kernel[1]"),
    inputs("*/projection/kernel[2]"),
    CLASSIFIER,
]


def rotary_decoder() -> list[Group]:
    """Two layers with two heads of keys and values, each shared by two queries."""
    block = [*grouped_queries(2, 2, 4), *layers(24)]
    return transformer(16, [block] * 2)


TRANSFORMERS = {
    "Bert": Symmetries([*encoder(16, 4, 24, 2), *layers(16)], [EMBEDDINGS, CLASSIFIER]),
    # a head whose outputs are compared with the embeddings of all tokens belongs to their stream
    "Roberta": Symmetries(encoder(16, 4, 24, 2), [EMBEDDINGS, numbers("lm_head/bias[0]")]),
    "Electra": Symmetries(
        [*layers(8), *encoder(16, 4, 24, 2)], [EMBEDDINGS, numbers("generator_lm_head/bias[0]")]
    ),
    # all layers share their parameters
    "Albert": Symmetries(
        [*layers(8), *encoder(16, 4, 24, 1), *layers(16)], [EMBEDDINGS, CLASSIFIER]
    ),
    "DistilBert": Symmetries([*encoder(16, 4, 24, 2), *layers(16)], [EMBEDDINGS, CLASSIFIER]),
    "GPT2": Symmetries(encoder(16, 4, 24, 2), [numbers("transformer/w?e/embedding[0]")]),
    "GPTNeo": Symmetries(encoder(16, 4, 24, 2), [numbers("transformer/w?e/embedding[0]")]),
    # two of four channels are turned: one pair, whose two entries stay
    "GPTJ": Symmetries(
        transformer(16, [[*attention(4, 2, 4), *layers(24)]] * 2),
        [numbers("transformer/wte/embedding[0]"), outputs("lm_head/kernel[1]", "lm_head/bias[0]")],
    ),
    "OPT": Symmetries(encoder(16, 4, 24, 2), [numbers("model/decoder/embed_*/embedding[0]")]),
    "Bloom": Symmetries(
        transformer(16, [[*attention(4, 4)[1:], *layers(64)]] * 2),
        [
            numbers("transformer/word_embeddings/embedding[0]"),
            alibi(
                "transformer/h/*/query_key_value/kernel[1]",
                "transformer/h/*/query_key_value/bias[0]",
                "transformer/h/*/self_attention/dense/kernel[0]",
            ),
        ],
    ),
    "Llama, grouped queries": Symmetries(
        rotary_decoder(),
        [
            numbers("model/embed_tokens/embedding[0]"),
            ROTARY_LAYERS,
            outputs("lm_head/kernel[1]"),
        ],
    ),
    "Mistral, grouped queries": Symmetries(
        rotary_decoder(),
        [
            numbers("model/embed_tokens/embedding[0]"),
            ROTARY_LAYERS,
            outputs("lm_head/kernel[1]"),
        ],
    ),
    "Gemma": Symmetries(
        rotary_decoder(), [numbers("model/embed_tokens/embedding[0]"), ROTARY_LAYERS]
    ),
    "Bart": Symmetries(
        # both streams start from one embedding
        transformer(16, [attention(4, 4), layers(24), attention(4, 4) * 2, layers(24)]),
        [
            numbers("model/shared/embedding[0]", "model/*/embed_positions/embedding[0]"),
            outputs("final_logits_bias[1]"),
        ],
    ),
    "ViT": Symmetries(
        encoder(16, 4, 24, 2), [*IMAGES, patches("vit/embeddings/position_embeddings[1]")]
    ),
    "Dinov2": Symmetries(
        encoder(16, 4, 32, 2),
        [
            *IMAGES,
            patches("dinov2/embeddings/position_embeddings[1]"),
            unused("dinov2/embeddings/mask_token[1]"),
        ],
    ),
    "Beit": Symmetries(encoder(16, 4, 24, 2), IMAGES),
    "RegNet": Symmetries(
        regnet(8, (8, 16), (1, 1), size=4, squeezed=(2, 4)),
        [
            positions("*/convolution/kernel[0]", "*/convolution/kernel[1]"),
            inputs("params/regnet/embedder/embedder/convolution/kernel[2]"),
            outputs("params/classifier/*/kernel[1]", "params/classifier/*/bias[0]"),
        ],
    ),
}

EQUINOX = {
    "MLP": Symmetries(layers(12, 12), [inputs("layers/0/weight[1]"), outputs("layers/2/*[0]")]),
    "MultiheadAttention": Symmetries(
        [stream(16), *attention(4, 4)], [inputs("embedding/weight[1]"), outputs("head/*[0]")]
    ),
    "MultiheadAttention, rotary": Symmetries(
        [
            stream(16),
            Group((4,), "heads"),
            Group((4, 4), "channels of values, in each head"),
        ],
        [
            inputs("embedding/weight[1]"),
            rotary("attention/query_proj/weight[0]", "attention/key_proj/weight[0]"),
            outputs("head/*[0]"),
        ],
    ),
    "GRUCell": Symmetries(layers(12), [inputs("cell/weight_ih[1]"), outputs("head/*[0]")]),
}

EQUIMO = {
    "VisionTransformer": Symmetries(
        [*encoder(16, 4, 24, 2), Group((4,), "registers, tokens that have no place")],
        [
            inputs("patch_embed/proj/weight[1]"),
            positions("patch_embed/proj/weight[2]", "patch_embed/proj/weight[3]"),
            patches("global_pos_embed/weight[0]"),
            outputs("head/*[0]"),
        ],
    ),
    "ConvNeXt": Symmetries(
        convnext((8, 12, 16, 20), (1, 1, 1, 1)),
        [
            inputs("blocks/0/downsample/conv/weight[1]"),
            positions("blocks/*conv/weight[2]", "blocks/*conv/weight[3]"),
            outputs("head/*[0]"),
        ],
    ),
}

HAIKU = {
    "nets.MLP": Symmetries(
        layers(12, 10),
        [inputs("mlp/~/linear_0/w[0]"), outputs("mlp/~/linear_2/w[1]", "mlp/~/linear_2/b[0]")],
    ),
    "MultiHeadAttention": Symmetries(
        [stream(16), *attention(4, 4)],
        [inputs("linear/w[0]"), outputs("linear_1/w[1]", "linear_1/b[0]")],
    ),
    "LSTM, 2 layers": Symmetries(
        layers(12, 10),
        [inputs("lstm/linear/w[0]"), outputs("linear/w[1]", "linear/b[0]")],
    ),
    "nets.ResNet18": Symmetries(
        basic_resnet((64, 128, 256, 512)),
        [
            inputs("params/*/initial_conv/w[2]"),
            positions("params/*conv*/w[0]", "params/*conv*/w[1]"),
            outputs("params/*/logits/w[1]", "params/*/logits/b[0]"),
        ],
    ),
    "nets.MobileNetV1": Symmetries(
        # a depthwise layer keeps its channels
        layers(32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024),
        [
            inputs("params/mobile_net_v1/conv2_d/w[2]"),
            positions("params/*conv*/w[0]", "params/*conv*/w[1]"),
            outputs("params/*/logits/w[1]", "params/*/logits/b[0]"),
        ],
    ),
}

JRAPH = {
    "GraphNetwork": Symmetries(
        layers(12, 10, 12, 10, 12, 10),
        [inputs("mlp*/~/linear_0/w[0]"), outputs("linear/w[1]", "linear/b[0]")],
    ),
    "InteractionNetwork": Symmetries(
        layers(12, 10, 12, 10),
        [inputs("mlp*/~/linear_0/w[0]"), outputs("linear/w[1]", "linear/b[0]")],
    ),
    "GraphConvolution": Symmetries(
        layers(12, 10), [inputs("linear/w[0]"), outputs("linear_2/w[1]", "linear_2/b[0]")]
    ),
    "GAT": Symmetries(
        layers(12), [inputs("linear/w[0]"), outputs("linear_2/w[1]", "linear_2/b[0]")]
    ),
    "DeepSets": Symmetries(
        layers(12, 10, 12, 10),
        [inputs("mlp*/~/linear_0/w[0]"), outputs("linear/w[1]", "linear/b[0]")],
    ),
}

DENSE_1 = outputs("params/Dense_1/kernel[1]", "params/Dense_1/bias[0]")
DENSE_0 = outputs("params/Dense_0/kernel[1]", "params/Dense_0/bias[0]")
FLAX = {
    "MultiHeadDotProductAttention": Symmetries(
        [stream(16), *attention(4, 4)], [inputs("params/Dense_0/kernel[0]"), DENSE_1]
    ),
    "OptimizedLSTMCell": Symmetries(layers(12), [inputs("params/cell/i?/kernel[0]"), DENSE_0]),
    "GRUCell": Symmetries(layers(12), [inputs("params/cell/i?/kernel[0]"), DENSE_0]),
    "ConvLSTMCell": Symmetries(
        layers(8),
        [
            inputs("params/cell/ih/kernel[2]"),
            positions("params/cell/?h/kernel[0]", "params/cell/?h/kernel[1]"),
            DENSE_0,
        ],
    ),
    "WeightNorm": Symmetries(
        layers(12, 10),
        [
            inputs("params/Dense_0/kernel[0]"),
            outputs("params/Dense_2/kernel[1]", "params/Dense_2/bias[0]"),
        ],
    ),
    "nnx.LoRALinear": Symmetries(
        [*layers(12), Group((2,), "ranks of the adapter")],
        [
            inputs("first/kernel[0]", "first/lora/lora_a[0]"),
            outputs("second/kernel[1]", "second/bias[0]"),
        ],
    ),
}

FLAXMODELS = {
    "ResNet18": Symmetries(
        basic_resnet((64, 128, 256, 512)),
        [
            inputs("params/Conv_0/kernel[2]"),
            positions("params/*Conv_*/kernel[0]", "params/*Conv_*/kernel[1]"),
            outputs("params/Dense_0/kernel[1]", "params/Dense_0/bias[0]"),
        ],
    ),
    "VGG16": Symmetries(
        # without a head: the last layer gives the outputs
        layers(64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512),
        [
            inputs("params/conv1_1/kernel[2]"),
            positions("params/conv*/kernel[0]", "params/conv*/kernel[1]"),
            outputs("params/conv5_3/kernel[3]", "params/conv5_3/bias[0]"),
        ],
    ),
}

JAXKAN = {
    "spline": Symmetries(
        layers(6, 5),
        [
            inputs("layers/0/c_basis[0]", "layers/0/c_spl[1]", "layers/0/c_res[1]"),
            outputs("layers/2/*[0]"),
        ],
    ),
    "chebyshev": Symmetries(
        layers(6, 5),
        [
            inputs("layers/0/c_basis[1]"),
            Pinned("each polynomial has a degree of its own", ("layers/*/c_basis[2]",)),
            outputs("layers/2/*[0]"),
        ],
    ),
    "fourier": Symmetries(
        layers(6, 5),
        [
            inputs("layers/0/c_*[1]"),
            Pinned("each wave has a frequency of its own", ("layers/*/c_*[2]",)),
            outputs("layers/2/*[0]"),
        ],
    ),
    "sine": Symmetries(
        # frequencies are parameters, so the waves of a layer may be permuted
        [*layers(6, 5), *[Group((3,), "waves")] * 3],
        [inputs("layers/0/c_basis[1]"), outputs("layers/2/*[0]")],
    ),
}

PREDICTIONS = outputs("predictions/kernel[1]", "predictions/bias[0]")
KERAS = {
    "MobileNetV2": Symmetries(
        narrow_mobilenet_v2(),
        [
            inputs("Conv1/kernel[2]"),
            positions("*/kernel[0]", "*/kernel[1]"),
            PREDICTIONS,
        ],
    ),
    "ResNet50V2": Symmetries(
        bottleneck_resnet((256, 512, 1024, 2048), (3, 4, 6, 3)),
        [
            inputs("conv1_conv/kernel[2]"),
            positions("conv*/kernel[0]", "conv*/kernel[1]"),
            PREDICTIONS,
        ],
    ),
    "DenseNet121": Symmetries(
        densenet((6, 12, 24, 16)),
        [
            inputs("conv1_conv/kernel[2]"),
            positions("conv*/kernel[0]", "conv*/kernel[1]"),
            PREDICTIONS,
        ],
    ),
    "MultiHeadAttention": Symmetries(
        [stream(16), *attention(4, 4)],
        [inputs("dense/kernel[0]"), outputs("dense_1/kernel[1]", "dense_1/bias[0]")],
    ),
    "GroupQueryAttention": Symmetries(
        [
            stream(16),
            *grouped_queries(2, 2, 4),
            Group((2, 4), "channels of queries and keys, in each head of keys"),
        ],
        [inputs("dense/kernel[0]"), outputs("dense_1/kernel[1]", "dense_1/bias[0]")],
    ),
    "LSTM, 2 layers": Symmetries(
        layers(12, 10),
        [
            inputs("lstm/lstm_cell/kernel[0]"),
            outputs("dense/kernel[1]", "dense/bias[0]"),
            unused("*/seed_generator_state[0]"),
        ],
    ),
}

SYMMETRIES: dict[str, dict[str, Symmetries]] = {
    "torch": TORCH,
    "torchvision": TORCHVISION,
    "transformers": TRANSFORMERS,
    "equinox": EQUINOX,
    "equimo": EQUIMO,
    "haiku": HAIKU,
    "jraph": JRAPH,
    "flax": FLAX,
    "flaxmodels": FLAXMODELS,
    "jaxkan": JAXKAN,
    "keras": KERAS,
}
