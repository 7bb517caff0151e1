"""Our convolution and its gradients against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmcjax.models._convolution import convolution

LAYOUT = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


@pytest.mark.parametrize(
    ("size", "kernel", "strides", "padding"),
    [
        ((7, 6), (3, 3), (1, 1), "SAME"),
        ((7, 6), (3, 3), (2, 2), "SAME"),
        ((8, 5), (1, 1), (2, 2), "SAME"),
        ((9, 8), (5, 2), (2, 3), "VALID"),
    ],
)
def test_gradients_are_those_of_lax(size, kernel, strides, padding, rng):
    x = jnp.asarray(rng.normal(size=(3, *size, 4)), jnp.float32)
    k = jnp.asarray(rng.normal(size=(*kernel, 4, 5)), jnp.float32)

    def of(conv):
        value = lambda x, k: jnp.sum(jnp.sin(conv(x, k, strides, padding, **LAYOUT)))  # noqa: E731
        return jax.jit(jax.value_and_grad(value, (0, 1)))(x, k)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4),
        of(convolution),
        of(lax_conv),
    )


def lax_conv(x, k, strides, padding, **options):
    return lax.conv_general_dilated(x, k, strides, padding, **options)


def test_groups_and_dilations_are_left_to_lax(rng):
    x, k = jnp.ones((2, 6, 6, 4)), jnp.asarray(rng.normal(size=(3, 3, 2, 4)), jnp.float32)
    options = {"rhs_dilation": (2, 2), "feature_group_count": 2, **LAYOUT}
    ours, theirs = (conv(x, k, (1, 1), "SAME", **options) for conv in (convolution, lax_conv))
    np.testing.assert_array_equal(ours, theirs)
