"""The exact plan between different sizes against SciPy's linear programs and POT."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy.optimize import linprog

from lmcjax import exact_plan

pytestmark = pytest.mark.usefixtures("quick_compilation")


def by_linear_program(cost):
    n_a, n_b = cost.shape
    rows = np.kron(np.eye(n_a), np.ones(n_b))
    columns = np.kron(np.ones(n_a), np.eye(n_b))
    margins = np.concatenate([np.full(n_a, 1 / n_a), np.full(n_b, 1 / n_b)])
    return linprog(
        cost.ravel(), A_eq=np.concatenate([rows, columns]), b_eq=margins, bounds=(0, None)
    ).fun


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (6, 3), (4, 6), (5, 7), (1, 4)])
def test_reaches_the_linear_programs_optimum(shape, rng):
    """Also with ties: costs of few values, and equal rows."""
    n_a, n_b = shape
    costs = rng.normal(size=(3, *shape)).astype(np.float32)
    costs[1] = costs[1].round()
    costs[2, -1] = costs[2, 0]
    plans = jax.jit(jax.vmap(exact_plan))(costs)
    largest = jax.jit(lambda cost: exact_plan(cost, maximize=True))(costs[0])
    np.testing.assert_allclose(plans.sum(2), 1 / n_a, atol=1e-6)
    np.testing.assert_allclose(plans.sum(1), 1 / n_b, atol=1e-6)
    assert (plans >= 0).all()
    for cost, plan in zip(costs.astype(np.float64), np.asarray(plans, np.float64), strict=True):
        assert (plan * cost).sum() == pytest.approx(by_linear_program(cost), abs=1e-6)
        assert (plan * cost).sum() == pytest.approx(ot.emd2([], [], cost), abs=1e-6)
    assert (np.asarray(largest) * costs[0]).sum() == pytest.approx(
        -by_linear_program(-costs[0]), abs=1e-6
    )


def test_sizes_that_have_too_large_a_multiple():
    with pytest.raises(
        ValueError, match="between 64 and 65 is an assignment of 4160 copies, more than 4096"
    ):
        exact_plan(jnp.zeros((64, 65)))
