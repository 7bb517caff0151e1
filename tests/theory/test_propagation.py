"""The propagated bound against measured deviations, and both against a plain NumPy network."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmcjax
from lmcjax.symmetry import PermutationSpec, reads, writes
from lmcjax.theory import PathDeviation, Propagation, path_deviation, propagate

pytestmark = pytest.mark.usefixtures("quick_compilation")

NUM_POINTS = 5


@functools.cache
def programs(spec: PermutationSpec, apply: Any) -> Any:
    """Match, permute, bound, and measure: one compilation."""

    def both(
        a: Any, b: Any, inputs: jax.Array
    ) -> tuple[Any, Propagation, PathDeviation, jax.Array]:
        moments = lmcjax.activation_moments(apply, spec, a, b, inputs)
        matching = lmcjax.match_layerwise(spec, a, b, similarity=lmcjax.Covariance(moments))
        b = lmcjax.permute(spec, matching.permutations, b)
        moments = lmcjax.activation_moments(apply, spec, a, b, inputs)
        labels = apply(a, inputs).argmax(-1)
        loss = lmcjax.batched_loss(
            apply, lambda z, y: lmcjax.cross_entropy_and_accuracy(z, y).loss, (inputs, labels)
        )
        barrier = lmcjax.linear_barrier(loss, a, b, num_points=NUM_POINTS)
        return (
            b,
            propagate(spec, a, b, moments, num_points=NUM_POINTS),
            path_deviation(apply, spec, a, b, inputs, num_points=NUM_POINTS),
            barrier.losses
            - (1 - barrier.points) * barrier.losses[0]
            - barrier.points * barrier.losses[-1],
        )

    return jax.jit(both)


def layers(params: Any, inputs: np.ndarray) -> list[np.ndarray]:
    """All layers of a ReLU network in float64."""
    values = np.asarray(inputs, np.float64)
    outputs = []
    for i in range(len(params)):
        weights = np.asarray(params[f"Dense_{i}"]["kernel"], np.float64)
        bias = np.asarray(params[f"Dense_{i}"]["bias"], np.float64)
        values = values @ weights + bias
        if i < len(params) - 1:
            values = np.maximum(values, 0)
        outputs.append(values)
    return outputs


def check_bounds(bound: Propagation, measured: PathDeviation) -> None:
    """Never below, up to rounding, in any layer, from either end."""
    assert bound.finite
    assert measured.finite
    for field in ("from_a", "from_b"):
        for name, values in getattr(measured, field).items():
            np.testing.assert_array_less(values, getattr(bound, field)[name] * (1 + 1e-4) + 1e-4)
    np.testing.assert_array_less(measured.chord, bound.chord * (1 + 1e-4) + 1e-4)


@pytest.mark.slow
def test_is_never_below_what_numpy_measures(pair: Any) -> None:
    """Random networks with biases: bounds hold, and what is measured is what NumPy measures."""
    b, bound, measured, excess = programs(pair.spec, pair.network.apply)(
        pair.params_a, pair.params_b, pair.inputs
    )
    check_bounds(bound, measured)
    ends = layers(pair.params_a, pair.inputs), layers(b, pair.inputs)
    for i, t in enumerate(np.asarray(bound.points, np.float64)):
        here = layers(lmcjax.interpolate(pair.params_a, b, t), pair.inputs)
        for layer, (phi, phi_a, phi_b) in enumerate(zip(here, *ends, strict=True)):
            for field, end in (("from_a", phi_a), ("from_b", phi_b)):
                expected = np.sqrt(np.mean(np.sum((phi - end) ** 2, axis=1)))
                found = getattr(measured, field)[f"Dense_{layer}/kernel"][i]
                assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-4)
        expected = here[-1] - (1 - t) * ends[0][-1] - t * ends[1][-1]
        assert float(measured.chord[i]) == pytest.approx(
            np.sqrt(np.mean(np.sum(expected**2, 1))), rel=1e-3, abs=1e-4
        )
    seen = np.asarray(pair.inputs, np.float64)
    for layer, phi in enumerate(ends[0]):
        step, shift = (
            np.asarray(b[f"Dense_{layer}"][name], np.float64)
            - pair.params_a[f"Dense_{layer}"][name]
            for name in ("kernel", "bias")
        )
        expected = np.sqrt(np.mean(np.sum((seen @ step + shift) ** 2, axis=1)))
        assert float(bound.distances[f"Dense_{layer}/kernel"]) == pytest.approx(expected, rel=1e-4)
        seen = phi
    np.testing.assert_array_less(excess, np.sqrt(2) * bound.chord + 1e-5)


def test_first_layer_is_exact_without_an_activation(pair: Any) -> None:
    """The bound is an equality there, and grows by NumPy's largest singular value after it."""
    b, bound, *_ = programs(pair.spec, pair.network.apply)(
        pair.params_a, pair.params_b, pair.inputs
    )
    names = list(bound.distances)
    t = np.asarray(bound.points)
    np.testing.assert_allclose(bound.from_a[names[0]], t * bound.distances[names[0]], rtol=1e-6)
    norms = []
    for point in t:
        kernel = lmcjax.interpolate(pair.params_a, b, point)["Dense_1"]["kernel"]
        norms.append(np.linalg.svd(np.asarray(kernel, np.float64))[1][0])
    expected = t * np.asarray(bound.distances[names[1]]) + np.array(norms) * np.asarray(
        bound.from_a[names[0]]
    )
    np.testing.assert_allclose(bound.from_a[names[1]], expected, rtol=1e-4)
    seen = layers(b, pair.inputs)[0]  # from the other end, B's layer is what is seen
    step, shift = (
        np.asarray(b["Dense_1"][name], np.float64) - pair.params_a["Dense_1"][name]
        for name in ("kernel", "bias")
    )
    distance = np.sqrt(np.mean(np.sum((seen @ step + shift) ** 2, axis=1)))
    expected = (1 - t) * distance + np.array(norms) * np.asarray(bound.from_b[names[0]])
    np.testing.assert_allclose(bound.from_b[names[1]], expected, rtol=1e-4)


