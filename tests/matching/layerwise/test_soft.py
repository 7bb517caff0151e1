"""Plans between networks of different widths, against POT, and networks with split neurons."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from lmcjax import (
    Activations,
    Correlation,
    Covariance,
    PermutationSpec,
    Weights,
    activation_moments,
    apply_soft,
    match_layerwise,
    match_soft,
    mlp_spec,
)
from lmcjax.matching import similarity_from_name
from lmcjax.symmetry import both, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation")


def mlp(sizes, rng):
    return {
        f"Dense_{i}": {
            "kernel": jnp.asarray(rng.normal(size=(m, n)) / np.sqrt(m), jnp.float32),
            "bias": jnp.asarray(0.3 * rng.normal(size=n), jnp.float32),
        }
        for i, (m, n) in enumerate(itertools.pairwise(sizes))
    }


def apply(params, x):
    for i in range(len(params)):
        x = (jnp.maximum(x, 0) if i else x) @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"][
            "bias"
        ]
    return x


SPEC = mlp_spec(2)
X = np.random.default_rng(5).normal(size=(80, 5)).astype(np.float32)
moments_of_both = jax.jit(lambda a, b: activation_moments(apply, SPEC, a, b, X, batch_size=80))


@functools.cache
def matcher(**options):
    """`match(params_a, params_b, similarity)`: similarities are traced arguments."""

    def match(a, b, similarity):
        return match_soft(SPEC, a, b, similarity=similarity, **options)

    return jax.jit(match)


def reference(a, b, similarity, temperature=None):
    """Layer by layer in float64: POT's plan for the similarity, times n_a."""
    phi, before, found = np.asarray(X, np.float64), None, []
    for name in ("Dense_0", "Dense_1"):
        w_a, w_b = (np.asarray(p[name]["kernel"], np.float64).T for p in (a, b))
        if before is not None:
            w_b = w_b @ before.T * before.shape[1] / before.shape[0]
        second = (
            phi.T @ phi / (len(phi) - 1) if similarity == "covariance" else np.eye(w_a.shape[1])
        )
        matrix = w_a @ second @ w_b.T
        n_a, n_b = matrix.shape
        margins = np.full(n_a, 1 / n_a), np.full(n_b, 1 / n_b)
        if temperature is None:
            plan = ot.emd(*margins, -matrix)
        else:
            plan = ot.sinkhorn(
                *margins, -matrix / matrix.std(), temperature, method="sinkhorn_log", stopThr=1e-12
            )
        before = n_a * plan
        found.append((before, (before * matrix).sum()))
        phi = np.maximum(
            phi @ np.asarray(a[name]["kernel"], np.float64) + np.asarray(a[name]["bias"]), 0
        )
    return found


@pytest.mark.parametrize(
    ("similarity", "temperature"), [("weights", None), ("covariance", None), ("covariance", 0.3)]
)
def test_equals_pot_layer_by_layer(similarity, temperature, rng):
    """Widths that divide each other in one layer and do not in the other."""
    a, b = mlp((5, 6, 4, 3), rng), mlp((5, 4, 8, 3), rng)
    options = {} if temperature is None else {"temperature": temperature, "threshold": 1e-6}
    by_name = Covariance(moments_of_both(a, a)) if similarity == "covariance" else Weights()
    found = matcher(**options)(a, b, by_name)
    for name, (alignment, objective) in zip(
        SPEC.groups, reference(a, b, similarity, temperature), strict=True
    ):
        np.testing.assert_allclose(found.alignments[name], alignment, atol=1e-4)
        assert float(found.similarity[name]) == pytest.approx(objective, rel=1e-4)
        np.testing.assert_allclose(found.alignments[name].sum(1), 1, atol=1e-4)
        np.testing.assert_allclose(
            found.alignments[name].sum(0), np.divide(*alignment.shape), atol=1e-4
        )
    aligned = apply_soft(SPEC, found.alignments, b)
    assert jax.tree.map(jnp.shape, aligned) == jax.tree.map(jnp.shape, a)
    assert found.converged
    assert found.finite


@pytest.mark.slow
def test_a_network_with_split_and_shuffled_neurons_is_joined_again(rng):
    """Every neuron in two, outgoing weights halved: the exact plan finds the pairs. The way back
    keeps the function.
    """
    a = mlp((5, 6, 4, 3), rng)
    order = {
        "Dense_0": rng.permutation(np.arange(12) % 6),
        "Dense_1": rng.permutation(np.arange(8) % 4),
    }
    wide = apply_soft(
        SPEC,
        {g: np.eye(n, dtype=np.float32)[order[g]] for g, n in (("Dense_0", 6), ("Dense_1", 4))},
        a,
    )
    np.testing.assert_allclose(apply(wide, X), apply(a, X), atol=1e-5)
    joined = apply_soft(SPEC, matcher()(a, wide, Weights()).alignments, wide)
    for leaf, other in zip(jax.tree.leaves(joined), jax.tree.leaves(a), strict=True):
        np.testing.assert_allclose(leaf, other, atol=1e-5)
    other = mlp((5, 12, 8, 3), rng)
    widened = apply_soft(SPEC, matcher()(other, a, Weights()).alignments, a)
    assert jax.tree.map(jnp.shape, widened) == jax.tree.map(jnp.shape, other)
    np.testing.assert_allclose(apply(widened, X), apply(a, X), atol=1e-5)


