"""Which units may be rescaled, and the powers that go with it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import Weights, discover, match_layerwise, mlp_spec, permute, random_permutations
from lmcjax.symmetry import canonical_scales, homogeneous_groups, invert, rescale

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = jax.random.normal(jax.random.key(0), (16, 5))
IMAGES = jax.random.normal(jax.random.key(1), (4, 6, 6, 2))


def dense(params, x, act):
    h = act(x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"])
    return h @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


PARAMS = {
    "Dense_0": {
        "kernel": jax.random.normal(jax.random.key(2), (5, 6)) / 2,
        "bias": jnp.ones(6) / 3,
    },
    "Dense_1": {"kernel": jax.random.normal(jax.random.key(3), (6, 3)), "bias": jnp.zeros(3)},
}


@pytest.mark.parametrize(
    "act", [nn.relu, nn.leaky_relu, jnp.abs, lambda h: h], ids=["relu", "leaky", "abs", "linear"]
)
@pytest.mark.slow
def test_homogeneous_units(act):
    found = homogeneous_groups(functools.partial(dense, act=act), mlp_spec(1), PARAMS, X)
    exponents = {("Dense_0/kernel", 1): 1, ("Dense_0/bias", 0): 1, ("Dense_1/kernel", 0): -1}
    assert found == {"Dense_0": exponents}
    factors = {"Dense_0": jnp.array([1e-3, 0.1, 1.0, 5.0, 70.0, 300.0])}
    scaled = rescale(mlp_spec(1), found, factors, PARAMS)
    np.testing.assert_allclose(dense(scaled, X, act), dense(PARAMS, X, act), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scaled["Dense_0"]["bias"], factors["Dense_0"] / 3)


@pytest.mark.parametrize(
    "act", [jnp.tanh, nn.gelu, nn.silu, nn.relu6, jnp.square, nn.softplus, nn.elu]
)
def test_units_that_are_not(act):
    assert homogeneous_groups(functools.partial(dense, act=act), mlp_spec(1), PARAMS, X) == {}


def groups_of(module, x, **variables):
    init = module.init(jax.random.key(0), x)

    def apply(variables, x):
        return module.apply(variables, x)

    spec = discover(apply, init, x)
    return spec, homogeneous_groups(apply, spec, init, x)


@pytest.mark.slow
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


@pytest.mark.slow
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


def deep(params, x):
    for i in range(len(params)):
        x = (nn.relu(x) if i else x) @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"]
    return x


def deep_params(seed):
    rng = np.random.default_rng(seed)
    shapes = ((5, 8), (8, 7), (7, 3))
    draws = [(rng.normal(size=s) / np.sqrt(s[0]), 0.3 * rng.normal(size=s[1])) for s in shapes]
    return {
        f"Dense_{i}": {"kernel": jnp.float32(k), "bias": jnp.float32(b)}
        for i, (k, b) in enumerate(draws)
    }


@pytest.mark.slow
def test_canonical_scales_have_norm_one_and_keep_the_outputs():
    """One neuron has no incoming weights, and stays."""
    spec, params = mlp_spec(2), deep_params(0)
    params["Dense_1"]["kernel"] = params["Dense_1"]["kernel"].at[:, 2].set(0)
    exponents = homogeneous_groups(deep, spec, params, X)
    found = jax.jit(functools.partial(canonical_scales, spec, exponents))(params)
    assert set(found.factors) == {"Dense_0", "Dense_1"}
    np.testing.assert_allclose(deep(found.params, X), deep(params, X), rtol=1e-4, atol=1e-5)
    norms = [
        np.linalg.norm(found.params[name]["kernel"], axis=0) for name in ("Dense_0", "Dense_1")
    ]
    np.testing.assert_allclose(norms[0], 1, rtol=1e-5)
    np.testing.assert_allclose(norms[1], np.where(np.arange(7) == 2, 0, 1), rtol=1e-5)
    assert found.factors["Dense_1"][2] == 1
    np.testing.assert_allclose(
        found.factors["Dense_0"], 1 / np.linalg.norm(params["Dense_0"]["kernel"], axis=0), 1e-5
    )
    again = canonical_scales(spec, exponents, found.params)
    np.testing.assert_allclose(
        again.params["Dense_2"]["kernel"], found.params["Dense_2"]["kernel"], rtol=1e-5
    )


@pytest.mark.slow
def test_canonical_scales_undo_any_scales_so_that_a_copy_is_recovered():
    """Shuffled and rescaled by 1/30 to 30; by its raw weights it is not."""
    spec, params = mlp_spec(2), deep_params(1)
    exponents = homogeneous_groups(deep, spec, params, X)
    spec = spec.bind(params)
    planted = random_permutations(jax.random.key(0), spec)
    draws = np.random.default_rng(2).uniform(-1, 1, (2, 8))
    factors = {"Dense_0": jnp.float32(30 ** draws[0]), "Dense_1": jnp.float32(30 ** draws[1, :7])}
    copy = permute(spec, invert(spec, planted), rescale(spec, exponents, factors, params))
    match = jax.jit(functools.partial(match_layerwise, spec, similarity=Weights()))
    raw = match(params, copy).permutations
    scaled = (canonical_scales(spec, exponents, p).params for p in (params, copy))
    found = match(*scaled).permutations
    for group, p in planted.items():
        np.testing.assert_array_equal(found[group], p)
    assert any((raw[group] != p).any() for group, p in planted.items())


def test_canonical_scales_leave_out_what_reads_itself():
    """Rescaling a linear residual stream to norm 1 would change its norm, because it reads itself.

    As far as its exponents go, it is homogeneous.
    """
    spec = discover(
        lambda p, x: (x @ p["in"] + nn.relu(x @ p["in"] @ p["up"]) @ p["down"]) @ p["out"],
        STREAM,
        X,
    )
    by_leaf = {name: axes[-1].group for name, axes in spec.leaves if axes[-1]}
    stream, hidden = by_leaf["in"], by_leaf["up"]
    exponents = {
        g: {p.key: -1 if p.role == "reads" else 1 for p in spec.places(g)} for g in spec.groups
    }
    found = canonical_scales(spec, exponents, STREAM)
    assert set(found.factors) == {stream}
    only = canonical_scales(spec, {hidden: exponents[hidden]}, STREAM)
    assert set(only.factors) == {hidden}
    np.testing.assert_allclose(np.linalg.norm(only.params["up"], axis=0), 1, rtol=1e-5)


STREAM = {
    name: jax.random.normal(jax.random.key(i), shape)
    for i, (name, shape) in enumerate(
        {"in": (5, 4), "up": (4, 6), "down": (6, 4), "out": (4, 3)}.items()
    )
}
