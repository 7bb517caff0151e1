"""The straight line between two networks."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcjax import interpolate

pytestmark = pytest.mark.usefixtures("strict_promotion")


class State(NamedTuple):
    params: Any
    step: Any


def trees(seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return tuple(
        State(
            {
                "w": rng.normal(size=(3, 2)).astype(np.float32),
                "b": [rng.normal(size=2).astype(np.float32)],
            },
            np.int32(i),
        )
        for i in (5, 9)
    )


@given(seed=st.integers(0, 10_000), exponent=st.integers(-30, 30))
def test_the_ends_are_the_networks_to_the_bit(seed: int, exponent: int) -> None:
    a, b = (tree.params for tree in trees(seed))
    b = jax.tree.map(lambda leaf: leaf * np.float32(10.0**exponent), b)
    for t, end in ((0.0, a), (1.0, b)):
        for actual, expected in zip(
            jax.tree.leaves(interpolate(a, b, t)), jax.tree.leaves(end), strict=True
        ):
            assert np.asarray(actual).tobytes() == expected.tobytes()


@pytest.mark.parametrize("t", [-0.5, 0.25, 0.5, 0.9, 2.0])
def test_between_them_it_is_linear(t: float) -> None:
    a, b = (tree.params for tree in trees())
    expected = jax.tree.map(lambda x, y: (1 - t) * x.astype(np.float64) + t * y, a, b)
    chex.assert_trees_all_close(interpolate(a, b, t), jax.tree.map(np.float32, expected), atol=1e-6)
    chex.assert_trees_all_equal(interpolate(a, b, jnp.float32(t)), interpolate(a, b, t))


def test_what_is_not_floating_point_stays_as_in_a() -> None:
    a, b = trees()
    key_a, key_b = jax.random.split(jax.random.key(0))
    point = interpolate((a, key_a, True), (b, key_b, False), 0.75)
    assert point[0].step == 5
    assert point[0].step.dtype == jnp.int32
    assert point[1] == key_a
    assert bool(point[2]) is True
    assert isinstance(point[0], State)


@pytest.mark.parametrize("other", [np.int32(3), np.int8(3), True, jax.random.key(3)])
def test_an_integer_against_a_float_is_an_error(other: Any) -> None:
    """Neither t = 0 nor t = 1 could be exact; the leaf and both dtypes are named, whichever side it
    is on.
    """
    a, b = {"w": np.float32(1), "step": np.float32(2)}, {"w": np.float32(1), "step": other}
    dtype = jnp.result_type(other).name.replace("<", ".").replace(">", ".")
    with pytest.raises(ValueError, match=f"'step' is float32 in params_a but {dtype} in params_b"):
        interpolate(a, b, 1.0)
    with pytest.raises(ValueError, match=f"'step' is {dtype} in params_a but float32 in params_b"):
        jax.eval_shape(interpolate, b, a, 1.0)


def test_counters_of_different_width_stay_as_in_a() -> None:
    point = interpolate({"step": np.int32(5)}, {"step": np.int8(9)}, 1.0)
    assert (point["step"], point["step"].dtype) == (5, jnp.int32)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_the_dtype_stays(dtype: jnp.dtype) -> None:
    a, b = jnp.zeros(3, dtype), jnp.ones(3, dtype)
    for t in (0.25, jnp.float32(0.25)):
        assert interpolate(a, b, t).dtype == dtype
        np.testing.assert_array_equal(interpolate(a, b, t), np.full(3, 0.25))


def test_the_derivative_in_t_is_the_difference() -> None:
    a, b = (tree.params for tree in trees())
    slope = jax.jit(jax.jacobian(lambda t: interpolate(a, b, t)))(0.3)
    chex.assert_trees_all_close(slope, jax.tree.map(lambda x, y: y - x, a, b), atol=1e-6)


def test_the_gradient_in_the_ends_is_the_weight() -> None:
    a, b = (tree.params["w"] for tree in trees())
    in_a, in_b = jax.grad(lambda x, y: interpolate(x, y, 0.25).sum(), argnums=(0, 1))(
        jnp.asarray(a), jnp.asarray(b)
    )
    np.testing.assert_allclose(in_a, np.full((3, 2), 0.75))
    np.testing.assert_allclose(in_b, np.full((3, 2), 0.25))


def test_many_points_by_vmap() -> None:
    a, b = (tree.params for tree in trees())
    ts = jnp.linspace(0, 1, 5)
    path = jax.jit(jax.vmap(interpolate, in_axes=(None, None, 0)))(a, b, ts)
    chex.assert_trees_all_close(
        path, jax.tree.map(lambda *p: jnp.stack(p), *(interpolate(a, b, t) for t in ts))
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"w": np.zeros((2, 3), np.float32)},
            r"'w' has shape \(3, 2\) in params_a but \(2, 3\) in params_b",
        ),
        ({"v": np.zeros((3, 2), np.float32)}, r"'v' exists only in params_b"),
        ([np.zeros((3, 2), np.float32)], "exists only in params_b"),
    ],
)
def test_trees_that_differ_are_an_error(other: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interpolate({"w": np.zeros((3, 2), np.float32)}, other, 0.5)
