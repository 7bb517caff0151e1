"""Loss along a path between two networks, and how high its barrier is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from lmcjax.interpolation import straight_line


class BarrierResult(NamedTuple):
    """One pair; `vmap` prepends axes to every field."""

    height: Float[Array, ""]  # max over the points of loss - chord, the loss's unit; at least 0
    height_over_mean: Float[Array, ""]  # max over the points of loss - (loss at A + loss at B) / 2
    midpoint_loss: Float[Array, ""]  # at t = 1/2, the "LMC error" of the paper's Figure 2
    points: Float[Array, " num_points"]  # t, from 0 (A) to 1 (B)
    values: PyTree  # what loss_fn returned, each with a leading axis num_points
    midpoint: PyTree  # what loss_fn returned at t = 1/2
    finite: Bool[Array, ""]  # False: some loss is nan or inf, ignore the heights

    @property
    def losses(self) -> Array:
        """The loss at each point, `[num_points]`."""
        return _loss(self.values)


def _loss(value: PyTree) -> Array:
    """The loss itself, of what a `loss_fn` returned."""
    return value[0] if isinstance(value, tuple) else value


def linear_barrier(
    loss_fn: Callable[[PyTree], Any], params_a: PyTree, params_b: PyTree, *, num_points: int = 25
) -> BarrierResult:
    """The loss along `(1 - t) A + t B` and how far it rises above the chord between its ends.

    The barrier is `max_t [E(theta_t) - (1 - t) E(A) - t E(B)]`.

    The maximum is over `num_points` equally spaced points and the midpoint, hence a lower bound on
    the supremum. One point is evaluated at a time, so memory stays flat.

    Args:
        loss_fn: static; `loss_fn(params)` returns a scalar loss, or a NamedTuple of scalars, the
            loss first.
        params_a, params_b: traced; permute B first.
        num_points: static, at least 2. The midpoint is evaluated whatever the grid.

    Raises:
        ValueError: fewer than 2 points, trees that differ, a loss that is no scalar.

    Source: Frankle et al. (2020); Entezari et al. (2022), Definition 1.
    """
    return barrier_along(loss_fn, straight_line(params_a, params_b), num_points=num_points)


def barrier_along(
    loss_fn: Callable[[PyTree], Any], path: Callable[..., PyTree], *, num_points: int = 25
) -> BarrierResult:
    """The loss along any path and how far it rises above the chord between its ends.

    As `linear_barrier`, whose path is a straight line.

    Args:
        loss_fn: static; as for `linear_barrier`.
        path: static; `path(t)` gives the parameters at a traced t: A at 0, B at 1.
        num_points: static, at least 2. The midpoint is evaluated whatever the grid.

    Raises:
        ValueError: fewer than 2 points, a loss that is no scalar.
    """
    if num_points < 2:
        raise ValueError(f"a path has at least 2 points, not num_points={num_points}")
    dtype = jnp.result_type(float)
    # by a division on the host: 1/2 exactly, where it is on the grid
    points = jnp.asarray(np.arange(num_points) / (num_points - 1), dtype)
    has_midpoint = num_points % 2 == 1
    if has_midpoint:
        evaluated = points
        middle = num_points // 2
    else:
        evaluated = jnp.append(points, jnp.asarray(0.5, dtype))
        middle = num_points

    def value_at(t: Array) -> PyTree:
        return loss_fn(path(t))

    all_values = jax.lax.map(value_at, evaluated)
    losses = _loss(all_values)
    if losses.ndim != 1:
        raise ValueError(f"loss_fn returned a loss of shape {losses.shape[1:]}, expected a scalar")
    loss_a = losses[0]
    loss_b = losses[num_points - 1]
    weights = evaluated.astype(losses.dtype)
    chord = (1 - weights) * loss_a + weights * loss_b
    return BarrierResult(
        height=jnp.max(losses - chord),
        height_over_mean=jnp.max(losses) - (loss_a + loss_b) / 2,
        midpoint_loss=losses[middle],
        points=points,
        values=jax.tree.map(lambda value: value[:num_points], all_values),
        midpoint=jax.tree.map(lambda value: value[middle], all_values),
        finite=jnp.isfinite(losses).all(),
    )
