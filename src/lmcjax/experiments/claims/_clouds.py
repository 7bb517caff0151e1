"""Clouds of neurons that are drawn and matched, for the experiments that train nothing."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from lmcjax.transport import linear_assignment

CoordinateLaw: TypeAlias = Literal["gaussian", "uniform"]
"""Of each coordinate of a point: standard normal, or uniform between 0 and 1."""

# Points below which exponents are not fitted: theory speaks of large n
FITTED_FROM = 64


def direction_costs(
    seed: tuple[int, ...],
    scale: np.ndarray,
    num_points: int,
    draws: int,
    law: CoordinateLaw,
) -> np.ndarray:
    """What each direction adds to `W_2^2` between two samples, `[draws, dim]`.

    That is the mean squared distance of matched points along the direction. The matching is the
    exact one, the best in all directions together.

    Args:
        seed: of the draws.
        scale: per direction, multiplies its coordinate. Directions of scale 0 do not count, so that
            samples of many dimensions share one compiled program.
        num_points: n, of each sample.
        draws: independent pairs of samples.
        law: of the coordinates, which are independent.
    """
    rng = np.random.default_rng(seed)
    shape = (draws, 2, num_points, len(scale))
    if law == "gaussian":
        points = rng.standard_normal(shape, np.float32)
    else:
        points = rng.random(shape, np.float32)
    scaled = points * np.asarray(scale, np.float32)
    return np.asarray(_matched_distances(scaled))


@jax.jit
@jax.vmap
def _matched_distances(pair: Float[Array, "2 n dim"]) -> Float[Array, " dim"]:
    """Mean squared distances of matched points along each direction."""
    # The best matching does not depend on the origin; its rounding errors do
    x, y = pair - jnp.mean(pair[0], axis=0)
    inner = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    permutation = linear_assignment(inner, maximize=True)
    return jnp.mean((x - y[permutation]) ** 2, axis=0)


def fitted_range(results: xr.Dataset) -> xr.Dataset:
    """The part along n to which exponents are fitted."""
    n = results["n"].values
    # A tiny run has few points throughout: its larger sizes are taken
    first = min(FITTED_FROM, n[-1] / 4)
    return results.isel(n=np.flatnonzero(n >= first))
