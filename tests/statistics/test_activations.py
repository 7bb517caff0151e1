"""Moments by kernel: one-hot vectors, batch sizes, errors; the values are tested by group."""

import chex
import jax
import numpy as np
import pytest

from lmcjax import FlaxNetwork, activation_moments, mlp_spec
from lmcjax.models import MLP

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.slow
def test_of_one_hot_vectors_only_frequencies_are_kept(measured_pair):
    apply, spec, a, b, x = measured_pair("attention")
    moments = jax.jit(lambda a, b: activation_moments(apply, spec, a, b, x, batch_size=3))(a, b)
    found = moments.inputs["Embed_0/embedding"]
    np.testing.assert_allclose(
        found.mean_a, np.bincount(x.ravel(), minlength=10) / x.size, rtol=1e-6
    )
    assert found.centred_aa is None


@pytest.mark.slow
def test_the_batch_size_is_chosen_and_changes_nothing(measured_pair):
    apply, spec, a, b, x = measured_pair("convolutional")
    chosen = jax.jit(lambda a, b: activation_moments(apply, spec, a, b, x))(a, b)
    given = jax.jit(lambda a, b: activation_moments(apply, spec, a, b, x, batch_size=2))(a, b)
    chex.assert_trees_all_close(chosen, given, rtol=1e-3, atol=1e-3)


def test_errors(measured_pair):
    apply, spec, a, b, x = measured_pair("stack")
    with pytest.raises(ValueError, match=r"empty.*\(0, 4\)"):
        activation_moments(apply, spec, a, b, x[:0])
    with pytest.raises(ValueError, match="at least 1, not 0"):
        activation_moments(apply, spec, a, b, x, batch_size=0)
    with pytest.raises(ValueError, match="leading axis of samples"):
        activation_moments(lambda p, x: apply(p, x[0]), spec, a, b, (x, x[:3]))


def test_apply_may_close_over_traced_values():
    """The program is read anew in every call: nothing traced outlives its trace."""
    network = FlaxNetwork(MLP((5,), 3), (4,))
    params = network.init(jax.random.key(0))
    inputs = jax.random.normal(jax.random.key(1), (7, 4))

    @jax.jit
    @jax.vmap
    def measure(scale):
        def scaled(params, x):
            return network.apply(params, scale * x)

        return activation_moments(scaled, mlp_spec(1), params, params, inputs, batch_size=3)

    found = measure(np.float32([1, 2]))
    for i, scale in enumerate((1, 2)):
        mean = found.inputs["Dense_0/kernel"].mean_a[i]
        np.testing.assert_allclose(mean, scale * inputs.mean(0), rtol=1e-5, atol=1e-6)
