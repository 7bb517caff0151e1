"""The Sinkhorn operator: gradients against finite differences and an unrolled scan."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import apply_soft, mlp_spec
from lmcjax.matching import random_point_loss, soft_alignments, weight_distance

pytestmark = pytest.mark.usefixtures("quick_compilation")


def mean_square(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def apply(params, x):
    for i in range(len(params)):
        layer = params[f"Dense_{i}"]
        x = (jnp.tanh(x) if i else x) @ layer["kernel"] + layer["bias"]
    return x


def scanned(x, temperature, num_iterations=400):
    """Sinkhorn's iterations in the log domain, differentiated through: `T` with sums 1."""

    def step(potentials, _):
        u, v = potentials
        u = -jax.nn.logsumexp(x / temperature + v, axis=1, keepdims=True)
        v = -jax.nn.logsumexp(x / temperature + u, axis=0, keepdims=True)
        return (u, v), None

    zero = jnp.zeros_like(x)
    (u, v), _ = jax.lax.scan(step, (zero[:, :1], zero[:1]), None, num_iterations)
    return jnp.exp(x / temperature + u + v)


@pytest.fixture(scope="module")
def double_pair(small_pairs):
    """The first of the small pairs and its data, in double precision where that is on."""
    a, b = (jax.tree.map(lambda v: np.asarray(v[0], np.float64), p) for p in small_pairs[2:4])
    x = np.asarray(small_pairs.inputs, np.float64)
    return a, b, (x, np.sin(x[:, :3]))


@pytest.mark.slow
def test_gradients_are_finite_differences_and_those_of_a_scan(
    double_pair, x64, rng, finite_difference
):
    """In the logits and in the temperature, through both layers' alignments at once."""
    a, b, data = double_pair
    at_random = random_point_loss(apply, mean_square, data, batch_size=20)

    def loss(a, b, key):
        return 0.1 * weight_distance(a, b) + at_random(a, b, key)

    logits = {"Dense_0": rng.normal(size=(8, 8)), "Dense_1": rng.normal(size=(6, 6))}

    def implicit(logits, temperature):
        soft = soft_alignments(
            logits, temperature=temperature, threshold=1e-13, max_iterations=5000
        )
        return loss(a, apply_soft(mlp_spec(2), soft.alignments, b), jax.random.key(1))

    def unrolled(logits, temperature):
        soft = {g: scanned(x, temperature) for g, x in logits.items()}
        return loss(a, apply_soft(mlp_spec(2), soft, b), jax.random.key(1))

    of_implicit = jax.jit(jax.value_and_grad(implicit, argnums=(0, 1)))(logits, 0.5)
    of_scan = jax.jit(jax.value_and_grad(unrolled, argnums=(0, 1)))(logits, 0.5)
    chex.assert_trees_all_close(of_implicit, of_scan, rtol=1e-8, atol=1e-10)
    value = jax.jit(implicit)
    slope = finite_difference(lambda t: float(value(logits, t)), np.array(0.5))
    np.testing.assert_allclose(of_implicit[1][1], slope, rtol=1e-6)
    for group, x in logits.items():
        entries = rng.integers(0, len(x), (2, 2))
        for i, j in entries:

            def at(v, group=group, x=x, i=i, j=j):
                changed = x.copy()
                changed[i, j] = v
                return float(value({**logits, group: changed}, 0.5))

            oracle = finite_difference(at, x[i, j])
            np.testing.assert_allclose(of_implicit[1][0][group][i, j], oracle, rtol=1e-5, atol=1e-9)


def test_gradients_near_a_permutation_are_finite(rng):
    """In single precision, where the fixed point's linear system is singular to rounding."""
    logits = {
        "g": jnp.asarray(
            20 * np.eye(12)[rng.permutation(12)] + rng.normal(size=(12, 12)), jnp.float32
        )
    }
    target = rng.normal(size=(12, 12)).astype(np.float32)
    of_logits = jax.jit(
        jax.grad(lambda x: jnp.sum(target * soft_alignments(x, temperature=0.1).alignments["g"]))
    )
    assert np.abs(of_logits(logits)["g"]).max() < 1e-3


@pytest.mark.parametrize("temperature", [-0.5, 0.0, np.nan])
def test_a_known_temperature_is_above_0(temperature):
    with pytest.raises(ValueError, match="temperature is above 0, not"):
        soft_alignments({"g": jnp.eye(3)}, temperature=temperature)
