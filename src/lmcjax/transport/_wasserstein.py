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
    """The 2-Wasserstein distance `W_2` of two empirical measures with equally many points.

    `W_2 = (min_p 1/n sum_i ||x_i - y_p(i)||^2)^(1/2)`, p over all permutations.

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

    # Far from the origin the inner products would lose digits. The best permutation is the same
    # from any origin, so take the centre of one cloud.
    centre = jnp.mean(points_x, axis=0)
    from_centre_x = points_x - centre
    from_centre_y = points_y - centre
    # The norms are the same for all permutations, so inner products decide.
    inner_products = jnp.matmul(from_centre_x, from_centre_y.T, precision=jax.lax.Precision.HIGHEST)
    permutation = linear_assignment(inner_products, maximize=True, backend=backend)

    squared_distances = jnp.sum((points_x - points_y[permutation]) ** 2, axis=1)
    mean_squared = jnp.mean(squared_distances)
    # The square root has an infinite derivative at 0, so it never gets to see a 0.
    apart = mean_squared != 0
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, mean_squared, 1)), 0)
    distance = jnp.where(jnp.isfinite(mean_squared), distance, jnp.nan)
    return in_original_unit(distance, exponent)
