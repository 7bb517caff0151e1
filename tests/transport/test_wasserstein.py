"""The Wasserstein distance against POT and closed forms, its gradient against POT's."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from lmcjax import linear_assignment, wasserstein2

pytestmark = pytest.mark.usefixtures("strict_promotion")


distance = jax.jit(wasserstein2)


def pot_wasserstein2(x: np.ndarray, y: np.ndarray) -> float:
    uniform = np.full(len(x), 1 / len(x))
    return np.sqrt(ot.emd2(uniform, uniform, ot.dist(x, y, metric="sqeuclidean")))


def clouds(
    rng: np.random.Generator, n: int, d: int, count: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(count, n, d)), 1.5 * rng.normal(size=(count, n, d)) + 0.3


@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 4), (7, 1), (20, 3), (40, 60)])
def test_equals_pot(n: int, d: int, rng: np.random.Generator) -> None:
    x, y = (c[0] for c in clouds(rng, n, d))
    single = distance(x.astype(np.float32), y.astype(np.float32))
    assert single.dtype == jnp.float32
    assert float(single) == pytest.approx(pot_wasserstein2(x, y), rel=1e-5)


def test_equals_pot_in_float64(rng: np.random.Generator, x64: None) -> None:
    x, y = clouds(rng, 15, 4, count=3)
    distances = jax.jit(jax.vmap(wasserstein2))(x, y)
    assert distances.dtype == jnp.float64
    np.testing.assert_allclose(
        distances, [pot_wasserstein2(*c) for c in zip(x, y, strict=True)], rtol=1e-12
    )


def test_the_unit_of_the_points_is_that_of_the_distance(rng: np.random.Generator) -> None:
    """To the last bit, and the gradient, which has no unit, too."""
    powers = np.array([0, -100, -63, -10, 10, 63, 100])
    x, y = (np.ldexp(c[0].astype(np.float32), powers[:, None, None]) for c in clouds(rng, 6, 2))
    distances, gradients = jax.jit(jax.vmap(jax.value_and_grad(wasserstein2)))(x, y)
    np.testing.assert_array_equal(distances, np.ldexp(np.float32(distances[0]), powers))
    np.testing.assert_array_equal(gradients, np.broadcast_to(gradients[0], gradients.shape))


@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e22, 1e36])
def test_tiny_and_huge_clouds_equal_pot(size: float, rng: np.random.Generator) -> None:
    x, y = ((size * c[0]).astype(np.float32) for c in clouds(rng, 7, 1))
    expected = size * pot_wasserstein2(np.float64(x) / size, np.float64(y) / size)
    assert float(distance(x, y)) == pytest.approx(expected, rel=1e-5, abs=0)


def test_a_distance_that_is_no_number_of_its_dtype_says_so() -> None:
    """Not 0, where the clouds are closer than any normal number, and 0 where they coincide."""
    points_x = np.array([[1, 0], [0, 0], [0, 0], [3e38, 0]], np.float32)
    points_y = np.array([[1.25, 0], [0, 0], [0, 0], [-3e38, 0]], np.float32)
    x = np.repeat(points_x[:, None, :], 2, axis=1)  # two equal points per cloud
    y = np.repeat(points_y[:, None, :], 2, axis=1)
    x[:2] *= np.float32(2**-126)
    y[:2] *= np.float32(2**-126)
    distances = jax.jit(jax.vmap(wasserstein2))(x, y)
    np.testing.assert_array_equal(distances, [np.nan, 0, 0, np.inf])


def test_in_one_dimension_is_the_distance_of_the_sorted_points(rng: np.random.Generator) -> None:
    x, y = (c[0].astype(np.float32) for c in clouds(rng, 31, 1))
    sorted_distance = np.sqrt(np.mean((np.sort(x, axis=0) - np.sort(y, axis=0)) ** 2))
    assert float(distance(x, y)) == pytest.approx(sorted_distance, rel=1e-6)


@pytest.mark.parametrize("offset", [0, 4096])
def test_of_a_shifted_cloud_is_the_length_of_the_shift(
    offset: float, rng: np.random.Generator
) -> None:
    """Far from the origin too, where `x . y` in float32 would lose which points are near."""
    x = (rng.normal(size=(30, 3)) + offset).astype(np.float32)
    y = rng.permutation(x) + np.array([0.25, 0.25, -0.25], np.float32)
    assert float(distance(x, y)) == pytest.approx(
        0.25 * np.sqrt(3), rel=1e-6 if offset == 0 else 1e-3
    )


def test_squared_and_times_m_is_the_best_matching_of_weights(rng: np.random.Generator) -> None:
    """Lemma B.3: `min_P ||W_A - P W_B||_F^2 = m W_2^2`, where P maximises `<P, W_A W_B^T>`."""
    a, b = (c[0].astype(np.float32) for c in clouds(rng, 12, 5))
    p = linear_assignment(a @ b.T, maximize=True)
    assert np.sum((a - b[p]) ** 2) == pytest.approx(12 * float(distance(a, b)) ** 2, rel=1e-5)


def test_gradients_are_those_of_pot(
    rng: np.random.Generator, x64: None, finite_difference: Callable
) -> None:
    x, y = clouds(rng, 6, 2, count=3)
    gradients = jax.jit(jax.vmap(jax.grad(wasserstein2, argnums=(0, 1))))(x, y)
    for i in range(3):
        in_x = finite_difference(lambda v: pot_wasserstein2(v, y[i]), x[i])
        in_y = finite_difference(lambda v: pot_wasserstein2(x[i], v), y[i])
        np.testing.assert_allclose(gradients[0][i], in_x, atol=1e-8)
        np.testing.assert_allclose(gradients[1][i], in_y, atol=1e-8)


def test_coinciding_clouds_have_distance_and_gradient_zero(rng: np.random.Generator) -> None:
    """Also next to a pair that is apart, in one batch."""
    x, y = (c.astype(np.float32) for c in clouds(rng, 6, 2, count=2))
    y[0] = x[0, ::-1]
    distances, gradients = jax.jit(jax.vmap(jax.value_and_grad(wasserstein2)))(x, y)
    assert float(distances[0]) == 0
    np.testing.assert_array_equal(gradients[0], np.zeros((6, 2)))
    assert np.isfinite(gradients[1]).all()
    assert float(np.linalg.norm(gradients[1])) == pytest.approx(np.sqrt(1 / 6), rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_point_gives_nan_and_spoils_no_neighbour(
    bad: float, rng: np.random.Generator
) -> None:
    x, y = (c.astype(np.float32) for c in clouds(rng, 6, 2, count=2))
    batched = jax.jit(jax.vmap(wasserstein2))
    clean = batched(x, y)
    x[0, 0, 0] = bad
    distances = batched(x, y)
    assert np.isnan(distances[0])
    np.testing.assert_array_equal(distances[1], clean[1])


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bfloat16])
def test_integers_and_half_precision_give_float32(dtype: jnp.dtype) -> None:
    points = jnp.array([[0, 0], [3, 4]], dtype)
    with jax.numpy_dtype_promotion("standard"):
        result = distance(points, points + 1)
    assert result.dtype == jnp.float32
    assert float(result) == pytest.approx(np.sqrt(2), rel=1e-6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3, 2), (3, 1)), ((3,), (3,))])
def test_clouds_of_different_shapes_are_an_error(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    with pytest.raises(ValueError, match=r"\(3.*\) and \([34]"):
        wasserstein2(jnp.zeros(shapes[0]), jnp.zeros(shapes[1]))
