"""What searches make small, against NumPy."""

import jax
import numpy as np
import pytest

from lmcjax import (
    ActivationMoments,
    Activations,
    Correlation,
    Covariance,
    Weights,
    activation_moments,
    covariance_distance,
    mlp_spec,
    weight_distance,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_the_covariance_distance_is_what_the_kernels_outputs_differ_by(pair):
    """With B's kernels in A's network, each for itself; biases by their distance."""
    spec, a, b, x = pair.spec, pair.params_a, pair.params_b, pair.inputs
    moments = jax.jit(lambda a, x: activation_moments(pair.network.apply, spec, a, a, x))(a, x)
    phi, expected = np.asarray(x, np.float64), 0.0
    for name in a:
        w_a, w_b, b_a, b_b = (
            np.asarray(p[name][k], np.float64) for k in ("kernel", "bias") for p in (a, b)
        )
        expected += ((phi @ (w_a - w_b)) ** 2).sum() / (len(x) - 1) + ((b_a - b_b) ** 2).sum()
        phi = np.maximum(phi @ w_a + b_a, 0)
    distance = covariance_distance(spec, Covariance(moments))
    assert float(distance(a, b, jax.random.key(0))) == pytest.approx(expected, rel=1e-4)
    assert float(distance(a, a, jax.random.key(0))) == 0
    assert abs(float(weight_distance(a, b)) / expected - 1) > 0.03
    without_inputs = Covariance(moments._replace(inputs={}))
    with pytest.raises(ValueError, match="no moments of the inputs of kernel 'Dense_0/kernel'"):
        covariance_distance(mlp_spec(3), without_inputs)(a, b, jax.random.key(0))


@pytest.mark.parametrize("kind", [Activations, Correlation])
def test_a_similarity_without_a_metric_has_no_distance(kind):
    similarity = kind(ActivationMoments({}, {}))
    with pytest.raises(ValueError, match=f"{kind.__name__} defines no metric on kernels"):
        covariance_distance(mlp_spec(3), similarity)


def test_the_distance_by_weights_is_the_plain_one(pair):
    distance = covariance_distance(pair.spec, Weights())
    assert float(distance(pair.params_a, pair.params_b, jax.random.key(0))) == float(
        weight_distance(pair.params_a, pair.params_b)
    )
