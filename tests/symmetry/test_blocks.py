"""Query, key and value packed in one axis: the value's channels are a group of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import (
    Activations,
    Weights,
    activation_moments,
    discover,
    match_coordinate_descent,
    match_layerwise,
    permute,
    random_permutations,
    tap,
    verify,
)
from lmcjax.symmetry import reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

WIDTH = 6
HEADS = 3
CHANNELS = 4
NUM_OUTPUTS = 2
X = np.random.default_rng(0).normal(size=(2, 5, WIDTH))


def packed_params(seed=1):
    rng = np.random.default_rng(seed)
    packed = 3 * HEADS * CHANNELS
    return {
        "w": rng.normal(size=(WIDTH, packed)),
        "b": rng.normal(size=packed),
        "o": rng.normal(size=(HEADS * CHANNELS, NUM_OUTPUTS)),
    }


def attend(params, query, key, value):
    """Attention of `[batch, heads, tokens, channels]`, and the output projection."""
    scores = query @ jnp.swapaxes(key, -1, -2) / np.sqrt(CHANNELS)
    seen = jax.nn.softmax(scores, axis=-1) @ value
    seen = jnp.swapaxes(seen, 1, 2)
    return seen.reshape(*seen.shape[:2], -1) @ params["o"]


def project(params, x):
    return x @ params["w"] + params["b"]


def into_heads(packed):
    """`[3, batch, heads, tokens, channels]`, as timm does it."""
    batch, tokens, _ = packed.shape
    apart = packed.reshape(batch, tokens, 3, HEADS, CHANNELS)
    return jnp.transpose(apart, (2, 0, 3, 1, 4))


def indexed(params, x):
    packed = into_heads(project(params, x))
    return attend(params, packed[0], packed[1], packed[2])


def unpacked(params, x):
    return attend(params, *into_heads(project(params, x)))


def unstacked(params, x):
    return attend(params, *jnp.unstack(into_heads(project(params, x))))


def split(params, x):
    parts = jnp.split(into_heads(project(params, x)), [2])
    return attend(params, parts[0][0], parts[0][1], parts[1][0])


def under_jit(params, x):
    packed = jax.jit(lambda params, x: into_heads(project(params, x)))(params, x)
    return jax.jit(lambda params, packed: attend(params, *packed))(params, packed)


def bent(params, x):
    """Entry by entry, with constants and a leaf of its own for each channel in between."""
    packed = jax.nn.elu(into_heads(project(params, x)))
    packed = jnp.where(packed > 2.0, jnp.tanh(packed), packed)
    return attend(params, *(packed * x.mean((-1, -2))[:, None, None, None]))


def normalised(params, x):
    """Channels are summed over."""
    packed = into_heads(project(params, x))
    return attend(params, *(packed / (1 + jnp.square(packed).sum(-1, keepdims=True))))


def as_torch(params, x):
    """An axis of 3 that is brought to the front before there are heads, as in torch."""
    batch, tokens, _ = x.shape
    packed = project(params, x).reshape(batch, tokens, 3, HEADS * CHANNELS)
    packed = jnp.squeeze(jnp.swapaxes(packed[None], 0, -2), -2)
    heads = []
    for part in (packed[0], packed[1], packed[2]):
        heads.append(jnp.swapaxes(part.reshape(batch, tokens, HEADS, CHANNELS), 1, 2))
    return attend(params, *heads)


def of_the_kernel(params, x):
    """The kernel is taken apart, and not what it puts out."""
    kernel = params["w"].reshape(WIDTH, 3, HEADS, CHANNELS)
    packed = jnp.einsum("bnd,dthc->tbhnc", x, kernel)
    return attend(params, *(packed + params["b"].reshape(3, 1, HEADS, 1, CHANNELS)))


def flattened_again(params, x):
    """The blocks are laid end to end once more on the way."""
    batch, tokens, _ = x.shape
    packed = project(params, x).reshape(batch, tokens, 3, HEADS, CHANNELS)
    again = jnp.tanh(packed).reshape(batch, tokens, -1)
    return attend(params, *into_heads(again))


PACKED = [
    indexed,
    unpacked,
    unstacked,
    split,
    under_jit,
    bent,
    normalised,
    as_torch,
    of_the_kernel,
    flattened_again,
]


@pytest.mark.parametrize("apply", PACKED)
def test_the_value_has_channels_of_its_own(apply, verified_spec):
    spec = verified_spec(apply, packed_params(), X)
    assert dict(spec.shapes) == {
        "w": (HEADS,),
        "w/qk": (HEADS, CHANNELS),
        "w/v": (HEADS, CHANNELS),
    }
    query = writes("w") * writes("w/qk", along="w")
    value = writes("w") * writes("w/v", along="w")
    assert dict(spec.leaves) == {
        "w": (None, query | query | value),
        "b": (query | query | value,),
        "o": (reads("w") * reads("w/v", along="w"), None),
    }
    assert [kernel.name for kernel in spec.kernels] == ["w", "o"]


@pytest.mark.slow
def test_a_program_that_is_scanned(verified_spec):
    """A stack of layers, each with a packed projection; the stream is not permuted."""

    def apply(params, x):
        def layer(stream, of_layer):
            return stream + indexed(of_layer, stream), None

        return jax.lax.scan(layer, x, params)[0]

    rng = np.random.default_rng(0)
    params = {
        "w": rng.normal(size=(4, WIDTH, 3 * HEADS * CHANNELS)),
        "b": rng.normal(size=(4, 3 * HEADS * CHANNELS)),
        "o": rng.normal(size=(4, HEADS * CHANNELS, WIDTH)) / 4,
    }
    spec = verified_spec(apply, params, X)
    assert sorted(spec.group_shapes().values()) == [
        (4, HEADS),
        (4, HEADS, CHANNELS),
        (4, HEADS, CHANNELS),
    ]


def test_a_concatenation_that_is_reshaped(verified_spec):
    """Two layers side by side are two blocks, which are then taken one by one."""

    def apply(params, x):
        both = jnp.concatenate([x @ params["a"], x @ params["b"]], axis=-1)
        both = jnp.tanh(both).reshape(2, 5, 2, 8)
        return both[:, :, 0] @ params["c"] * (both[:, :, 1] @ params["d"])

    rng = np.random.default_rng(0)
    params = {
        "a": rng.normal(size=(WIDTH, 8)),
        "b": rng.normal(size=(WIDTH, 8)),
        "c": rng.normal(size=(8, 3)),
        "d": rng.normal(size=(8, 3)),
    }
    spec = verified_spec(apply, params, X)
    assert spec.group_shapes() == {"a": (8,)}


def value_with_query(params, x):
    query, key, value = into_heads(project(params, x))
    return attend(params, query, key, value + query)


def channels_of_all_three(params, x):
    """The axis of 3 is contracted: all three have the same channels."""
    packed = into_heads(project(params, x))
    mixed = jnp.einsum("tbhnc,t->bhnc", packed, np.asarray([1.0, -2.0, 0.5]))
    return attend(params, packed[0], packed[1], mixed)


def sum_of_all_three(params, x):
    packed = into_heads(project(params, x))
    return attend(params, packed[0], packed[1], packed.sum(axis=0) * packed[2])


def ordered_along_three(params, x):
    packed = jnp.cumsum(into_heads(project(params, x)), axis=0)
    return attend(params, *packed)


def entries_by_number(params, x):
    packed = into_heads(project(params, x))[np.asarray([2, 0, 1])]
    return attend(params, *packed)


def reversed_blocks(params, x):
    packed = into_heads(project(params, x))
    return attend(params, packed[2], packed[1], packed[0]) + attend(params, *packed)


TIED = [
    value_with_query,
    channels_of_all_three,
    sum_of_all_three,
    ordered_along_three,
    entries_by_number,
    reversed_blocks,
]


@pytest.mark.parametrize("apply", TIED)
def test_channels_that_are_one_group(apply, verified_spec):
    spec = verified_spec(apply, packed_params(), X)
    assert spec.group_shapes() == {"w": (HEADS,), "w/each": (HEADS, CHANNELS)}


@pytest.mark.parametrize("apply", TIED[:4])
def test_the_traps_are_traps(apply):
    """With value channels of their own, the outputs would change."""
    spec = discover(indexed, packed_params(), X)
    assert not verify(apply, spec, packed_params(), X).jointly_holds


def by_weights(spec, params_a, params_b):
    return match_layerwise(spec, params_a, params_b, similarity=Weights())


@pytest.mark.slow
@pytest.mark.parametrize("match", [by_weights, match_coordinate_descent])
def test_planted_permutations_are_found(match):
    """In each of ten networks."""
    networks = [packed_params(seed) for seed in range(10)]
    spec = discover(indexed, networks[0], X)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)

    @jax.jit
    @jax.vmap
    def recover(key, params):
        permuted = permute(spec, random_permutations(key, spec), params)
        matching = match(spec, params, permuted)
        return permuted, permute(spec, matching.permutations, permuted)

    permuted, recovered = recover(jax.random.split(jax.random.key(0), 10), stacked)
    for name, leaf in stacked.items():
        assert (permuted[name] != leaf).any((1, 2)[: leaf.ndim - 1]).all()
        np.testing.assert_array_equal(recovered[name], leaf)


def test_taps():
    """A program multiplies once, block by block or not."""
    params = packed_params()
    spec = discover(indexed, params, X)
    taps = jax.jit(lambda params, x: tap(indexed, spec, params, x))(params, X)
    np.testing.assert_allclose(taps.inputs["w"], X.reshape(-1, WIDTH))
    assert taps.inputs["o"].shape == (10, HEADS * CHANNELS)
    value = (X.reshape(-1, WIDTH) @ params["w"]).reshape(10, 3, HEADS, CHANNELS)[:, 2]
    np.testing.assert_allclose(taps.outputs["w/v"]["w"], np.moveaxis(value, 1, 0))


@pytest.mark.slow
def test_activations():
    params = jax.tree.map(jnp.asarray, packed_params())
    spec = discover(indexed, params, X)
    permuted = permute(spec, random_permutations(jax.random.key(0), spec), params)
    moments = activation_moments(indexed, spec, params, permuted, X)
    matching = match_layerwise(spec, params, permuted, similarity=Activations(moments))
    recovered = permute(spec, matching.permutations, permuted)
    for name, leaf in params.items():
        np.testing.assert_array_equal(recovered[name], leaf)
