"""The barrier against closed forms and a NumPy loop, and its gradient."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lmcjax import linear_barrier, require_finite

pytestmark = pytest.mark.usefixtures("strict_promotion")


class LossAndNorm(NamedTuple):
    loss: jax.Array
    norm: jax.Array


def concave(params: Any) -> jax.Array:
    return -sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def wavy(params: Any) -> jax.Array:
    return jnp.sum(jnp.sin(3 * params["w"])) + jnp.sum(params["b"]) ** 2


def ends(rng: np.random.Generator, *batch: int) -> list[dict[str, np.ndarray]]:
    return [
        {name: rng.normal(size=(*batch, n)).astype(np.float32) for name, n in (("w", 4), ("b", 2))}
        for _ in "ab"
    ]


@pytest.mark.parametrize("num_points", [2, 3, 4])
def test_of_a_concave_quadratic(num_points: int, rng: np.random.Generator) -> None:
    """`-||theta||^2` lies `t (1 - t) ||A - B||^2` above its chord.

    That is a quarter at the midpoint, on the grid or not.
    """
    a, b = ends(rng)
    result = linear_barrier(concave, a, b, num_points=num_points)
    square = float(-concave(jax.tree.map(np.subtract, a, b)))
    assert float(result.height) == pytest.approx(square / 4, rel=1e-5)
    t = np.linspace(0, 1, num_points)
    chord = (1 - t) * float(concave(a)) + t * float(concave(b))
    np.testing.assert_allclose(result.losses, chord + t * (1 - t) * square, rtol=1e-5)
    np.testing.assert_allclose(result.points, t, atol=1e-7)
    assert result.finite


def test_of_a_convex_loss_is_zero(rng: np.random.Generator) -> None:
    a, b = ends(rng)
    assert float(linear_barrier(lambda p: -concave(p), a, b).height) == 0
    assert float(linear_barrier(wavy, a, a).height) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("num_points", [5, 8])
def test_equals_a_loop_over_the_points(num_points: int, rng: np.random.Generator) -> None:
    a, b = ends(rng)
    result = linear_barrier(wavy, a, b, num_points=num_points)
    t = np.linspace(0, 1, num_points)
    t_and_middle = np.append(t, 0.5)
    losses = []
    for s in t_and_middle:
        w = (1 - s) * a["w"] + s * b["w"]
        bias = (1 - s) * a["b"] + s * b["b"]
        losses.append(np.sin(3 * w).sum() + bias.sum() ** 2)
    losses = np.array(losses)
    np.testing.assert_allclose(result.losses, losses[:-1], rtol=1e-4, atol=1e-5)
    height = max(losses - (1 - t_and_middle) * losses[0] - t_and_middle * losses[-2])
    assert float(result.height) == pytest.approx(height, rel=1e-4, abs=1e-5)
    assert float(result.height_over_mean) == pytest.approx(
        max(losses) - (losses[0] + losses[-2]) / 2, rel=1e-4
    )
    assert float(result.midpoint_loss) == pytest.approx(losses[-1], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("num_points", [3, 4, 25, 83])
def test_the_midpoint_is_at_one_half(num_points: int) -> None:
    """To the bit, whether the grid holds it or not, and no extra point shows in the results."""
    result = linear_barrier(
        lambda p: p[0], [jnp.float32(0)], [jnp.float32(1)], num_points=num_points
    )
    assert float(result.midpoint_loss) == 0.5
    assert result.points.shape == result.losses.shape == (num_points,)
    assert float(result.losses[0]) == 0
    assert float(result.losses[-1]) == 1


def test_height_over_mean_counts_unequal_ends() -> None:
    """A straight slope from 0 to 2: no barrier over the chord, 1 over the mean of the ends."""
    result = linear_barrier(lambda p: 2 * p[0], [jnp.float32(0)], [jnp.float32(1)])
    assert float(result.height) == pytest.approx(0, abs=1e-6)
    assert float(result.height_over_mean) == pytest.approx(1)


def test_further_metrics_come_along(rng: np.random.Generator) -> None:
    a, b = ends(rng)
    plain = linear_barrier(wavy, a, b, num_points=4)
    result = linear_barrier(lambda p: LossAndNorm(wavy(p), -concave(p)), a, b, num_points=4)
    assert isinstance(result.values, LossAndNorm)
    np.testing.assert_array_equal(result.losses, plain.losses)
    np.testing.assert_array_equal(result.height, plain.height)
    middle = jax.tree.map(lambda x, y: (x + y) / 2, a, b)
    assert float(result.midpoint.norm) == pytest.approx(float(-concave(middle)), rel=1e-5)
    assert result.values.norm.shape == (4,)


@pytest.mark.parametrize(("where", "bad"), [(0.0, np.nan), (0.5, np.inf), (1.0, -np.inf)])
def test_a_bad_loss_is_flagged_and_spoils_no_neighbour(
    where: float, bad: float, rng: np.random.Generator
) -> None:
    a, b = (side | {"t": np.full(3, i, np.float32)} for i, side in enumerate(ends(rng, 3)))

    def loss(params: Any) -> jax.Array:
        return jnp.where(params["cursed"] & (params["t"] == where), bad, wavy(params))

    batched = jax.jit(jax.vmap(functools.partial(linear_barrier, loss, num_points=4)))
    cursed, blessed = ({"cursed": np.array([False, curse, False])} for curse in (True, False))
    result, clean = batched(a | cursed, b | cursed), batched(a | blessed, b | blessed)
    assert result.finite.tolist() == [True, False, True]
    assert clean.finite.all()
    np.testing.assert_array_equal(np.asarray(result.height)[::2], np.asarray(clean.height)[::2])
    with pytest.raises(ValueError, match=r"BarrierResult\.finite is False at \[1\]: 1 of 3"):
        require_finite(result)


@pytest.mark.parametrize("field", ["height", "height_over_mean", "midpoint_loss"])
def test_gradients_equal_finite_differences(field: str, x64: None) -> None:
    a, b = (jax.tree.map(jnp.float64, side) for side in ends(np.random.default_rng(2)))
    value = jax.jit(lambda a, b: getattr(linear_barrier(wavy, a, b, num_points=6), field))
    assert value(a, b).dtype == jnp.float64
    check_grads(value, (a, b), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_errors_show_what_was_given(rng: np.random.Generator) -> None:
    a, b = ends(rng)
    for num_points in (1, 0):
        with pytest.raises(ValueError, match=f"at least 2 points, not num_points={num_points}"):
            linear_barrier(wavy, a, b, num_points=num_points)
    with pytest.raises(ValueError, match=r"loss of shape \(4,\), expected a scalar"):
        linear_barrier(lambda p: p["w"], a, b)
    with pytest.raises(ValueError, match=r"'w' has shape \(4,\) in params_a but \(3,\)"):
        linear_barrier(wavy, a, b | {"w": b["w"][:3]})
