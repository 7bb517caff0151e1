"""Discovery on well-known networks of every library, against groups written by hand."""

import functools
from collections.abc import Callable

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from lmcjax import FlaxNetwork, resnet20, resnet50, vgg16
from lmcjax.symmetry import PermutationSpec, factors_of, fixed, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGES = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
TOKENS = jnp.arange(10).reshape(2, 5)
VECTORS = jax.random.normal(jax.random.key(2), (4, 3))


def generic_network(module, x, generic_like):
    """`apply` and parameters of a linen module that has nothing else."""
    network = FlaxNetwork(module, x.shape[1:])
    return network.apply, generic_like(jax.eval_shape(network.init, jax.random.key(0)))


@pytest.mark.slow
def test_vgg16(verified_spec, generic_like):
    """A group per layer; an image of 4x4 pixels is a single one after two of the five stages."""
    spec = verified_spec(*generic_network(vgg16(4), IMAGES, generic_like), IMAGES)
    widths = [4, 4, 8, 8, *[16] * 3, *[32] * 6]
    expected = {f"Conv_{i}": (width,) for i, width in enumerate(widths)}
    assert dict(spec.shapes) == expected | {"Dense_0": (256,), "Dense_1": (256,)}


@pytest.mark.slow
def test_resnet50(verified_spec, generic_like):
    """The stem, a stream per stage that its first block writes, and two inner groups per block."""
    spec = verified_spec(*generic_network(resnet50(4), IMAGES, generic_like), IMAGES)
    expected = {"Conv_0": (4,)}
    block = 0
    for stage, num_blocks in enumerate((3, 4, 6, 3)):
        width = 4 * 2**stage
        expected[f"ResidualBlock_{block}/Conv_2"] = (4 * width,)
        for _ in range(num_blocks):
            expected |= {f"ResidualBlock_{block}/Conv_{i}": (width,) for i in range(2)}
            block += 1
    assert dict(spec.shapes) == expected


