"""Convolutions in groups, products with a kernel per stretch of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmcjax import discover, tap, verify

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(4, 2, 5, 5))


def leaves(**shapes):
    return {name: RNG.normal(size=shape) for name, shape in shapes.items()}


def convolve(image, kernel, **options):
    return lax.conv_general_dilated(image, kernel, (1, 1), "SAME", **options)


CONVOLUTIONS = {"a": (3, 6, 2, 3, 3), "b": (3, 4, 6, 3, 3), "c": (3, 4, 2)}


def ensemble(p, x):
    """Three networks with weights of their own."""

    def member(a, b, c):
        h = jnp.tanh(convolve(x, a))
        return jnp.tanh(convolve(h, b)).mean((2, 3)) @ c

    return jax.vmap(member)(p["a"], p["b"], p["c"])


def mixed_ensemble(p, x):
    """The networks see each other's channels."""
    h = jnp.tanh(jax.vmap(lambda a: convolve(x, a))(p["a"]))
    h = h + jnp.roll(h, 1, axis=0)
    h = jnp.tanh(jax.vmap(convolve)(h, p["b"]))
    return jnp.einsum("lnchw,lco->lno", h, p["c"])


def test_an_ensemble_of_convolutions(verified_spec):
    """Each of the networks may have permutations of its own."""
    spec = verified_spec(ensemble, leaves(**CONVOLUTIONS), IMAGES)
    assert spec.group_shapes() == {"a": (3, 6), "b": (3, 4)}


def test_an_ensemble_whose_networks_are_mixed(verified_spec):
    spec = verified_spec(mixed_ensemble, leaves(**CONVOLUTIONS), IMAGES)
    assert spec.group_shapes() == {"a": (6,), "b": (3, 4)}


def test_an_ensemble_can_be_tapped():
    params = leaves(**CONVOLUTIONS)
    taps = tap(ensemble, discover(ensemble, params, IMAGES), params, IMAGES)
    assert taps.inputs["a"].shape[-1] == 2 * 3 * 3
    assert taps.inputs["b"].shape[-1] == 6 * 3 * 3


def test_shared_incoming_features_of_grouped_convolutions(verified_spec):
    """Two groups of four channels make two of three: they may be permuted, and those in each."""

    def apply(p, x):
        h = jnp.tanh(convolve(x, p["a"]))
        h = jnp.tanh(convolve(h, p["b"], feature_group_count=2))
        return h.mean((2, 3)) @ p["c"]

    params = leaves(a=(8, 2, 3, 3), b=(6, 4, 3, 3), c=(6, 2))
    spec = verified_spec(apply, params, IMAGES)
    assert set(spec.group_shapes().values()) == {(2,), (2, 4), (2, 3)}


@pytest.mark.parametrize("batch_groups", [2, 4])
def test_batch_groups(batch_groups, verified_spec):
    """Each group of images makes channels of its own; the next layer contracts them."""

    def apply(p, x):
        h = jnp.tanh(convolve(x, p["a"]))
        h = jnp.tanh(convolve(h, p["b"], batch_group_count=batch_groups))
        h = h.reshape(4 // batch_groups, batch_groups, -1, 5, 5)
        return jnp.einsum("ngchw,co->nghwo", h, p["c"])

    params = leaves(a=(6, 2, 3, 3), b=(3 * batch_groups, 6, 3, 3), c=(3, 2))
    spec = verified_spec(apply, params, IMAGES)
    assert spec.group_shapes() == {"a": (6,), "b": (3,)}


def test_gradient_of_a_grouped_convolution(verified_spec):
    """One step of training inside the network: gradients of kernels have groups of images."""

    def apply(p, x):
        def loss(kernel):
            return convolve(jnp.tanh(convolve(x, p["a"])), kernel, feature_group_count=2).sum()

        kernel = p["b"] - 0.1 * jax.grad(loss)(p["b"])
        h = jnp.tanh(convolve(x, p["a"]))
        return convolve(h, kernel, feature_group_count=2).mean((2, 3)) @ p["c"]

    params = leaves(a=(8, 2, 3, 3), b=(6, 4, 3, 3), c=(6, 2))
    spec = discover(apply, params, IMAGES)
    assert set(spec.group_shapes().values()) == {(2,), (2, 4), (2, 3)}
    assert verify(apply, spec, params, IMAGES).jointly_holds


ROWS = RNG.normal(size=(7, 3))
SIZES = np.array([3, 2, 2], np.int32)


def experts(p, x):
    rows, sizes = x
    h = jnp.tanh(lax.ragged_dot(rows @ p["embed"], p["w"], sizes))
    return lax.ragged_dot(h, p["v"], sizes) @ p["read"]


def test_experts_on_stretches_of_rows(verified_spec):
    """Experts share the permutation of their hidden neurons: it is not known where each begins."""
    params = leaves(embed=(3, 5), w=(3, 5, 6), v=(3, 6, 4), read=(4, 2))
    spec = verified_spec(experts, params, (ROWS, SIZES))
    assert sorted(spec.group_shapes().values()) == [(4,), (5,), (6,)]


def test_the_gradient_of_a_ragged_product_is_sound():
    params = leaves(embed=(3, 5), w=(3, 5, 6), v=(3, 6, 4), read=(4, 2))

    def apply(p, x):
        return jax.grad(lambda v: experts({**p, "v": v}, x).sum())(p["v"]).sum((0, 1))

    spec = discover(apply, params, (ROWS, SIZES))
    assert verify(apply, spec, params, (ROWS, SIZES)).jointly_holds
