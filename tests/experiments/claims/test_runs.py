"""The error of a path in closed form, and cells that are joined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax.experiments.claims._runs import linear_error, stack_cells

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_the_error_of_a_path_in_closed_form():
    """f = a b x: the path is a parabola, t (1 - t) (a - a')(b - b') x off its chord."""

    def apply(params, x):
        return x @ params["Dense_0"] @ params["Dense_1"]["kernel"]

    x = jnp.array([[1.0], [-3.0]])
    a = {"Dense_0": jnp.full((1, 1), 2.0), "Dense_1": {"kernel": jnp.full((1, 1), 1.0)}}
    b = {"Dense_0": jnp.full((1, 1), 4.0), "Dense_1": {"kernel": jnp.full((1, 1), 5.0)}}
    found = jax.jit(lambda: linear_error(apply, a, b, x))()
    np.testing.assert_allclose(found["squared_error"], (2 * 4 / 4) ** 2 * 5, rtol=1e-5)
    np.testing.assert_allclose(found["largest_squared_error"], (2 * 4 / 4) ** 2 * 9, rtol=1e-5)
    np.testing.assert_allclose(found["squared_output"], (2**2 + 20**2) / 2 * 5, rtol=1e-5)


def test_cells_are_put_at_their_coordinates():
    cells = {}
    for kind in ("b", "a"):
        for width in (8, 4, 2):
            cells[kind, width] = {"name": np.array([f"{kind}{width}0", f"{kind}{width}1"])}
    results = stack_cells(cells, ("kind", "width"))
    assert results["name"].dims == ("kind", "width", "pair")
    for kind in ("a", "b"):
        for width in (2, 4, 8):
            values = results["name"].sel(kind=kind, width=width).values
            assert values.tolist() == [f"{kind}{width}0", f"{kind}{width}1"]
