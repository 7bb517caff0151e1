"""Neurons of zeros: where they go, what they leave alone."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmcjax
from lmcjax.symmetry import (
    PermutationSpec,
    drop_padding,
    fixed,
    pad_neurons,
    reads,
    real_entries,
    writes,
)

X = np.random.default_rng(0).normal(size=(5, 4, 4, 2)).astype(np.float32)


class Convolutional(nn.Module):
    """Convolution, a flatten in blocks, a concatenation with the input, two dense layers."""

    channels: int
    width: int

    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.Conv(self.channels, (3, 3))(x))
        h = jnp.concatenate([h.reshape(len(x), -1), x.reshape(len(x), -1)], -1)
        return nn.Dense(3)(nn.relu(nn.Dense(self.width)(h)))


def build(channels: int, width: int, generic_like):
    module = Convolutional(channels, width)
    apply = lambda params, x: module.apply({"params": params}, x)  # noqa: E731
    params = generic_like(jax.eval_shape(module.init, jax.random.key(0), X)["params"])
    return apply, params, lmcjax.discover(apply, params, X)


@pytest.mark.slow
def test_padding_keeps_the_function_and_comes_off_again(generic_like):
    apply, params, spec = build(3, 5, generic_like)
    wide_apply, wide_params, wide = build(7, 8, generic_like)
    padded = pad_neurons(spec, wide, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(padded, wide_params)
    np.testing.assert_allclose(wide_apply(padded, X), apply(params, X), rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_equal(drop_padding(wide, spec, padded), params)


def test_real_entries_are_those_that_were_there(generic_like):
    _, params, spec = build(3, 5, generic_like)
    _, _, wide = build(7, 8, generic_like)
    mask = real_entries(spec, wide, params)
    padded = pad_neurons(spec, wide, jax.tree.map(jnp.ones_like, params))
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf == 1, padded), mask)
    sizes = jax.tree.map(lambda m, leaf: (int(m.sum()), leaf.size), mask, params)
    assert all(
        real == size
        for real, size in jax.tree.leaves(sizes, is_leaf=lambda x: isinstance(x, tuple))
    )


def test_blocks_and_fixed_stretches_by_hand():
    """`[outer, n, inner]` and entries that nothing permutes, between two groups."""
    axis = fixed(2) * reads("g") * fixed(3) | fixed(2) | reads("h")
    axes = {"w": (axis, None), "g": (writes("g"),), "h": (writes("h"),)}
    sizes = {"narrow": (2, 1), "wide": (3, 4)}
    specs, params = {}, {}
    for name, (g, h) in sizes.items():
        params[name] = {
            "w": jnp.arange(1.0, 2 * (6 * g + 2 + h) + 1).reshape(-1, 2),
            "g": jnp.ones(g),
            "h": jnp.ones(h),
        }
        specs[name] = PermutationSpec.from_axes(axes).bind(params[name])
    padded = pad_neurons(specs["narrow"], specs["wide"], params["narrow"])
    rows = np.asarray(padded["w"][:, 0])
    source = np.asarray(params["narrow"]["w"][:, 0])
    expected = np.zeros(24)
    # two blocks of three neurons, three entries each
    expected[[0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14]] = source[:12]
    expected[18:20] = source[12:14]
    expected[20] = source[14]
    np.testing.assert_array_equal(rows, expected)


def test_what_does_not_fit_is_refused(generic_like):
    _, params, spec = build(3, 5, generic_like)
    _, wide_params, wide = build(7, 8, generic_like)
    with pytest.raises(
        ValueError, match=r"group 'Conv_0' of shape \(7,\) does not fit into \(3,\)"
    ):
        pad_neurons(wide, spec, wide_params)
    mlp = lmcjax.mlp_spec(1).bind(
        {
            "Dense_0": {"kernel": X[0, 0], "bias": X[0, 0, 0]},
            "Dense_1": {"kernel": X[0, :2, 0], "bias": X[0, 0, :, 0]},
        }
    )
    with pytest.raises(
        ValueError, match="the two specs describe different programs: they differ in"
    ):
        pad_neurons(spec, mlp, params)
    with pytest.raises(ValueError, match="the spec's groups have shapes"):
        pad_neurons(spec, wide, wide_params)