@pytest.mark.slow
def test_exact_plans_of_equal_widths_are_the_permutations_of_match_layerwise(rng):
    a, b = mlp((5, 6, 4, 3), rng), mlp((5, 6, 4, 3), rng)
    similarity = Correlation(moments_of_both(a, b))
    soft = matcher()(a, b, similarity)
    hard = match_layerwise(SPEC, a, b, similarity=similarity)
    for group, p in hard.permutations.items():
        np.testing.assert_array_equal(soft.alignments[group], np.eye(len(p))[p])
        assert float(soft.similarity[group]) == pytest.approx(
            float(hard.similarity[group]), rel=1e-5
        )


@pytest.mark.parametrize("similarity", ["activations", "correlation"])
def test_activations_of_networks_of_different_widths(similarity, rng):
    """Against POT and NumPy's covariances of the activations themselves."""
    a, b = mlp((5, 6, 4, 3), rng), mlp((5, 4, 8, 3), rng)
    moments = jax.jit(
        lambda a, b: activation_moments(apply, SPEC, a, b, X, apply_b=apply, batch_size=30)
    )(a, b)
    found = matcher()(a, b, similarity_from_name(similarity, moments))
    phi = [np.asarray(X, np.float64)] * 2
    for name in SPEC.groups:
        layers = (p[name] for p in (a, b))
        phi = [
            np.maximum(h @ layer["kernel"] + layer["bias"], 0)
            for h, layer in zip(phi, layers, strict=True)
        ]
        n = phi[0].shape[1]
        matrix = np.cov(phi[0].T, phi[1].T)
        if similarity == "correlation":
            norms = np.sqrt(np.outer(matrix.diagonal(), matrix.diagonal()))
            matrix = matrix / np.where(norms > 0, norms, 1)  # a dead neuron correlates with none
        best = n * (ot.emd([], [], -matrix[:n, n:]) * matrix[:n, n:]).sum()
        assert float(found.similarity[name]) == pytest.approx(best, rel=1e-4)
        assert (found.alignments[name] * matrix[:n, n:]).sum() == pytest.approx(best, rel=1e-4)


def test_a_stream_is_matched_by_what_writes_it_first_and_by_all_then(rng):
    """Split neurons on a residual stream, which writes and reads itself."""
    spec = PermutationSpec.from_axes(
        {
            "in": (None, writes("s")),
            "up": (reads("s"), writes("h")),
            "down": (reads("h"), both("s")),
            "out": (reads("s"),),
        }
    )
    a = {"in": (7, 4), "up": (4, 6), "down": (6, 4), "out": (4,)}
    a = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in a.items()}
    wide = apply_soft(
        spec,
        {"s": np.eye(4, dtype=np.float32)[[1, 3, 0, 2] * 2], "h": np.eye(6, dtype=np.float32)},
        a,
    )
    for num_iterations in (1, 2):
        options = {"similarity": Weights(), "num_iterations": num_iterations}
        found = jax.jit(functools.partial(match_soft, spec, **options))(a, wide)
        joined = apply_soft(spec, found.alignments, wide)
        for name, leaf in a.items():
            np.testing.assert_allclose(joined[name], leaf, atol=1e-5)


def test_a_temperature_is_above_0(rng):
    """A known one is an error; a traced one is flagged, and its neighbours are as without it."""
    a, b = mlp((5, 6, 4, 3), rng), mlp((5, 4, 8, 3), rng)
    for temperature in (-0.3, 0.0, np.nan):
        with pytest.raises(ValueError, match="temperature is above 0, not"):
            match_soft(SPEC, a, b, similarity=Weights(), temperature=temperature)

    @jax.jit
    @jax.vmap
    def match(temperature):
        return match_soft(SPEC, a, b, similarity=Weights(), temperature=temperature)

    found = match(jnp.array([0.3, -0.3, 0.3]))
    clean = match(jnp.full(3, 0.3))
    assert found.finite.tolist() == found.converged.tolist() == [True, False, True]
    assert np.isnan(found.alignments["Dense_0"][1]).all()
    for group, matrix in found.alignments.items():
        np.testing.assert_array_equal(matrix[::2], clean.alignments[group][::2])


def test_what_does_not_fit_is_named(rng):
    a, b = mlp((5, 6, 4, 3), rng), mlp((5, 4, 8, 3), rng)
    with pytest.raises(
        ValueError, match="kernel 'Dense_1/kernel' has 4 features, its moments are of 6"
    ):
        match_soft(SPEC, a, b, similarity=Activations(moments_of_both(a, a)))
    heads = PermutationSpec.from_axes({"q": (None, writes("heads"), writes("c", along="heads"))})
    narrow, wide = {"q": jnp.ones((2, 2, 3))}, {"q": jnp.ones((2, 2, 4))}
    with pytest.raises(ValueError, match="'heads' has neurons of"):
        match_soft(heads, narrow, wide, similarity=Weights())