def test_near_networks_are_bounded_in_proportion(pair: Any) -> None:
    """The bound is not vacuous between near networks, such as trained ones once matched."""
    near = jax.tree.map(
        lambda x: x + 0.01 * np.random.default_rng(x.size).normal(size=x.shape).astype("f"), pair[2]
    )
    _, bound, measured, _ = programs(pair.spec, pair.network.apply)(
        pair.params_a, near, pair.inputs
    )
    check_bounds(bound, measured)
    last = "Dense_3/kernel"
    assert float(bound.from_a[last][-1]) < 30 * float(measured.from_a[last][-1])
    _, zero, measured, _ = programs(pair.spec, pair.network.apply)(
        pair.params_a, pair.params_a, pair.inputs
    )
    assert float(zero.chord.max()) == float(measured.chord.max()) == 0


def test_lipschitz_constant_multiplies_once_per_hidden_layer(pair: Any) -> None:
    spec, a, b = pair.spec, pair.params_a, pair.params_b
    bounds = jax.jit(
        lambda s: (
            propagate(
                spec,
                a,
                b,
                lmcjax.activation_moments(pair.network.apply, spec, a, b, pair.inputs),
                lipschitz=s,
            ).from_a
        )
    )
    one, two = (bounds(jnp.float32(s)) for s in (1.0, 2.0))
    np.testing.assert_allclose(two["Dense_0/kernel"], 2 * one["Dense_0/kernel"], rtol=1e-5)
    assert np.all(two["Dense_3/kernel"][1:] < 8 * one["Dense_3/kernel"][1:])
    assert np.all(two["Dense_3/kernel"][1:] > one["Dense_3/kernel"][1:])


def test_discovered_chains_in_any_container(small_pairs: Any) -> None:
    """A list of layers, some without biases, and tanh; the spec is discovered."""

    def apply(params: Any, x: jax.Array) -> jax.Array:
        hidden = jnp.tanh(jnp.tanh(x @ params[0]["w"] + params[0]["b"]) @ params[1]["w"])
        return hidden @ params[2]["w"]

    def as_list(params: Any) -> Any:
        one = jax.tree.map(lambda x: x[0], params)
        layers = [{"w": one[f"Dense_{i}"]["kernel"]} for i in range(3)]
        layers[0]["b"] = one["Dense_0"]["bias"]
        return layers

    a, b = as_list(small_pairs.params_a), as_list(small_pairs.params_b)
    spec = lmcjax.discover(apply, a, small_pairs.inputs)
    _, bound, measured, _ = programs(spec, apply)(a, b, small_pairs.inputs)
    assert [*bound.from_a] == ["0/w", "1/w", "2/w"]
    check_bounds(bound, measured)


def test_nan_spoils_no_neighbour(small_pairs: Any) -> None:
    run = jax.jit(jax.vmap(programs(small_pairs.spec, small_pairs.network.apply), (0, 0, None)))
    bad = jax.tree.map(lambda x: np.asarray(x).copy(), small_pairs.params_b)
    bad["Dense_1"]["kernel"][1, 0, 0] = np.nan
    _, bound, measured, _ = run(small_pairs.params_a, bad, small_pairs.inputs)
    assert bound.finite.tolist() == measured.finite.tolist() == [True, False, True]


@pytest.mark.usefixtures("unchecked")
def test_errors_say_what_is_in_the_way(pair: Any, small_pairs: Any) -> None:
    a, spec = pair.params_a, pair.spec
    no_moments = lmcjax.ActivationMoments({}, {})
    with pytest.raises(ValueError, match=r"'Dense_0/kernel' has no moments"):
        propagate(spec, a, a, no_moments)
    with pytest.raises(ValueError, match="num_points=1"):
        propagate(spec, a, a, no_moments, num_points=1)
    with pytest.raises(ValueError, match=r"'Dense_0/bias' has shape \(24,\).*\(8,\)"):
        propagate(
            spec,
            a,
            {**a, **{k: jax.tree.map(lambda x: x[0], v) for k, v in small_pairs.params_a.items()}},
            no_moments,
        )
    residual = PermutationSpec.from_axes(
        {"w1": (None, writes("g")), "w2": (reads("g"), writes("g")), "w3": (reads("g"), None)}
    )
    square = {"w1": jnp.ones((2, 3)), "w2": jnp.ones((3, 3)), "w3": jnp.ones((3, 1))}
    with pytest.raises(ValueError, match=r"no chain.*'w1', 'w2'"):
        propagate(residual, square, square, no_moments)
    convolution = PermutationSpec.from_axes(
        {"w1": (None, None, None, writes("g")), "w2": (reads("g"), None)}
    )
    images = {"w1": jnp.ones((3, 3, 1, 2)), "w2": jnp.ones((2, 1))}
    with pytest.raises(ValueError, match=r"'w1' of shape \(3, 3, 1, 2\) is no dense kernel"):
        propagate(convolution, images, images, no_moments)
    norm = PermutationSpec.from_axes(
        {
            "w1": (None, writes("g")),
            "b": (writes("g"),),
            "scale": (writes("g"),),
            "w2": (reads("g"), None),
        }
    )
    params = {
        "w1": jnp.ones((2, 3)),
        "b": jnp.ones(3),
        "scale": jnp.ones(3),
        "w2": jnp.ones((3, 1)),
    }
    with pytest.raises(ValueError, match=r"at most one bias.*'scale'"):
        propagate(norm, params, params, no_moments)
