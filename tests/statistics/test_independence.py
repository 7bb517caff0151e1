"""The independence test against enumeration, its level, and its power."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import binom

import lmcjax
from lmcjax.statistics import independence_test, neuron_coordinates

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM_NETWORKS, WIDTH, NUM_PROBES = 6, 16, 4
NETWORK = lmcjax.FlaxNetwork(lmcjax.MLP((WIDTH,) * 3, 3), input_shape=(WIDTH,))
SPEC = lmcjax.mlp_spec(3)
PROBES = np.random.default_rng(0).normal(size=(NUM_PROBES, WIDTH)).astype(np.float32)

many_permutations = jax.jit(lambda key, z: independence_test(key, z, num_permutations=4000))


def level(rejected: np.ndarray) -> tuple[float, float]:
    """The share of so many exact tests at 5 per cent that may reject.

    The ends of the central 99.9 per cent of the binomial.
    """
    return tuple(binom.ppf([0.0005, 0.9995], len(rejected), 0.05) / len(rejected))


def statistic(points: np.ndarray, num_networks: int) -> float:
    """Mean similarity within less across, pair by pair."""
    points = (points - points.mean(0)) / points.std(0)
    squared = cdist(points, points, "sqeuclidean")
    similarity = np.exp(-squared / squared.mean())
    owner = np.arange(len(points)) // (len(points) // num_networks)
    pairs = list(itertools.combinations(range(len(points)), 2))
    within = [similarity[i, j] for i, j in pairs if owner[i] == owner[j]]
    across = [similarity[i, j] for i, j in pairs if owner[i] != owner[j]]
    return np.mean(within) - np.mean(across)


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_p_value_is_that_of_all_permutations(shift: float, rng: np.random.Generator) -> None:
    """Two networks of three neurons: 720 permutations, enumerated; 4,000 drawn."""
    neurons = rng.normal(size=(2, 3, 2))
    neurons[1] += shift
    flat = neurons.reshape(6, 2)
    observed = statistic(flat, 2)
    null = np.array([statistic(flat[list(order)], 2) for order in itertools.permutations(range(6))])
    sides = [np.mean(null >= observed - 1e-9), np.mean(null <= observed + 1e-9)]
    found = many_permutations(jax.random.key(0), neurons.astype(np.float32))
    assert float(found.within - found.across) == pytest.approx(observed, abs=1e-5)
    assert float(found.p_value) == pytest.approx(min(1, 2 * min(sides)), abs=0.06)
    assert float(found.effect) == pytest.approx(
        (observed - null.mean()) / null.std(), rel=0.06, abs=0.06
    )
    assert found.finite


@pytest.mark.slow
def test_level_on_fresh_networks_in_every_layer() -> None:
    """160 sets of six networks: 5 per cent in the common frame.

    Pre-activations themselves are dependent in layer 3.
    """

    def one(key: jax.Array) -> dict[str, jax.Array]:
        params = jax.vmap(NETWORK.init)(jax.random.split(key, NUM_NETWORKS))
        result = {}
        for frame in (True, False):
            neurons = jax.vmap(
                lambda p, frame=frame: neuron_coordinates(
                    NETWORK.apply, SPEC, p, PROBES, common_frame=frame
                )
            )(params)
            for group, z in neurons.items():
                result[f"{group} {frame}"] = independence_test(
                    jax.random.fold_in(key, 1), z[..., :NUM_PROBES], num_permutations=79
                ).p_value
        return result

    p_values = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=20))(
        jax.random.split(jax.random.key(0), 160)
    )
    for group in SPEC.groups:
        rejected = np.asarray(p_values[f"{group} True"]) <= 0.05
        low, high = level(rejected)
        assert low <= rejected.mean() <= high, group
    assert np.mean(np.asarray(p_values["Dense_2 False"]) <= 0.05) > 0.3


@pytest.mark.slow
def test_power_against_planted_dependence() -> None:
    """Ten networks of 32 neurons in 8 coordinates, 40 draws.

    A tenth of the variance is shared, or half of the mean given up, or nothing is planted.
    """

    def one(key: jax.Array) -> Any:
        z = jax.random.normal(key, (10, 32, 8))
        common = jax.random.normal(jax.random.fold_in(key, 1), (10, 1, 8))
        attraction = jnp.sqrt(0.9) * z + jnp.sqrt(0.1) * common
        repulsion = z - z.mean(1, keepdims=True) / 2
        key = jax.random.fold_in(key, 2)
        return jax.lax.map(
            lambda x: independence_test(key, x, num_permutations=79),
            jnp.stack([attraction, repulsion, z]),
        )

    found = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=10))(
        jax.random.split(jax.random.key(3), 40)
    )
    rejected = np.asarray(found.p_value) <= 0.05
    assert np.all(rejected.mean(0)[:2] > 0.9)
    assert np.all(np.asarray(found.effect)[:, 0] > 0)
    assert np.all(np.asarray(found.effect)[:, 1] < 0)
    low, high = level(rejected[:, 2])
    assert low <= rejected[:, 2].mean() <= high


def test_common_frame_is_the_weights_in_an_orthonormal_basis(pair: Any) -> None:
    """`(Phi Phi^T)^(-1/2) Phi w` by NumPy's singular values; biases are a coordinate."""
    probes = pair.inputs[:3]
    found = jax.jit(lambda p: neuron_coordinates(pair.network.apply, pair.spec, p, probes))(
        pair.params_a
    )
    raw = neuron_coordinates(
        pair.network.apply, pair.spec, pair.params_a, probes, common_frame=False
    )
    phi = np.asarray(probes, np.float64)
    for layer in range(3):
        weights, bias = (
            np.asarray(pair.params_a[f"Dense_{layer}"][name], np.float64)
            for name in ("kernel", "bias")
        )
        u, _, vt = np.linalg.svd(phi, full_matrices=False)
        np.testing.assert_allclose(
            found[f"Dense_{layer}"][:, :-1], (u @ vt @ weights).T, rtol=1e-3, atol=1e-4
        )
        np.testing.assert_allclose(found[f"Dense_{layer}"][:, -1], bias, rtol=1e-6)
        np.testing.assert_allclose(
            raw[f"Dense_{layer}"][:, :-1], (phi @ weights).T, rtol=1e-4, atol=1e-4
        )
        phi = np.maximum(phi @ weights + bias, 0)


