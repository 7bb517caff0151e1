"""Rates against what is known in closed form, intervals against how often they hold."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from lmcjax.theory import calibrate_wasserstein_rate, empirical_wasserstein_rate, fit_exponent

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZES = (4, 8, 16, 32)


def test_the_three_regimes() -> None:
    n = 10.0**6
    rates = jax.jit(jax.vmap(empirical_wasserstein_rate, (None, 0)))(
        n, jnp.array([1.0, 2.0, 3.0, 4.0, 5.0, 784.0])
    )
    log = np.log(np.log(n + 1))
    np.testing.assert_allclose(
        rates.upper_exponent, [-0.5, -0.5, -0.5, -0.5, -0.4, -2 / 784], rtol=1e-6
    )
    np.testing.assert_allclose(
        rates.smooth_exponent, [-1, -1, -2 / 3, -0.5, -0.4, -2 / 784], rtol=1e-6
    )
    extra = np.asarray(rates.log_upper) - np.asarray(rates.upper_exponent) * np.log(n)
    np.testing.assert_allclose(extra, [0, 0, 0, log, 0, 0], atol=1e-5)
    extra = np.asarray(rates.log_smooth) - np.asarray(rates.smooth_exponent) * np.log(n)
    np.testing.assert_allclose(extra, [0, log, 0, 0, 0, 0], atol=1e-5)
    assert np.all(rates.log_smooth <= rates.log_upper)


def test_means_are_those_of_order_statistics_and_intervals_hold() -> None:
    """Uniform on the line, `E W_2^2 = 1 / (3 (n + 1))`: 300 calibrations of 20 repetitions."""
    keys = jax.random.split(jax.random.key(0), 300)
    run = jax.jit(jax.vmap(lambda key: calibrate_wasserstein_rate(key, "uniform", SIZES, dim=1)))
    found = run(keys)
    truth = 1 / (3 * (np.array(SIZES) + 1))
    means = np.asarray(found.mean, np.float64)
    assert np.all(abs(means.mean(0) - truth) < 4 * means.std(0) / np.sqrt(300))
    np.testing.assert_allclose(np.asarray(found.standard_error).mean(0), means.std(0), rtol=0.15)
    covered = ((found.low <= truth) & (truth <= found.high)).mean(0)
    # Costs are skewed, so that a little less than 0.95 are covered.
    assert np.all((covered > 0.86) & (covered <= 0.99)), covered
    assert np.all(np.asarray(found.finite))
    exponents = np.asarray(found.fit.exponent)
    slope = np.polyfit(np.log(SIZES), np.log(truth), 1)[0]
    assert exponents.mean() == pytest.approx(slope, abs=0.05)


def test_one_calibration_is_what_pot_measures() -> None:
    """Of given points: all of them are used, in two halves, each once."""
    points = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    found = calibrate_wasserstein_rate(
        jax.random.key(1), jnp.asarray(points), (1, 8), repetitions=2
    )
    costs = []
    for key in jax.random.split(jax.random.fold_in(jax.random.key(1), 8), 2):
        shuffled = np.asarray(jax.random.permutation(key, points))
        np.testing.assert_array_equal(np.sort(shuffled[:, 0]), np.sort(points[:, 0]))
        costs.append(
            ot.emd2([], [], ot.dist(shuffled[:8].astype(float), shuffled[8:].astype(float)))
        )
    assert float(found.mean[1]) == pytest.approx(np.mean(costs), rel=1e-5)
    assert float(found.standard_error[1]) == pytest.approx(
        np.std(costs, ddof=1) / np.sqrt(2), rel=1e-4
    )


def test_fit_is_numpys_weighted_fit_and_its_interval_holds(rng: np.random.Generator) -> None:
    """3,000 power laws of exponent -0.4, with 20 values of 3 to 6 per cent noise in each mean."""
    n = np.array([10.0, 30.0, 100.0, 1000.0])
    truth = 2.5 * n**-0.4
    values = truth[:, None] * (
        1 + np.array([0.25, 0.2, 0.15, 0.15])[:, None] * rng.normal(size=(3000, 4, 20))
    )
    mean, error = values.mean(2), values.std(2, ddof=1) / np.sqrt(20)
    fits = jax.jit(jax.vmap(lambda y, e: fit_exponent(n, y, e, repetitions=20)))(
        mean.astype(np.float32), error.astype(np.float32)
    )
    for i in range(5):
        (slope, constant), covariance = np.polyfit(
            np.log(n), np.log(mean[i]), 1, w=mean[i] / error[i], cov="unscaled"
        )
        assert float(fits.exponent[i]) == pytest.approx(slope, rel=1e-3)
        assert float(fits.log_constant[i]) == pytest.approx(constant, rel=1e-3)
        half = 2.0930 * np.sqrt(covariance[0, 0])  # Student's quantile, 19 degrees of freedom
        assert float(fits.high[i] - fits.exponent[i]) == pytest.approx(half, rel=1e-3)
    covered = np.mean((fits.low <= -0.4) & (fits.high >= -0.4))
    assert 0.92 < covered < 0.98, covered


def test_means_that_cannot_be_used_are_left_out() -> None:
    n = jnp.array([1.0, 2.0, 4.0, 8.0])
    good = fit_exponent(n, n**-1, n**-1 / 10, repetitions=9)
    bad = fit_exponent(n, jnp.array([1.0, 0.5, jnp.nan, 0.125]), n**-1 / 10, repetitions=9)
    none = fit_exponent(n, jnp.array([1.0, 0.0, jnp.nan, -1.0]), n**-1 / 10, repetitions=9)
    assert good.finite
    assert bad.finite
    assert (
        float(bad.exponent)
        == pytest.approx(float(good.exponent), abs=1e-6)
        == pytest.approx(-1, abs=1e-6)
    )
    assert not none.finite


def test_nan_in_the_points_shows() -> None:
    points = jnp.ones((8, 2)).at[3, 0].set(jnp.nan)
    assert not calibrate_wasserstein_rate(jax.random.key(0), points, (1, 4), repetitions=2).finite


@pytest.mark.usefixtures("unchecked")
def test_errors_show_what_was_given() -> None:
    key = jax.random.key(0)
    for arguments, message in (
        (("cauchy", (1, 2), 3), "'cauchy'"),
        (("gaussian", (1, 2), None), "dim=None"),
        ((jnp.ones((4, 2)), (1, 2), 2), "dim=2"),
        ((jnp.ones((4, 2)), (1, 3), None), r"\(4, 2\).*3"),
        (("gaussian", (2, 2), 1), r"increasing.*\(2, 2\)"),
        (("gaussian", (2,), 1), r"two increasing.*\(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            calibrate_wasserstein_rate(key, arguments[0], arguments[1], dim=arguments[2])
    with pytest.raises(ValueError, match="not 1"):
        calibrate_wasserstein_rate(key, "gaussian", (1, 2), dim=1, repetitions=1)
    with pytest.raises(ValueError, match=r"\(2,\), \(3,\)"):
        fit_exponent(jnp.ones(2), jnp.ones(3), jnp.ones(2), repetitions=3)
