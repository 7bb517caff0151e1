"""The Wasserstein distance between two clouds of equally many points."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num

from lmcjax._dtypes import accumulation_dtype
from lmcjax._powers_of_two import in_original_unit, in_unit_range
from lmcjax.transport._assignment import AssignmentBackend, linear_assignment


def wasserstein2(
    x: Num[ArrayLike, "n d"], y: Num[ArrayLike, "n d"], *, backend: AssignmentBackend = "auto"
) -> Float[Array, ""]:
    """The 2-Wasserstein distance `W_2 = (min_p 1/n sum_i ||x_i - y_p(i)||^2)^(1/2)` of two
    empirical measures.

    Exact, by linear assignment. Differentiable: the gradient flows through the matched distances
    (the optimal permutation is locally constant), and is 0 where the clouds coincide.

    Args:
        x: points, one per row, traced; the distance has their unit.
        y: as many points of the same dimension, traced.
        backend: static, see `linear_assignment`.

    Returns:
        A scalar in the points' float precision, at least float32, as exact for tiny or huge points
        as for others. nan where a point is not finite, or where the distance is below the dtype's
        smallest normal number and not 0; inf where it is above the largest.

    Raises:
        ValueError: the clouds differ in shape, or one is complex.

    Source: Lemma B.3 of the paper: `min_P ||W_A - P W_B||_F^2 = m W_2^2(mu_A, mu_B)`.
    """
    if jnp.ndim(x) != 2 or jnp.shape(x) != jnp.shape(y):
        raise ValueError(
            f"x and y are two clouds [n, d] of equal shape, not {jnp.shape(x)} and {jnp.shape(y)}"
        )
    dtype = accumulation_dtype(x, y)
    clouds = (jnp.asarray(x, dtype), jnp.asarray(y, dtype))
    (points_x, points_y), exponent = in_unit_range(clouds)  # squares would leave the dtype's range
    centre = jnp.mean(
        points_x, axis=0
    )  # the optimal permutation does not move with the origin, the rounding does
    from_x, from_y = points_x - centre, points_y - centre
    inner = jnp.matmul(from_x, from_y.T, precision=jax.lax.Precision.HIGHEST)
    matched = points_y[linear_assignment(inner, maximize=True, backend=backend)]
    squared = jnp.mean(jnp.sum((points_x - matched) ** 2, axis=1))
    apart = squared != 0
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)
    distance = jnp.where(jnp.isfinite(squared), distance, jnp.nan)
    return in_original_unit(distance, exponent)
