"""The straight-through estimator against a NumPy loop written from the algorithm."""

import functools

import jax
import numpy as np
import optax
import pytest
from scipy.optimize import linear_sum_assignment

from lmcjax import match_straight_through, midpoint_loss, mlp_spec

pytestmark = pytest.mark.usefixtures("quick_compilation")


def reference(a, b, rate, num_iterations):
    """Algorithm 3 for two hidden layers, distance of weights, plain gradient descent; distances and
    permutations.
    """
    a, b = (
        [np.asarray(p[f"Dense_{i}"][k], np.float64) for i in range(3) for k in ("kernel", "bias")]
        for p in (a, b)
    )
    c, p, q, trace, seen = [v.copy() for v in a], np.arange(8), np.arange(6), [], []

    def act(p, q):
        return [b[0][:, p], b[1][p], b[2][p][:, q], b[3][q], b[4][q], b[5]]

    for _ in range(num_iterations):
        similarity = c[0].T @ b[0] + np.outer(c[1], b[1]) + c[2] @ b[2][:, q].T
        p = linear_sum_assignment(similarity, maximize=True)[1]
        similarity = c[2].T @ b[2][p] + np.outer(c[3], b[3]) + c[4] @ b[4].T
        q = linear_sum_assignment(similarity, maximize=True)[1]
        aligned = act(p, q)
        trace.append(sum(((x - y) ** 2).sum() for x, y in zip(a, aligned, strict=True)))
        seen.append((p, q))
        c = [x - rate * 2 * (y - z) for x, y, z in zip(c, aligned, a, strict=True)]
    return trace, seen[int(np.argmin(trace))]


def test_equals_the_papers_algorithm_in_numpy(small_pairs):
    """Three pairs in a batch, step by step, and the best of the permutations seen."""
    match = functools.partial(
        match_straight_through, small_pairs.spec, optimizer=optax.sgd(0.1), num_iterations=12
    )
    found = jax.jit(jax.vmap(match))(*small_pairs[2:4])
    lengths = set()
    for i in range(3):
        trace, (p, q) = reference(
            *(jax.tree.map(lambda v: v[i], s) for s in small_pairs[2:4]), 0.1, 12
        )
        np.testing.assert_allclose(found.search.trace[i], trace, rtol=1e-4)
        np.testing.assert_array_equal(found.permutations["Dense_0"][i], p)
        np.testing.assert_array_equal(found.permutations["Dense_1"][i], q)
        assert float(found.search.loss[i]) == pytest.approx(min(trace), rel=1e-4)
        lengths.add(len(set(np.round(trace, 3))))
    assert max(lengths) > 2  # the target moved on, and the permutations with it
    assert (found.search.loss < found.search.identity_loss).all()
    assert found.converged.all()


def test_a_lower_loss_at_the_midpoint(small_pairs):
    """The loss of the task at the midpoint, started at the identity."""
    inputs, labels = small_pairs.inputs, small_pairs.labels
    loss = midpoint_loss(small_pairs.network.apply, cross_entropy, (inputs, labels))
    options = {
        "loss": loss,
        "num_iterations": 30,
        "optimizer": optax.adam(0.05),
        "iterations_per_projection": 1,
    }
    match = functools.partial(match_straight_through, mlp_spec(2), **options)
    found = jax.jit(jax.vmap(match))(*small_pairs[2:4])
    for i in range(3):
        assert float(found.search.loss[i]) == pytest.approx(
            float(found.search.trace[i].min()), rel=1e-5
        )
        assert found.search.trace[i].min() < 0.98 * found.search.trace[i, 0]


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
