"""Losses over a data set in batches, against the whole at once and against NumPy."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from lmcjax import (
    BarrierResult,
    LossAndAccuracy,
    batched_loss,
    cross_entropy_and_accuracy,
    linear_barrier,
)

score = jax.jit(cross_entropy_and_accuracy)


class Data(NamedTuple):
    """A named pair, as `lmcjax.Dataset` has."""

    inputs: Any
    labels: Any


def linear(params: Any, inputs: jax.Array) -> jax.Array:
    return jnp.matmul(inputs, params)


def mean_square(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean(jnp.sum((outputs - targets) ** 2, axis=1))


def regression(
    rng: np.random.Generator, num_samples: int = 23
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shapes = (3, 2), (num_samples, 3), (num_samples, 2)
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


def classification(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    w, x, _ = regression(rng)
    return np.tile(w, (1, 2)), x, rng.integers(0, 4, len(x)).astype(np.int32)


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("batch_size", [1, 5, 23, 1000])
def test_in_batches_equals_the_whole(batch_size: int, rng: np.random.Generator) -> None:
    """A short last batch counts by its size."""
    w, x, y = regression(rng)
    whole = ((x @ w - y) ** 2).sum(1).mean()
    loss_fn = batched_loss(linear, mean_square, Data(x, y), batch_size)
    assert float(jax.jit(loss_fn)(w)) == pytest.approx(float(whole), rel=1e-5)


def test_cross_entropy_and_accuracy_equal_scipy(rng: np.random.Generator) -> None:
    w, x, y = classification(rng)
    result = score(jnp.asarray(x @ w), y)
    assert float(result.loss) == pytest.approx(
        -log_softmax(x @ w, axis=1)[np.arange(23), y].mean(), rel=1e-5
    )
    assert float(result.accuracy) == pytest.approx(np.mean((x @ w).argmax(1) == y), rel=1e-6)


@pytest.mark.parametrize("batch_size", [5, 23])
def test_every_metric_is_averaged_by_samples(batch_size: int, rng: np.random.Generator) -> None:
    w, x, y = classification(rng)
    result = jax.jit(batched_loss(linear, cross_entropy_and_accuracy, (x, y), batch_size))(w)
    assert isinstance(result, LossAndAccuracy)
    chex.assert_trees_all_close(result, score(jnp.asarray(x @ w), y), rtol=1e-5)


@pytest.mark.usefixtures("strict_promotion")
def test_the_gradient_is_that_of_the_whole(rng: np.random.Generator) -> None:
    """Against the closed form `2 X^T (X W - Y) / N`; under jit and vmap."""
    w, x, y = regression(rng)
    gradient = jax.jit(jax.vmap(jax.grad(batched_loss(linear, mean_square, (x, y), 5))))(
        np.stack([w, 2 * w])
    )
    for i in range(2):
        np.testing.assert_allclose(
            gradient[i], 2 * x.T @ (x @ ((i + 1) * w) - y) / len(x), rtol=1e-4, atol=1e-5
        )


@pytest.mark.usefixtures("strict_promotion")
def test_the_data_may_be_traced(rng: np.random.Generator) -> None:
    w, x, y = regression(rng)
    jitted = jax.jit(lambda w, x, y: batched_loss(linear, mean_square, (x, y), 5)(w))
    assert float(jitted(w, x, y)) == pytest.approx(
        float(batched_loss(linear, mean_square, (x, y), 23)(w)), rel=1e-5
    )


@pytest.mark.usefixtures("strict_promotion")
def test_one_batch_of_activations_at_a_time(rng: np.random.Generator) -> None:
    """What `apply` sees is never larger than a batch."""
    w, x, y = regression(rng)
    seen = []

    def watched(params: Any, inputs: jax.Array) -> jax.Array:
        seen.append(inputs.shape[0])
        return linear(params, inputs)

    batched_loss(watched, mean_square, (x, y), 5)(w)
    assert set(seen) == {5, 3}


@pytest.mark.parametrize("label", [-1, -3, 4, 100])
def test_a_label_that_is_no_class_gives_nan(label: int, rng: np.random.Generator) -> None:
    """Directly, in batches, and as a barrier that is not finite; its neighbour is unspoilt."""
    w, x, y = classification(rng)
    spoilt = y.copy()
    spoilt[7] = label
    assert np.isnan(score(jnp.asarray(x @ w), spoilt)).all()
    assert np.isnan(
        jax.jit(batched_loss(linear, cross_entropy_and_accuracy, (x, spoilt), 5))(w)
    ).all()

    @jax.jit
    @jax.vmap
    def barrier(y: jax.Array) -> BarrierResult:
        return linear_barrier(
            batched_loss(linear, cross_entropy_and_accuracy, (x, y), 5), w, 2 * w, num_points=3
        )

    both, clean = barrier(np.stack([y, spoilt])), barrier(np.stack([y, y]))
    assert both.finite.tolist() == [True, False]
    chex.assert_trees_all_equal(*(jax.tree.map(lambda v: v[0], r) for r in (both, clean)))


@pytest.mark.usefixtures("strict_promotion")
def test_a_loss_per_sample_is_an_error(rng: np.random.Generator) -> None:
    """Alone or beside a scalar, whole batches or not, with the shape, while it is traced."""
    w, x, y = regression(rng)

    def per_sample(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return jnp.sum((outputs - targets) ** 2, axis=1)

    def beside(outputs: jax.Array, targets: jax.Array) -> LossAndAccuracy:
        return LossAndAccuracy(mean_square(outputs, targets), per_sample(outputs, targets))

    for loss in (per_sample, beside):
        for batch_size in (5, 23):
            loss_fn = batched_loss(linear, loss, (x, y), batch_size)
            with pytest.raises(ValueError, match=rf"shape \({batch_size},\), expected a scalar"):
                jax.eval_shape(loss_fn, w)


@pytest.mark.parametrize("num_classes", [2, 1000])
def test_uniform_logits_cost_the_logarithm_of_the_classes(num_classes: int) -> None:
    result = score(jnp.zeros((6, num_classes)), jnp.zeros(6, jnp.int32))
    assert float(result.loss) == pytest.approx(np.log(num_classes), rel=1e-6)
    assert float(result.accuracy) == 1


def test_errors_show_the_numbers() -> None:
    x, y = jnp.zeros((4, 3)), jnp.zeros(5)
    with pytest.raises(ValueError, match=r"empty data set.*\(0, 3\)"):
        batched_loss(linear, mean_square, (x[:0], y[:0]))
    with pytest.raises(ValueError, match="4 inputs but 5 labels"):
        batched_loss(linear, mean_square, (x, y))
    with pytest.raises(ValueError, match="at least 1, not 0"):
        batched_loss(linear, mean_square, (x, y[:4]), batch_size=0)
