"""Turning a bad result into an error, on the host."""

from typing import TypeVar

import numpy as np

Result = TypeVar("Result")


def require_finite(result: Result) -> Result:
    """Return `result` if all its `finite` and `converged` flags are set, and raise otherwise.

    For those who prefer an error to a flag. Inside `jit`, results carry flags and nothing raises;
    call this outside, on the host.

    Args:
        result: any result of this library, alone or batched (a `Matching`, a `BarrierResult`, a
            `SinkhornPlan`, ...).

    Raises:
        ValueError: a flag is not set, with the indices in the batch where; or the result has no
            flag.
    """
    flags = [flag for flag in ("finite", "converged") if hasattr(result, flag)]
    if not flags:
        raise ValueError(f"{type(result).__name__} has neither a `finite` nor a `converged` field")
    for flag in flags:
        values = np.asarray(getattr(result, flag))
        if not values.all():
            where = _where_not_set(values)
            num_not_set = int((~values).sum())
            raise ValueError(
                f"{type(result).__name__}.{flag} is False{where}: {num_not_set} of {values.size}"
            )
    return result


def _where_not_set(values: np.ndarray) -> str:
    """The indices of the flags that are not set, as part of a message; a single flag has none."""
    if values.ndim == 0:
        return ""
    indices = []
    for index in np.argwhere(~values).tolist():
        indices.append(index[0] if len(index) == 1 else tuple(index))
    return f" at {indices}"
