"""The three signatures against NumPy, and on matches that succeed or fail by construction."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmcjax
from lmcjax.evaluation import Diagnosis, diagnose
from lmcjax.theory import fit_exponent

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def run(pair: Any) -> Any:
    """Match by `similarity`, measure, diagnose."""
    network, spec, _, _, inputs, labels = pair

    @jax.jit
    def diagnosis(a: Any, b: Any) -> tuple[Diagnosis, Any]:
        loss = lmcjax.batched_loss(
            network.apply, lmcjax.cross_entropy_and_accuracy, (inputs, labels)
        )
        matching = lmcjax.match_layerwise(spec, a, b, similarity=lmcjax.Weights())
        barrier = lmcjax.linear_barrier(
            loss, a, lmcjax.permute(spec, matching.permutations, b), num_points=5
        )
        return diagnose(spec, a, b, matching.permutations, barrier), (
            matching.permutations,
            barrier.height,
        )

    return diagnosis


@pytest.mark.slow
def test_a_shuffled_copy_passes(pair: Any, run: Any) -> None:
    shuffled = lmcjax.permute(
        pair.spec,
        lmcjax.random_permutations(jax.random.key(0), pair.spec, pair.params_a),
        pair.params_a,
    )
    found, _ = run(pair.params_a, shuffled)
    assert float(found.reduction.value) == pytest.approx(1, abs=1e-5)
    assert [bool(s.failed) for s in found[:3]] == [False, False, False]
    assert found.finite
    report = str(found)
    assert report.count("passed") == 2
    assert "not measured" in report
    assert "try" not in report


def test_unrelated_networks_fail_and_the_numbers_are_numpys(pair: Any, run: Any) -> None:
    """Random networks of 24 neurons or fewer are far apart however matched."""
    found, (permutations, height) = run(pair.params_a, pair.params_b)
    assert float(found.barrier.value) == float(height) > 0.1
    assert found.barrier.failed
    p = [np.asarray(permutations[f"Dense_{i}"]) for i in range(3)]
    before = after = 0.0
    for i in range(4):
        for name in ("kernel", "bias"):
            a, b = (
                np.asarray(x[f"Dense_{i}"][name], np.float64)
                for x in (pair.params_a, pair.params_b)
            )
            moved = b if i == 3 else b[..., p[i]]
            moved = moved[p[i - 1]] if name == "kernel" and i > 0 else moved
            distances = ((a - b) ** 2).sum(), ((a - moved) ** 2).sum()
            if i == 1 and name == "kernel":
                kernel_of_1 = distances
            if i == 1 and name == "bias":
                share = 1 - (kernel_of_1[1] + distances[1]) / (kernel_of_1[0] + distances[0])
                assert float(found.group_reduction["Dense_1"]) == pytest.approx(share, rel=1e-4)
            if (i, name) != (3, "bias"):  # no group acts on the last bias
                before, after = before + distances[0], after + distances[1]
    assert float(found.reduction.value) == pytest.approx(1 - after / before, rel=1e-4)
    assert "FAILED  loss above the chord" in str(found)
    assert "try: wider layers" in str(found)


def test_thresholds_decide(pair: Any) -> None:
    """On either side of each, and of a rate that was fitted."""
    losses = jnp.array([0.0, 0.2, 0.0])
    barrier = lmcjax.linear_barrier(
        lambda p: jnp.interp(p["x"], jnp.array([0, 0.5, 1]), losses), {"x": 0.0}, {"x": 1.0}
    )
    b = jax.tree.map(lambda x: x + 1, pair.params_a)
    identity = lmcjax.identity_permutations(pair.spec, pair.params_a)
    n = jnp.array([10.0, 100.0, 1000.0])
    rate = fit_exponent(n, n**-0.4, n**-0.4 / 10, repetitions=5)

    def failed(**thresholds: float) -> list[bool]:
        found = diagnose(pair.spec, pair.params_a, b, identity, barrier, rate=rate, **thresholds)
        return [bool(signature.failed) for signature in found[:3]]

    assert failed(max_barrier=0.19, min_reduction=0.01, max_exponent=-0.41) == [True, True, True]
    assert failed(max_barrier=0.21, min_reduction=-0.01, max_exponent=-0.39) == [
        False,
        False,
        False,
    ]


def test_nan_fails_and_spoils_no_neighbour(pair: Any, run: Any) -> None:
    bad = {**pair.params_b, "Dense_1": {**pair.params_b["Dense_1"], "bias": jnp.full(20, jnp.nan)}}
    stacked = jax.tree.map(lambda *x: np.stack(x), bad, pair.params_a)
    found, _ = jax.jit(jax.vmap(run, (None, 0)))(pair.params_a, stacked)
    assert found.finite.tolist() == [False, True]
    assert found.barrier.failed.tolist() == [True, False]
    assert found.reduction.failed.tolist() == [True, False]
    assert float(found.reduction.value[1]) == 1  # the same network: nothing to reduce
