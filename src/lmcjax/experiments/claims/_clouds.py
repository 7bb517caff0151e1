"""Clouds of neurons that are drawn and matched, for the experiments that train nothing."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from lmcjax.transport import linear_assignment

Law: TypeAlias = Literal["gaussian", "uniform"]

FITTED_FROM = (
    64  # points; exponents are not fitted to fewer, where the theory's are not to be expected
)


def direction_costs(
    seed: tuple[int, ...], scale: np.ndarray, num_points: int, draws: int, law: Law
) -> np.ndarray:
    """What each direction adds to `W_2^2` between two samples: its mean squared distance, `[draws,
    dim]`.

    The matching is the exact one, the best in all directions together.

    Args:
        seed: of the draws.
        scale: per direction, multiplies a standard normal or a uniform number between 0 and 1; 0:
            no such direction, so that samples of many dimensions share one program.
        num_points: n, of each sample.
        draws: independent pairs of samples.
        law: of the entries, which are independent.
    """
    rng = np.random.default_rng(seed)
    shape = (draws, 2, num_points, len(scale))
    points = (
        rng.standard_normal(shape, np.float32)
        if law == "gaussian"
        else rng.random(shape, np.float32)
    )
    return np.asarray(_matched(points * np.asarray(scale, np.float32)))


@jax.jit
@jax.vmap
def _matched(pair: Float[Array, "2 n dim"]) -> Float[Array, " dim"]:
    x, y = pair - jnp.mean(
        pair[0], axis=0
    )  # the best matching does not move with the origin, the rounding does
    inner = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.mean((x - y[linear_assignment(inner, maximize=True)]) ** 2, axis=0)


def fitted_range(results: xr.Dataset) -> xr.Dataset:
    """The part along n to which exponents are fitted."""
    n = results["n"].values
    return results.isel(n=np.flatnonzero(n >= min(FITTED_FROM, n[-1] / 4)))
