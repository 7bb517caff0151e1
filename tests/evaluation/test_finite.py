"""The host-side check of flags."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import pytest

from lmcjax import BarrierResult, linear_barrier, require_finite


class Flagged(NamedTuple):
    finite: Any
    converged: Any


def test_require_finite_returns_a_good_result() -> None:
    result = Flagged(jnp.array([True, True]), jnp.array(True))
    assert require_finite(result) is result
    barrier = linear_barrier(lambda p: p[0], [jnp.float32(0)], [jnp.float32(1)])
    assert isinstance(require_finite(barrier), BarrierResult)


@pytest.mark.parametrize(
    ("finite", "converged", "message"),
    [
        (False, True, r"Flagged\.finite is False: 1 of 1"),
        (True, False, r"Flagged\.converged is False: 1 of 1"),
        ([True, False, True, False], [True] * 4, r"finite is False at \[1, 3\]: 2 of 4"),
        ([True] * 3, [True, True, False], r"converged is False at \[2\]: 1 of 3"),
        ([[True, True], [True, False]], True, r"finite is False at \[.*1, 1.*\]: 1 of 4"),
    ],
)
def test_require_finite_says_where(finite: Any, converged: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_finite(Flagged(jnp.array(finite), jnp.array(converged)))


def test_require_finite_asks_for_a_flag() -> None:
    with pytest.raises(ValueError, match="tuple has neither"):
        require_finite((jnp.array(True),))
