"""Lower bounds against SciPy's quadrature and chi-square, and against exact matchings."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.integrate import quad
from scipy.special import gammaln
from scipy.stats import chi2, ncx2

from lmcjax.theory import MatchingBound, gaussian_matching_lower_bound, matching_lower_bound
from lmcjax.transport import wasserstein2

pytestmark = pytest.mark.usefixtures("quick_compilation")

NORMAL = -math.log(2 * math.pi) / 2  # log of the largest density, per dimension
NUM_NEURONS = 24
DIMENSIONS = (1, 2, 8, 64)

sharper = jax.jit(gaussian_matching_lower_bound)
squared_distances = jax.jit(jax.vmap(lambda x, y: wasserstein2(x, y) ** 2))


@functools.cache
def plain(dim: int, rows: str = "any") -> Callable[..., MatchingBound]:
    """One compilation per dimension and kind."""
    return jax.jit(lambda m, log_f, moment: matching_lower_bound(m, dim, log_f, moment, rows=rows))


def matched(
    draw: Callable[..., np.ndarray], root: np.ndarray | float = 1.0, count: int = 400
) -> tuple[float, float]:
    """Mean and standard error of the cost per neuron of independent exact matchings."""
    x, y = (
        np.asarray(draw(size=(count, NUM_NEURONS, len(np.atleast_2d(root)))) @ np.atleast_2d(root))
        for _ in "ab"
    )
    costs = np.asarray(squared_distances(x.astype(np.float32), y.astype(np.float32)), np.float64)
    return costs.mean(), costs.std(ddof=1) / np.sqrt(count)


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_is_the_integral_of_the_nearest_neighbour_argument(dim: int) -> None:
    """`int 2 r (1 - m F V r^d)_+ dr` by quadrature, F divided by sqrt(det Sigma)."""
    m, log_f, sigma = 40.0, dim * NORMAL, np.diag(np.linspace(1, 2, dim)).astype(np.float32)
    log_balls = math.log(m) + log_f - np.linalg.slogdet(sigma)[1] / 2 + dim / 2 * math.log(math.pi)
    log_balls -= gammaln(dim / 2 + 1)
    reach = math.exp(-log_balls / dim)
    expected, _ = quad(lambda r: 2 * r * (1 - (r / reach) ** dim), 0, reach)
    assert float(plain(dim)(m, log_f, sigma).error) == pytest.approx(expected, rel=1e-4)


def test_in_logarithms_where_numbers_overflow() -> None:
    """N(0, I/784): log10 F is 822; m = 10^30; and d = 1, whose bound is below float32."""
    log_f = 784 * (NORMAL + math.log(784) / 2)
    assert log_f / math.log(10) == pytest.approx(822, abs=1)
    bound = matching_lower_bound(1e30, 784, log_f)
    in_balls = 30 * math.log(10) + log_f + 392 * math.log(math.pi) - gammaln(393)
    assert float(bound.log_error) == pytest.approx(math.log(784 / 786) - in_balls / 392, abs=1e-5)
    tiny = matching_lower_bound(1e30, 1, NORMAL)
    assert float(tiny.log_error) == pytest.approx(
        math.log(1 / 3) - 2 * (math.log(2e30) + NORMAL), rel=1e-6
    )


@pytest.mark.parametrize("m", [2, 32, 4096])
def test_sharper_bound_is_the_mean_below_the_quantile_of_chi_square(m: int) -> None:
    """SciPy's quantile; a truncated chi-square's mean is `d F_(d+2)(q) / F_d(q)`."""
    dims = np.array(DIMENSIONS)
    q = chi2.ppf(1 / m, dims)
    expected = 2 * 0.25 * dims * m * chi2.cdf(q, dims + 2)
    found = [float(sharper(m, 0.25 * np.eye(d, dtype=np.float32)).error) for d in dims]
    np.testing.assert_allclose(found, expected, rtol=3e-5)


def test_sharper_bound_is_below_the_exact_nearest_neighbour() -> None:
    """The bound is below `E min_j |w - w_j|^2` by a non-central chi-square, and not far below."""
    dim, m = 8, 32
    radii = chi2.ppf((np.arange(200) + 0.5) / 200, dim)  # |w|^2
    r2 = np.linspace(0, 60, 4001)
    survive = (1 - ncx2.cdf(r2[:, None], dim, radii)) ** m
    exact = np.trapezoid(survive, r2, axis=0).mean()
    bound = float(sharper(m, np.eye(dim, dtype=np.float32)).error)
    assert 0.6 * exact < bound < exact


@pytest.mark.parametrize("dim", DIMENSIONS)
@pytest.mark.parametrize("distribution", ["gaussian", "uniform"])
def test_never_above_the_mean_of_400_exact_matchings(
    dim: int, distribution: str, rng: np.random.Generator
) -> None:
    """In the Euclidean norm and in one of a random Sigma, plus 3 standard errors."""
    is_gaussian = distribution == "gaussian"
    draw = rng.normal if is_gaussian else rng.uniform
    log_f = NORMAL if is_gaussian else 0.0
    rows = "gaussian" if is_gaussian else "independent"
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    variances = 2.0 ** -np.arange(dim).clip(max=12)
    for root in (np.eye(dim), basis * np.sqrt(variances)):
        sigma = (root @ root.T).astype(np.float32)
        mean, error = matched(draw, root)
        bounds = [plain(dim, kind)(NUM_NEURONS, dim * log_f, sigma) for kind in ("any", rows)]
        if is_gaussian:
            bounds.append(sharper(NUM_NEURONS, np.eye(dim, dtype=np.float32), sigma))
        values = [float(bound.error) for bound in bounds]
        assert 0 < values[0] <= values[1] * (1 + 1e-5)
        assert max(values) <= mean + 3 * error
        if is_gaussian and dim >= 8:
            assert values[2] > 0.3 * mean  # the sharper bound is near


def test_a_singular_norm_is_bounded_in_its_leading_directions(rng: np.random.Generator) -> None:
    """Two of six directions carry the norm, a third a little, three nothing."""
    scales = np.array([1, 1, 0.01, 0, 0, 0])
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    root = np.sqrt(scales)[:, None] * basis
    sigma = (root.T @ root).astype(np.float32)
    root = basis.T * np.sqrt(scales)  # w^T Sigma w = |w root|^2
    mean, error = matched(rng.normal, root)
    any_rows, gaussian = (
        plain(6, rows)(NUM_NEURONS, 6 * NORMAL, sigma) for rows in ("any", "gaussian")
    )
    near = sharper(NUM_NEURONS, np.eye(6, dtype=np.float32), sigma)
    assert float(any_rows.error) < 1e-3 * float(gaussian.error)
    assert (int(gaussian.num_directions), int(near.num_directions)) == (2, 2)
    alone = plain(2)(NUM_NEURONS, 2 * NORMAL, np.eye(2, dtype=np.float32))
    assert float(gaussian.error) == pytest.approx(float(alone.error), rel=1e-4)
    two, third = (
        float(sharper(NUM_NEURONS, c * np.eye(k, dtype=np.float32)).error)
        for c, k in ((1, 2), (0.01, 1))
    )
    assert float(near.error) == pytest.approx(two + third, rel=1e-3)
    assert 2 * float(gaussian.error) < float(near.error) <= mean + 3 * error


def test_invariance_and_derivatives(x64: None) -> None:
    """Scaling the weights by c scales the bounds by c^2; derivatives against differences."""
    for c in (1e-3, 1e3):
        scaled = sharper(50.0, c**2 * np.eye(3))
        assert float(scaled.log_error - sharper(50.0, np.eye(3)).log_error) == pytest.approx(
            2 * math.log(c), rel=1e-9
        )
    check_grads(jax.jit(lambda m: sharper(m, np.eye(3)).log_error), (50.0,), order=1, modes=["rev"])
    moment = np.diag([3.0, 2.0, 1.0])
    check_grads(
        jax.jit(lambda s: matching_lower_bound(50.0, 3, 0.1, s).log_error),
        (moment,),
        order=1,
        modes=["rev"],
    )


def test_nan_spoils_no_neighbour() -> None:
    moments = jnp.stack([jnp.full((3, 3), jnp.nan), jnp.eye(3)])
    for bound in (
        jax.jit(jax.vmap(lambda s: matching_lower_bound(9.0, 3, 0.0, s, rows="gaussian")))(moments),
        jax.jit(jax.vmap(lambda s: gaussian_matching_lower_bound(9.0, jnp.eye(3), s)))(moments),
    ):
        assert np.isnan(bound.error[0])
        assert np.isfinite(bound.error[1])


@pytest.mark.usefixtures("unchecked")
def test_errors_show_both_values() -> None:
    with pytest.raises(ValueError, match="dim=0"):
        matching_lower_bound(5, 0, 0.0)
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(3, 3\)"):
        matching_lower_bound(5, 3, 0.0, jnp.eye(2))
    with pytest.raises(ValueError, match=r"'laplace'.*'gaussian'"):
        matching_lower_bound(5, 3, 0.0, rows="laplace")
    with pytest.raises(ValueError, match=r"\(2, 3\).*square"):
        gaussian_matching_lower_bound(5, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(3, 3\)"):
        gaussian_matching_lower_bound(5, jnp.eye(3), jnp.eye(2))
