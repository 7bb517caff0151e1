"""Matched clouds against SciPy and a brute force over all permutations."""

import itertools

import numpy as np
import pytest
import xarray as xr
from scipy.optimize import linear_sum_assignment

from lmcjax.experiments.claims._clouds import direction_costs, fitted_range

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_costs_by_direction_are_those_of_the_exact_matching():
    """The same draws by NumPy, matched by SciPy: a direction of scale 0 adds nothing."""
    scale = np.array([1, 0.3, 0])
    found = direction_costs((1, 2), scale, 12, 5, "gaussian")
    draws = np.random.default_rng((1, 2)).standard_normal((5, 2, 12, 3), np.float32) * scale
    for costs, (x, y) in zip(found, draws, strict=True):
        rows, columns = linear_sum_assignment(((x[:, None] - y) ** 2).sum(2))
        np.testing.assert_allclose(costs, ((x[rows] - y[columns]) ** 2).mean(0), rtol=1e-4)
    assert (found[:, 2] == 0).all()
    few = direction_costs((3,), np.ones(2), 4, 6, "uniform")
    draws = np.random.default_rng((3,)).random((6, 2, 4, 2), np.float32)
    for costs, (x, y) in zip(few, draws, strict=True):
        best = min(((x - y[list(p)]) ** 2).mean(0).sum() for p in itertools.permutations(range(4)))
        assert costs.sum() == pytest.approx(best, rel=1e-4)


def test_exponents_are_fitted_from_64_points_on():
    sizes = np.array([16, 32, 64, 128, 256])
    assert fitted_range(xr.Dataset(coords={"n": sizes}))["n"].values.tolist() == [64, 128, 256]
    few = fitted_range(xr.Dataset(coords={"n": [8, 16, 32]}))
    assert few["n"].values.tolist() == [8, 16, 32]
