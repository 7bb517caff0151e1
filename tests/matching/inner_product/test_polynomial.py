"""The exact line search, against NumPy's roots."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax.matching.inner_product._polynomial import largest_on_segment, points, through

pytestmark = pytest.mark.usefixtures("quick_compilation", "strict_promotion")


def by_roots(coefficients: np.ndarray) -> float:
    """The largest value on [0, 1]."""
    polynomial = np.polynomial.Polynomial(coefficients)
    roots = polynomial.deriv().roots()
    inside = [r.real for r in roots if abs(r.imag) < 1e-9 and 0 < r.real < 1]
    return max(polynomial(x) for x in (0, 1, *inside))


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_the_best_step_is_that_of_numpys_roots(degree: int, rng: np.random.Generator) -> None:
    """Polynomials with roots of the derivative inside, outside and off the real line."""
    coefficients = np.concatenate(
        [rng.normal(size=(100, degree + 1)), np.zeros((1, degree + 1))]
    ).astype(np.float32)
    roots = rng.uniform(-0.5, 1.5, size=(100, degree - 1))
    with_roots = (
        [np.polynomial.Polynomial.fromroots(r).integ().coef for r in roots] if degree > 1 else []
    )
    coefficients = np.concatenate([coefficients, *(np.float32([c]) for c in with_roots)])
    steps = jax.jit(jax.vmap(largest_on_segment))(jnp.asarray(coefficients))
    for c, step in zip(coefficients.astype(np.float64), np.asarray(steps), strict=True):
        assert 0 <= step <= 1
        assert np.polynomial.Polynomial(c)(step) == pytest.approx(by_roots(c), abs=2e-6)


@pytest.mark.parametrize("degree", [1, 3])
def test_a_polynomial_is_found_again(degree: int, rng: np.random.Generator) -> None:
    coefficients = rng.normal(size=degree + 1)
    values: list[Any] = [
        jnp.float32(np.polynomial.Polynomial(coefficients)(x)) for x in points(degree)
    ]
    np.testing.assert_allclose(
        through(values, jnp.float32(coefficients[1])), coefficients, atol=1e-4
    )