def check_batch_norm(verified_spec, generic_like):
    """ResNet-20 in evaluation mode: running statistics are permuted with their channels."""
    module = resnet20(4, norm=functools.partial(nn.BatchNorm, use_running_average=True))
    variables = generic_like(jax.eval_shape(module.init, jax.random.key(0), IMAGES))
    spec = verified_spec(module.apply, variables, IMAGES)
    stream = ["params/Conv_0", "params/ResidualBlock_3/Conv_1", "params/ResidualBlock_6/Conv_1"]
    expected = {stream[stage]: (4 * 2**stage,) for stage in range(3)}
    expected |= {f"params/ResidualBlock_{i}/Conv_0": (4 * 2 ** (i // 3),) for i in range(9)}
    assert dict(spec.shapes) == expected
    for i in range(9):
        groups = {
            "BatchNorm_0": f"params/ResidualBlock_{i}/Conv_0",
            "BatchNorm_1": stream[i // 3],
            "projection_norm": stream[i // 3],
        }
        for norm in set(variables["batch_stats"][f"ResidualBlock_{i}"]):
            for statistic in ("mean", "var"):
                (channels,) = dict(spec.leaves)[f"batch_stats/ResidualBlock_{i}/{norm}/{statistic}"]
                assert channels == writes(groups[norm])


@pytest.mark.slow
def test_batch_norm(verified_spec, generic_like):
    check_batch_norm(verified_spec, generic_like)


@pytest.mark.slow
def test_batch_norm_in_float64(x64, verified_spec, generic_like):
    check_batch_norm(verified_spec, generic_like)


def angles_like(x):
    """Angles per token and pair of channels of `[num_samples, tokens, heads, channels]`."""
    return jnp.arange(x.shape[1])[:, None, None] * 10.0 ** -jnp.arange(
        x.shape[-1] // 2, dtype=x.dtype
    )


def rotate_halves(x):
    """Rotary positions: channels i and i + n / 2 are a pair."""
    a, b = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angles_like(x)), jnp.sin(angles_like(x))
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def rotate_neighbours(x):
    """Rotary positions: channels 2i and 2i + 1 are a pair."""
    a, b = x[..., ::2], x[..., 1::2]
    cos, sin = jnp.cos(angles_like(x)), jnp.sin(angles_like(x))
    turned = jnp.concatenate([(a * cos - b * sin)[..., None], (a * sin + b * cos)[..., None]], -1)
    return turned.reshape(x.shape)


def rotate_stacked(x):
    """The same, by `jnp.stack`."""
    a, b = x[..., ::2], x[..., 1::2]
    cos, sin = jnp.cos(angles_like(x)), jnp.sin(angles_like(x))
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)


class Rotary(nn.Module):
    """A decoder layer of the Llama kind on an embedding."""

    rotate: Callable

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(10, 8, name="embedding")(tokens)
        y = nn.RMSNorm()(x)
        q, k, v = (
            nn.DenseGeneral((2, 4), use_bias=False, name=name)(y)
            for name in ("query", "key", "value")
        )
        y = nn.dot_product_attention(
            self.rotate(q), self.rotate(k), v, mask=nn.make_causal_mask(tokens)
        )
        x = x + nn.DenseGeneral(8, (-2, -1), use_bias=False, name="out")(y)
        y = nn.RMSNorm()(x)
        y = nn.silu(nn.Dense(12, name="gate")(y)) * nn.Dense(12, name="up")(y)
        return nn.Dense(3)(nn.RMSNorm()(x + nn.Dense(8, name="down")(y)))


def check_rotary(rotate, verified_spec, generic_like):
    """Pairs of channels of queries and keys turn at their own speeds and stay; the rest is free."""
    module = Rotary(rotate)
    params = generic_like(jax.eval_shape(module.init, jax.random.key(0), TOKENS))["params"]
    spec = verified_spec(lambda p, x: module.apply({"params": p}, x), params, TOKENS)
    assert dict(spec.shapes) == {"embedding": (8,), "query": (2,), "value": (2, 4), "gate": (12,)}
    leaves = dict(spec.leaves)
    for name in ("query", "key"):
        assert leaves[f"{name}/kernel"] == (reads("embedding"), writes("query"), None)
    assert leaves["value/kernel"] == (
        reads("embedding"),
        writes("query"),
        writes("value", along="query"),
    )
    assert leaves["out/kernel"] == (
        reads("query"),
        reads("value", along="query"),
        writes("embedding"),
    )


@pytest.mark.parametrize(
    "rotate",
    [
        rotate_halves,
        rotate_neighbours,
        rotate_stacked,
    ],
)
@pytest.mark.slow
def test_rotary_positions(rotate, verified_spec, generic_like):
    check_rotary(rotate, verified_spec, generic_like)


@pytest.mark.slow
def test_rotary_positions_in_float64(x64, verified_spec, generic_like):
    check_rotary(rotate_halves, verified_spec, generic_like)


def test_branches_of_one_layer(verified_spec, generic_like):
    """Two groups share every axis: four neurons with one activation beside six with another."""

    class Branches(nn.Module):
        @nn.compact
        def __call__(self, x):
            a, b = jnp.split(nn.Dense(10)(x), [4], axis=-1)
            return nn.Dense(2)(jnp.concatenate([jnp.tanh(a), nn.relu(b)], -1))

    spec = verified_spec(*generic_network(Branches(), VECTORS, generic_like), VECTORS)
    assert sorted(spec.group_shapes().values()) == [(4,), (6,)]
    outputs = dict(spec.leaves)["Dense_0/kernel"][1]
    assert [factor.role for factor in factors_of(outputs)] == ["writes", "writes"]


def test_heads_that_share_an_axis_with_their_channels(verified_spec, generic_like):
    """Equinox keeps heads and channels in one axis: heads are one group, their channels others."""

    def make(key):
        return eqx.nn.MultiheadAttention(2, 8, key=key), eqx.nn.Linear(8, 3, key=key)

    shapes, static = eqx.partition(
        eqx.filter_eval_shape(make, jax.random.key(0)),
        lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct),
    )

    def apply(params, x):
        attention, linear = eqx.combine(params, static)
        return jax.vmap(lambda x: jax.vmap(linear)(attention(x, x, x)))(x)

    spec = verified_spec(
        apply, generic_like(shapes), jax.random.normal(jax.random.key(3), (2, 5, 8))
    )
    assert dict(spec.shapes) == {
        "0/query_proj": (2,),
        "0/query_proj/qk": (2, 4),
        "0/value_proj": (2, 4),
        "0/output_proj": (8,),
    }
    leaves = dict(spec.leaves)
    query = writes("0/query_proj/qk", along="0/query_proj")
    value = reads("0/value_proj", along="0/query_proj")
    assert leaves["0/query_proj/weight"] == (writes("0/query_proj") * query, None)
    assert leaves["0/output_proj/weight"] == (
        writes("0/output_proj"),
        reads("0/query_proj") * value,
    )


# The same MLP 3-6-5-2 and the same small CNN, convolutions of 4 and 5 channels and a dense layer,
# in each library: functions from inputs to `(apply, shapes of the parameters)`.


def nnx_network(make):
    def build(x):
        graphdef, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
        return lambda p, x: nnx.merge(graphdef, p)(x), state

    return build


class NNXMLP(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b, self.c = (nnx.Linear(m, n, rngs=rngs) for m, n in ((3, 6), (6, 5), (5, 2)))

    def __call__(self, x):
        return self.c(nnx.relu(self.b(nnx.relu(self.a(x)))))


class NNXCNN(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = (nnx.Conv(m, n, (3, 3), rngs=rngs) for m, n in ((3, 4), (4, 5)))
        self.c = nnx.Linear(4 * 5, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.b(nnx.relu(self.a(x)))), (2, 2), (2, 2))
        return self.c(x.reshape(x.shape[0], -1))


def equinox_network(make):
    def build(x):
        params, static = eqx.partition(
            eqx.filter_eval_shape(make, jax.random.key(0)),
            lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct),
        )
        return lambda p, x: jax.vmap(eqx.combine(p, static))(x), params

    return build


def equinox_mlp(key):
    return eqx.nn.Sequential(
        [
            eqx.nn.Linear(3, 6, key=key),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Linear(6, 5, key=key),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Linear(5, 2, key=key),
        ]
    )


def equinox_cnn(key):
    """Channels first: `[height, width, channels]` comes transposed."""
    return eqx.nn.Sequential(
        [
            eqx.nn.Lambda(lambda x: x.transpose(2, 0, 1)),
            eqx.nn.Conv2d(3, 4, 3, padding=1, key=key),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Conv2d(4, 5, 3, padding=1, key=key),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(4 * 5, 2, key=key),
        ]
    )


def haiku_network(f):
    def build(x):
        transformed = hk.without_apply_rng(hk.transform(f))
        return transformed.apply, jax.eval_shape(transformed.init, jax.random.key(0), x)

    return build


def haiku_mlp(x):
    return hk.nets.MLP([6, 5, 2])(x)


def haiku_cnn(x):
    x = jax.nn.relu(hk.Conv2D(4, 3)(x))
    x = jax.nn.relu(hk.Conv2D(5, 3)(x))
    return hk.Linear(2)(hk.Flatten()(hk.max_pool(x, (2, 2, 1), (2, 2, 1), "VALID")))


def mlp_axes(layers, kernel, bias, *, groups=None, outputs_first=False):
    """The hand-written spec of the MLP: two groups."""
    first, second = groups or layers[:2]
    order = -1 if outputs_first else 1
    axes = {
        kernel: [(None, writes(first)), (reads(first), writes(second)), (reads(second), None)],
        bias: [(writes(first),), (writes(second),), (None,)],
    }
    return {
        f"{layer}/{leaf}": axes[leaf][i][::order]
        for i, layer in enumerate(layers)
        for leaf in (kernel, bias)
    }


def cnn_axes(layers, kernel, bias, *, groups=None, channels_first=False):
    """The hand-written spec of the CNN; four pixels hold channels, or lie inside channels."""
    first, second = groups or layers[:2]
    if channels_first:  # as in Equinox: kernels [out, in, height, width], biases [out, 1, 1]
        axes = {
            kernel: [(writes(first), *3 * [None]), (writes(second), reads(first), None, None)],
            bias: [(writes(first), None, None), (writes(second), None, None), (None,)],
        }
        axes[kernel].append((None, reads(second) * fixed(4)))
    else:
        axes = {
            kernel: [(*3 * [None], writes(first)), (None, None, reads(first), writes(second))],
            bias: [(writes(first),), (writes(second),), (None,)],
        }
        axes[kernel].append((fixed(4) * reads(second), None))
    return {
        f"{layer}/{leaf}": axes[leaf][i]
        for i, layer in enumerate(layers)
        for leaf in (kernel, bias)
    }


NNX = {
    "layers": "abc",
    "kernel": "kernel/value",
    "bias": "bias/value",
    "groups": ("a/kernel", "b/kernel"),
}
HAIKU_MLP = tuple(f"mlp/~/linear_{i}" for i in range(3))
EQUINOX_MLP = ("layers/0", "layers/2", "layers/4")
EQUINOX_CNN = ("layers/1", "layers/3", "layers/7")
LIBRARIES = {
    "NNX MLP": (nnx_network(NNXMLP), VECTORS, mlp_axes(**NNX)),
    "NNX CNN": (nnx_network(NNXCNN), IMAGES, cnn_axes(**NNX)),
    "Equinox MLP": (
        equinox_network(equinox_mlp),
        VECTORS,
        mlp_axes(EQUINOX_MLP, "weight", "bias", outputs_first=True),
    ),
    "Equinox CNN": (
        equinox_network(equinox_cnn),
        IMAGES,
        cnn_axes(EQUINOX_CNN, "weight", "bias", channels_first=True),
    ),
    "Haiku MLP": (haiku_network(haiku_mlp), VECTORS, mlp_axes(HAIKU_MLP, "w", "b")),
    "Haiku CNN": (
        haiku_network(haiku_cnn),
        IMAGES,
        cnn_axes(("conv2_d", "conv2_d_1", "linear"), "w", "b"),
    ),
}


def check_library(name, verified_spec, generic_like):
    build, x, axes = LIBRARIES[name]
    apply, shapes = build(x)
    params = generic_like(shapes)
    spec = verified_spec(apply, params, x)
    expected = PermutationSpec.from_axes(axes).bind(params)
    assert dict(spec.leaves) == dict(expected.leaves)
    assert spec.shapes == expected.shapes


@pytest.mark.parametrize("name", LIBRARIES)
def test_libraries(name, verified_spec, generic_like):
    check_library(name, verified_spec, generic_like)


@pytest.mark.parametrize("name", [name for name in LIBRARIES if "CNN" in name])
def test_libraries_in_float64(name, x64, verified_spec, generic_like):
    check_library(name, verified_spec, generic_like)
