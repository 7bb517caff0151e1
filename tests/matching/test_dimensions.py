"""The approximate dimension of what a matching compares, against the paper's formulas."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import (
    ActivationMoments,
    Correlation,
    Moments,
    Weights,
    activation_moments,
    approximate_dimensions,
)
from lmcjax.matching import similarity_from_name


def activations(params: Any, inputs: np.ndarray) -> list[np.ndarray]:
    """phi_0 ... phi_L of a ReLU MLP in float64."""
    phi = [np.asarray(inputs, np.float64)]
    for layer in list(params.values())[:-1]:
        kernel = np.asarray(layer["kernel"], np.float64)
        phi.append(np.maximum(phi[-1] @ kernel + np.asarray(layer["bias"]), 0))
    return phi


def second_moment(phi: np.ndarray) -> np.ndarray:
    return phi.T @ phi / (len(phi) - 1)


@pytest.mark.parametrize("similarity", ["weights", "covariance", "activations"])
def test_approximate_dimensions_equal_the_papers_formulas(similarity: str, pair: Any) -> None:
    phi = activations(pair.params_a, pair.inputs)

    @jax.jit
    def measure(a: Any, b: Any, inputs: Any) -> dict[str, jax.Array]:
        apply = pair.network.apply
        moments = activation_moments(apply, pair.spec, a, b, inputs, batch_size=100)
        by_name = similarity_from_name(similarity, moments)
        return approximate_dimensions(pair.spec, a, similarity=by_name)

    dimensions = measure(pair.params_a, pair.params_b, pair.inputs)
    assert set(dimensions) == set(pair.spec.groups)
    for layer, group in enumerate(pair.spec.groups, start=1):
        w = np.asarray(pair.params_a[group]["kernel"], np.float64).T
        matrix = {
            "weights": w.T @ w,
            "covariance": w @ second_moment(phi[layer - 1]) @ w.T,
            "activations": second_moment(phi[layer]),
        }[similarity]
        expected = np.trace(matrix) ** 2 / np.trace(matrix @ matrix)
        assert float(dimensions[group]) == pytest.approx(expected, rel=1e-4)
        assert 1 <= expected <= min(w.shape) or similarity == "activations"


def test_approximate_dimensions_have_no_unit(small_pairs: Any) -> None:
    powers = np.array([0, -100, -30, 30, 100])

    def in_other_units(leaf: jax.Array) -> np.ndarray:
        return np.ldexp(leaf[0], powers.reshape(-1, *[1] * (leaf.ndim - 1)))

    scaled = jax.tree.map(in_other_units, small_pairs.params_a)
    measure = functools.partial(approximate_dimensions, small_pairs.spec, similarity=Weights())
    measured = jax.jit(jax.vmap(measure))(scaled)
    for dimension in measured.values():
        np.testing.assert_array_equal(dimension, np.broadcast_to(dimension[0], len(powers)))


@pytest.mark.usefixtures("unchecked", "strict_promotion")
def test_dimensions_refuse_what_has_none(pair: Any) -> None:
    vector = jnp.zeros(24)
    matrix = jnp.eye(24)
    moments = Moments(jnp.float32(9), vector, vector, matrix, matrix, matrix)
    similarity = Correlation(ActivationMoments({"Dense_1/kernel": moments}, {}))
    with pytest.raises(ValueError, match="Correlation has no approximate dimension"):
        approximate_dimensions(pair.spec, pair.params_a, similarity=similarity)
