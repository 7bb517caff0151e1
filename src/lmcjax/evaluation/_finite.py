"""Turning a bad result into an error, on the host."""

from typing import TypeVar

import numpy as np

Result = TypeVar("Result")


def require_finite(result: Result) -> Result:
    """Return `result` if all its `finite` and `converged` flags are set; for those who prefer an error to a flag.

    Inside `jit`, results carry flags and nothing raises; call this outside, on the host.

    Args:
        result: any result of this library, alone or batched (a `Matching`, a `BarrierResult`, a `SinkhornPlan`, ...).

    Raises:
        ValueError: a flag is not set, with the indices in the batch where; or the result has no flag.
    """
    flags = [flag for flag in ("finite", "converged") if hasattr(result, flag)]
    if not flags:
        raise ValueError(f"{type(result).__name__} has neither a `finite` nor a `converged` field")
    for flag in flags:
        values = np.asarray(getattr(result, flag))
        if not values.all():
            where = f" at {np.argwhere(~values).squeeze(-1).tolist()}" if values.ndim == 1 else ""
            raise ValueError(f"{type(result).__name__}.{flag} is False{where}: {int((~values).sum())} of {values.size}")
    return result
