"""Moments by group, against the moments of the activations themselves."""

import chex
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
from lmcjax.statistics import group_moments, over_batch, sample_moments

pytestmark = pytest.mark.usefixtures("quick_compilation")

NAMES = [
    "attention",
    pytest.param("convolutional", marks=pytest.mark.slow),
    pytest.param("stack", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", NAMES)
def test_group_moments_are_those_of_all_that_readers_see(measured_pair, name):
    """In batches with a short last one, against `sample_moments` of the tapped activations."""
    apply, spec, params_a, params_b, inputs = measured_pair(name)

    @jax.jit
    def measure(a, b):
        return activation_moments(apply, spec, a, b, inputs, batch_size=3)

    @jax.jit
    def tapped(params):
        return tap(apply, spec, params, inputs)

    moments = measure(params_a, params_b)
    taps_a = tapped(params_a)
    taps_b = tapped(params_b)
    for group in spec.groups:
        seen_a = together(taps_a, group)
        seen_b = together(taps_b, group)
        expected = over_batch(sample_moments, seen_a.ndim - 2)(seen_a, seen_b)
        found = group_moments(spec, group, params_a, moments)
        np.testing.assert_array_equal(found.num_samples, expected.num_samples)
        chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-3)


def together(taps, group):
    """All that is seen of a group, by readers, or else by writers."""
    seen = taps.reads[group] or taps.outputs[group]
    return jnp.concatenate(list(seen.values()), axis=-2)


def experts(params, x):
    """Two layers of experts side by side, all of which see the same inputs."""
    hidden = jnp.tanh(jnp.einsum("nd,edh->enh", x, params["w1"]))
    hidden = jnp.tanh(jnp.einsum("enh,ehk->enk", hidden, params["w2"]))
    return jnp.einsum("enk,ekc->nc", hidden, params["w3"])


@pytest.mark.slow
def test_experts_are_compared_with_each_other(rng):
    """`across` has every expert of A against every expert of B; `inputs` each against its own."""
    shapes = {"w1": (3, 4, 6), "w2": (3, 6, 5), "w3": (3, 5, 2)}
    params_a = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    params_b = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    params_a, params_b, x = jax.tree.map(jnp.float32, (params_a, params_b, rng.normal(size=(9, 4))))
    spec = discover(experts, params_a, x)
    moments = activation_moments(experts, spec, params_a, params_b, x, batch_size=4)
    hidden = []
    for params in (params_a, params_b):
        hidden.append(np.tanh(np.einsum("nd,edh->enh", x, params["w1"])))
    flat_a = hidden[0].swapaxes(0, 1).reshape(9, 18)
    flat_b = hidden[1].swapaxes(0, 1).reshape(9, 18)
    expected = np.cov(flat_a.T, flat_b.T)[:18, 18:] * 8
    np.testing.assert_allclose(moments.across["w2"].centred_ab, expected, rtol=1e-4, atol=1e-4)
    blocks = expected.reshape(3, 6, 3, 6)
    for expert in range(3):
        own = blocks[expert, :, expert]
        found = moments.inputs["w2"].centred_ab[expert]
        np.testing.assert_allclose(found, own, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_other_groups_are_aligned_first(measured_pair):
    """Once the channels within heads are matched, shuffling B's channels changes nothing."""
    apply, spec, a, b, x = measured_pair("attention")
    channels = next(group for group in spec.groups if group.endswith("value"))
    heads = next(group for group in spec.groups if group.endswith("query"))
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
