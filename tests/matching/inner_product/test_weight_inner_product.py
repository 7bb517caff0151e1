"""The inner product of all weights: its value and its gradients against NumPy and autodiff."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import (
    ActivationMoments,
    Activations,
    Correlation,
    Covariance,
    PermutationSpec,
    Similarity,
    Weights,
    match_coordinate_descent,
    match_frank_wolfe,
    permute,
    random_permutations,
)
from lmcjax.matching import weight_inner_product, weight_similarity
from lmcjax.symmetry import as_alignments, fixed, identity_permutations, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation")


def product(a: Any, b: Any) -> float:
    """The inner product of all leaves, in float64."""
    total = 0.0
    for leaf_a, leaf_b in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        total += np.vdot(np.asarray(leaf_a, np.float64), np.asarray(leaf_b, np.float64))
    return total


@pytest.mark.parametrize("name", ["attention", "convolutional"])
def test_similarities_are_gradients(name: str, cases: Any) -> None:
    """Heads with channels, flattened pixels; the gradient by autodiff."""
    case = cases[name]
    a, b = case.params(0), case.params(1)
    spec = case.spec.bind(a)

    @jax.jit
    def compare(a: Any, b: Any, key: Any) -> Any:
        p = random_permutations(key, spec)

        def at_matrices(soft: Any) -> jax.Array:
            return weight_inner_product(spec, soft, a, b)

        value, gradient = jax.value_and_grad(at_matrices)(as_alignments(p))
        direct = {g: weight_similarity(spec, g, a, b, permutations=p) for g in spec.groups}
        values = (value, weight_inner_product(spec, p, a, b))
        return gradient, direct, values, permute(spec, p, b)

    gradient, direct, values, permuted = compare(a, b, jax.random.key(3))
    chex.assert_trees_all_close(gradient, direct, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(values, product(a, permuted), rtol=1e-4, atol=1e-4)


# a flatten, a concatenation, stacked layers, heads with channels of their own
SPEC = PermutationSpec.from_axes(
    {
        "conv": (None, writes("c")),
        "dense": (fixed(2) * reads("c") * fixed(3) | reads("s"), writes("h")),
        "other": (None, writes("s")),
        "stack": (fixed("layers"), reads("h"), writes("k", along="layers")),
        "query": (reads("h"), writes("heads"), writes("q", along="heads")),
    }
)
SHAPES = {"conv": (3, 4), "dense": (27, 5), "other": (3, 3), "stack": (2, 5, 6), "query": (5, 2, 4)}


def test_the_similarity_is_what_a_pairing_adds_to_the_inner_product(
    rng: np.random.Generator,
) -> None:
    """For every group, others in place: two of its permutations differ by as much in both."""
    networks = []
    for _ in range(2):
        normal = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
        networks.append(jax.tree.map(jnp.float32, normal))
    a, b = networks
    spec = SPEC.bind(a)
    first = random_permutations(jax.random.key(0), spec)
    second = {group: jnp.roll(p, 1, axis=-1) for group, p in first.items()}

    @jax.jit
    def inner(p: Any) -> jax.Array:
        return sum(jnp.vdot(a[name], leaf) for name, leaf in permute(spec, p, b).items())

    @jax.jit
    def similarities(p: Any) -> dict[str, jax.Array]:
        return {g: weight_similarity(spec, g, a, b, permutations=p) for g in spec.groups}

    for group, matrix in similarities(first).items():
        gains = []
        for p in (first, second):
            paired = np.take_along_axis(np.asarray(matrix), p[group][..., None], -1)
            gains.append(paired.sum())
        moved = inner({**first, group: second[group]})
        assert float(moved - inner(first)) == pytest.approx(gains[1] - gains[0], abs=1e-3)
        assert abs(gains[1] - gains[0]) > 0.05


def inner_product(spec: Any, a: Any, b: Any, similarity: Similarity) -> Any:
    in_place = identity_permutations(spec, a)
    return weight_inner_product(spec, in_place, a, b, similarity=similarity)


def similarity_of_first(spec: Any, a: Any, b: Any, similarity: Similarity) -> Any:
    in_place = identity_permutations(spec, a)
    options = {"permutations": in_place, "similarity": similarity}
    return weight_similarity(spec, "Dense_0", a, b, **options)


def by_descent(spec: Any, a: Any, b: Any, similarity: Similarity) -> Any:
    return match_coordinate_descent(spec, a, b, similarity=similarity)


def by_frank_wolfe(spec: Any, a: Any, b: Any, similarity: Similarity) -> Any:
    return match_frank_wolfe(spec, a, b, similarity=similarity)


FUNCTIONS = (inner_product, similarity_of_first, by_descent, by_frank_wolfe)
NO_MOMENTS = ActivationMoments({}, {})


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("similarity", [Activations(NO_MOMENTS), Correlation(NO_MOMENTS)])
def test_a_similarity_without_a_metric_is_refused(
    function: Any, similarity: Similarity, small_pairs: Any
) -> None:
    a, b = (jax.tree.map(lambda v: v[0], side) for side in small_pairs[2:4])
    message = f"{type(similarity).__name__} defines no metric on kernels.*Weights.*Covariance"
    with pytest.raises(ValueError, match=message):
        function(small_pairs.spec, a, b, similarity)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_metric_without_a_kernels_moments_is_refused(function: Any, small_pairs: Any) -> None:
    a, b = (jax.tree.map(lambda v: v[0], side) for side in small_pairs[2:4])
    with pytest.raises(ValueError, match="no moments of the inputs of kernel 'Dense_0/kernel'"):
        function(small_pairs.spec, a, b, Covariance(NO_MOMENTS))


def test_weights_are_compared_where_no_similarity_is_given(small_pairs: Any) -> None:
    a, b = (jax.tree.map(lambda v: v[0], side) for side in small_pairs[2:4])
    in_place = identity_permutations(small_pairs.spec, a)
    value = weight_inner_product(small_pairs.spec, in_place, a, b)
    assert float(value) == float(inner_product(small_pairs.spec, a, b, Weights()))
    assert float(value) == pytest.approx(product(a, b), rel=1e-4)
