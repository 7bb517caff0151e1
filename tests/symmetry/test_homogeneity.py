"""Which units may be rescaled, and the powers that go with it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import discover, mlp_spec
from lmcjax.symmetry import homogeneous_groups, rescale

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = jax.random.normal(jax.random.key(0), (16, 5))
IMAGES = jax.random.normal(jax.random.key(1), (4, 6, 6, 2))


def dense(params, x, act):
    h = act(x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"])
    return h @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


PARAMS = {
    "Dense_0": {"kernel": jax.random.normal(jax.random.key(2), (5, 6)) / 2, "bias": jnp.ones(6) / 3},
    "Dense_1": {"kernel": jax.random.normal(jax.random.key(3), (6, 3)), "bias": jnp.zeros(3)},
}


@pytest.mark.parametrize("act", [nn.relu, nn.leaky_relu, jnp.abs, lambda h: h], ids=["relu", "leaky", "abs", "linear"])
def test_homogeneous_units(act):
    found = homogeneous_groups(functools.partial(dense, act=act), mlp_spec(1), PARAMS, X)
    exponents = {("Dense_0/kernel", 1): 1, ("Dense_0/bias", 0): 1, ("Dense_1/kernel", 0): -1}
    assert found == {"Dense_0": exponents}
    factors = {"Dense_0": jnp.array([1e-3, 0.1, 1.0, 5.0, 70.0, 300.0])}
    scaled = rescale(mlp_spec(1), found, factors, PARAMS)
    np.testing.assert_allclose(dense(scaled, X, act), dense(PARAMS, X, act), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scaled["Dense_0"]["bias"], factors["Dense_0"] / 3)


@pytest.mark.parametrize("act", [jnp.tanh, nn.gelu, nn.silu, nn.relu6, jnp.square, nn.softplus, nn.elu])
def test_units_that_are_not(act):
    assert homogeneous_groups(functools.partial(dense, act=act), mlp_spec(1), PARAMS, X) == {}


def groups_of(module, x, **variables):
    init = module.init(jax.random.key(0), x)

    def apply(variables, x):
        return module.apply(variables, x)

    spec = discover(apply, init, x)
    return spec, homogeneous_groups(apply, spec, init, x)


def test_batch_norm_in_evaluation_mode():
    """The mean goes with the weights, the variance and the scale do not."""

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x)))
            return nn.Dense(3)(x.reshape(x.shape[0], -1))

    _, found = groups_of(Network(), IMAGES)
    (exponents,) = found.values()
    assert exponents == {
        ("params/Conv_0/kernel", 3): 1,
        ("params/Conv_0/bias", 0): 1,
        ("batch_stats/BatchNorm_0/mean", 0): 1,
        ("batch_stats/BatchNorm_0/var", 0): 0,
        ("params/BatchNorm_0/scale", 0): 0,
        ("params/BatchNorm_0/bias", 0): 1,
        ("params/Dense_0/kernel", 0): -1,
    }


def test_only_the_hidden_neurons_of_a_normalised_residual_block():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(6)(x)
            x = x + nn.Dense(6)(nn.relu(nn.Dense(8)(nn.LayerNorm()(x))))
            return nn.Dense(3)(nn.LayerNorm()(x))

    spec, found = groups_of(Network(), X)
    assert set(spec.groups) - set(found) == {next(g for g, shape in spec.shapes if shape == (6,))}
    assert set(found) == {next(g for g, shape in spec.shapes if shape == (8,))}


def test_a_group_without_exponents_is_an_error():
    with pytest.raises(ValueError, match="'Dense_0' has no exponents"):
        rescale(mlp_spec(1), {}, {"Dense_0": jnp.ones(6)}, PARAMS)
