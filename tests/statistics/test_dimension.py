"""The approximate dimension against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from lmcjax import approximate_dimension

pytestmark = pytest.mark.usefixtures("strict_promotion")

dimension = jax.jit(approximate_dimension)
gradient_of_dimension = jax.jit(jax.grad(approximate_dimension))


def random_moment(rng: np.random.Generator, n: int = 6, rank: int = 6) -> np.ndarray:
    x = rng.normal(size=(n, rank))
    return (x @ x.T).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 17])
def test_of_the_identity_is_n(n: int) -> None:
    assert float(dimension(jnp.eye(n))) == pytest.approx(n, rel=1e-6)


def test_of_rank_one_is_one(rng: np.random.Generator) -> None:
    assert float(dimension(random_moment(rng, rank=1))) == pytest.approx(1, rel=1e-5)


@given(st.lists(st.floats(0.125, 8, width=32), min_size=1, max_size=5))
def test_of_a_diagonal(values: list[float]) -> None:
    v = np.array(values, np.float32)
    assert float(dimension(jnp.diag(v))) == pytest.approx(v.sum() ** 2 / (v**2).sum(), rel=1e-5)


def test_is_that_of_the_eigenvalues_and_of_both_gram_matrices(rng: np.random.Generator) -> None:
    w = rng.normal(size=(5, 9)).astype(np.float32)
    eigenvalues = np.linalg.eigvalsh((w @ w.T).astype(np.float64))
    expected = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert float(dimension(w @ w.T)) == pytest.approx(expected, rel=1e-5)
    assert float(dimension(w.T @ w)) == pytest.approx(expected, rel=1e-5)
    assert 1 <= expected <= 5


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_does_not_depend_on_the_scale(scale: float, rng: np.random.Generator) -> None:
    matrix = random_moment(rng)
    assert float(dimension(matrix * np.float32(scale))) == pytest.approx(
        float(dimension(matrix)), rel=1e-5
    )
    gradient = gradient_of_dimension(jnp.asarray(matrix * np.float32(scale)))
    np.testing.assert_allclose(
        gradient * np.float32(scale), gradient_of_dimension(matrix), rtol=1e-4, atol=1e-6
    )


def test_gradient_equals_finite_differences(rng: np.random.Generator, x64: None) -> None:
    """In the matrix itself, and in a factor of `W W^T`, in a batch."""
    factors = rng.normal(size=(2, 4, 3))
    check_grads(dimension, (factors[0] @ factors[0].T,), order=1, modes=["rev", "fwd"])
    batched = jax.jit(jax.vmap(lambda w: approximate_dimension(w @ w.T)))
    check_grads(batched, (factors,), order=1, modes=["rev"])


def test_of_zero_is_nan_and_spoils_no_neighbour() -> None:
    result = jax.vmap(approximate_dimension)(jnp.stack([jnp.zeros((3, 3)), jnp.eye(3)]))
    assert np.isnan(result[0])
    assert float(result[1]) == pytest.approx(3)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bfloat16])
def test_integers_and_half_precision_give_float32(dtype: jnp.dtype) -> None:
    with jax.numpy_dtype_promotion("standard"):
        result = approximate_dimension(jnp.eye(300, dtype=dtype))
    assert result.dtype == jnp.float32
    assert float(result) == 300  # bfloat16 counts to 256


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(3, 4), (3,), (2, 3, 3)])
def test_only_square_matrices_have_one(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"\({shape[0]}.*square.*vmap"):
        approximate_dimension(jnp.ones(shape))
