"""Moments by kernel and by group, against the moments of the activations themselves."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import (
    activation_moments,
    discover,
    identity_permutations,
    invert,
    permute,
    random_permutations,
    tap,
)
from lmcjax.statistics import group_moments, sample_moments

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Attention(nn.Module):
    """Embedding, heads, channels that nobody reads, a stream with several readers."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(10, 8)(tokens)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        return nn.Dense(3)(x + nn.Dense(8)(nn.gelu(nn.Dense(12)(x))))


class Convolutional(nn.Module):
    """Strides and a flatten, and a concatenation."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = jnp.concatenate([x, nn.relu(nn.Conv(5, (3, 3))(x))], axis=-1)
        x = nn.relu(nn.Conv(6, (2, 2), strides=(2, 2))(x))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return x + nn.Dense(8)(nn.relu(nn.Dense(6)(x))), None

        layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(3)(layers()(nn.Dense(8)(x), None)[0])


CASES = {
    "attention": (Attention(), jax.random.randint(jax.random.key(0), (7, 5), 0, 10)),
    "convolutional": (Convolutional(), jax.random.normal(jax.random.key(1), (7, 6, 6, 2))),
    "stack": (Stack(), jax.random.normal(jax.random.key(2), (7, 4))),
}


def pair(name):
    module, x = CASES[name]

    def apply(params, x):
        return module.apply({"params": params}, x)

    a, b = (jax.jit(module.init)(jax.random.key(seed), x)["params"] for seed in (3, 4))
    return apply, discover(apply, a, x), a, b, x


@pytest.mark.parametrize(
    "name",
    [name if name == "attention" else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_group_moments_are_those_of_all_that_readers_see(name):
    """In batches with a short last one: the same as `sample_moments` of the tapped activations, all
    at once.
    """
    apply, spec, a, b, x = pair(name)
    moments = jax.jit(lambda a, b: activation_moments(apply, spec, a, b, x, batch_size=3))(a, b)
    taps_a, taps_b = (jax.jit(lambda p: tap(apply, spec, p, x))(p) for p in (a, b))
    for group in spec.groups:
        seen_a, seen_b = (t.reads[group] or t.outputs[group] for t in (taps_a, taps_b))
        together = [jnp.concatenate(list(seen.values()), axis=-2) for seen in (seen_a, seen_b)]
        sample = sample_moments
        for _ in range(together[0].ndim - 2):
            sample = jax.vmap(sample)
        expected, found = sample(*together), group_moments(spec, group, a, moments)
        np.testing.assert_array_equal(found.num_samples, expected.num_samples)
        chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_other_groups_are_aligned_first():
    """Heads are compared channel by channel once the channels are matched: shuffling B's channels
    changes nothing.
    """
    apply, spec, a, b, x = pair("attention")
    channels = next(group for group in spec.groups if group.endswith("value"))
    heads = next(group for group in spec.groups if group.endswith("query/kernel[1]"))
    drawn = random_permutations(jax.random.key(5), spec, a)
    shuffle = {**identity_permutations(spec), channels: drawn[channels]}
    back = {channels: invert(spec, shuffle)[channels]}
    measure = jax.jit(lambda b: activation_moments(apply, spec, a, b, x))
    expected = group_moments(spec, heads, a, measure(b))
    shuffled = measure(permute(spec, shuffle, b))
    chex.assert_trees_all_close(
        group_moments(spec, heads, a, shuffled, back), expected, rtol=1e-4, atol=1e-4
    )
    assert not np.allclose(
        group_moments(spec, heads, a, shuffled).centred_ab, expected.centred_ab, rtol=1e-2
    )


@pytest.mark.slow
def test_of_one_hot_vectors_only_frequencies_are_kept():
    apply, spec, a, b, x = pair("attention")
    moments = jax.jit(lambda a, b: activation_moments(apply, spec, a, b, x, batch_size=3))(a, b)
    found = moments.inputs["Embed_0/embedding"]
    np.testing.assert_allclose(
        found.mean_a, np.bincount(x.ravel(), minlength=10) / x.size, rtol=1e-6
    )
    assert found.centred_aa is None


@pytest.mark.slow
def test_the_batch_size_is_chosen_and_changes_nothing():
    apply, spec, a, b, x = pair("convolutional")
    chosen, given = (
        jax.jit(lambda a, b, n=n: activation_moments(apply, spec, a, b, x, batch_size=n))(a, b)
        for n in (None, 2)
    )
    chex.assert_trees_all_close(chosen, given, rtol=1e-3, atol=1e-3)


def test_errors():
    apply, spec, a, b, x = pair("stack")
    with pytest.raises(ValueError, match=r"empty.*\(0, 4\)"):
        activation_moments(apply, spec, a, b, x[:0])
    with pytest.raises(ValueError, match="at least 1, not 0"):
        activation_moments(apply, spec, a, b, x, batch_size=0)
    with pytest.raises(ValueError, match="leading axis of samples"):
        activation_moments(lambda p, x: apply(p, x[0]), spec, a, b, (x, x[:3]))