def test_at_most_a_quarter_of_the_fan_in_and_convolutions() -> None:
    def apply(params: Any, x: jax.Array) -> jax.Array:
        x = jax.lax.conv_general_dilated(
            x, params["conv"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(x).mean((1, 2)) @ params["out"]

    rng = np.random.default_rng(0)
    params = {
        "conv": rng.normal(size=(3, 3, 2, 5)).astype("f"),
        "out": rng.normal(size=(5, 2)).astype("f"),
    }
    images = jnp.asarray(rng.normal(size=(4, 6, 6, 2)), jnp.float32)
    spec = lmcjax.discover(apply, params, images)
    (coordinates,) = neuron_coordinates(apply, spec, params, images).values()
    assert coordinates.shape == (5, 4)  # 18 inputs, 64 patches
    assert np.all(
        np.linalg.norm(coordinates, axis=1) <= np.linalg.norm(params["conv"].reshape(18, 5), axis=0)
    )


def test_nan_spoils_no_neighbour() -> None:
    neurons = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    run = jax.jit(jax.vmap(lambda z: independence_test(jax.random.key(0), z, num_permutations=19)))
    clean, neurons[0, 1, 1, 1] = run(neurons), np.nan
    found = run(neurons)
    assert found.finite.tolist() == [False, True]
    assert np.isnan(found.p_value[0])
    assert float(found.p_value[1]) == float(clean.p_value[1])


@pytest.mark.usefixtures("unchecked")
def test_errors_show_what_was_given(pair: Any) -> None:
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"\(1, 4, 2\).*at least"):
        independence_test(key, jnp.ones((1, 4, 2)))
    with pytest.raises(ValueError, match="num_permutations=0"):
        independence_test(key, jnp.ones((2, 4, 2)), num_permutations=0)
    with pytest.raises(ValueError, match=r"'nobody'.*Dense_0"):
        neuron_coordinates(
            pair.network.apply, pair.spec, pair.params_a, pair.inputs, groups=("nobody",)
        )
