"""The Wasserstein distance between two clouds of equally many points."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Num

from lmcjax._dtypes import accumulation_dtype
from lmcjax.transport._assignment import AssignmentBackend, linear_assignment


def wasserstein2(
    x: Num[ArrayLike, "n d"], y: Num[ArrayLike, "n d"], *, backend: AssignmentBackend = "auto"
) -> Float[Array, ""]:
    """The 2-Wasserstein distance `W_2 = (min_p 1/n sum_i ||x_i - y_p(i)||^2)^(1/2)` of two empirical measures.

    Exact, by linear assignment. Differentiable: the gradient flows through the matched distances (the optimal
    permutation is locally constant), and is 0 where the clouds coincide.

    Args:
        x: points, one per row, traced; the distance has their unit.
        y: as many points of the same dimension, traced.
        backend: static, see `linear_assignment`.

    Returns:
        A scalar in the points' float precision, at least float32; nan where a point is not finite.

    Raises:
        ValueError: the clouds differ in shape, or one is complex.

    Source: Lemma B.3 of the paper: `min_P ||W_A - P W_B||_F^2 = m W_2^2(mu_A, mu_B)`.
    """
    if jnp.ndim(x) != 2 or jnp.shape(x) != jnp.shape(y):
        raise ValueError(f"x and y are two clouds [n, d] of equal shape, not {jnp.shape(x)} and {jnp.shape(y)}")
    dtype = accumulation_dtype(x, y)
    x, y = jnp.asarray(x, dtype), jnp.asarray(y, dtype)
    centre = jnp.mean(x, axis=0)  # the optimal permutation does not move with the origin, the rounding does
    inner = jnp.matmul(x - centre, (y - centre).T, precision=jax.lax.Precision.HIGHEST)
    squared = jnp.mean(jnp.sum((x - y[linear_assignment(inner, maximize=True, backend=backend)]) ** 2, axis=1))
    apart = squared != 0
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)
    return jnp.where(jnp.isfinite(squared), distance, jnp.nan)
