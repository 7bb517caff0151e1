"""The similarities by name, and as arguments of transformed functions."""

import functools
import typing
from typing import Any

import chex
import jax
import numpy as np
import pytest

from lmcjax import (
    ActivationMoments,
    Activations,
    Correlation,
    Covariance,
    Matching,
    Similarity,
    Weights,
    activation_moments,
    match_layerwise,
)
from lmcjax.matching import (
    SIMILARITIES,
    SimilarityName,
    layer_similarity,
    similarity_from_name,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

NO_MOMENTS = ActivationMoments({}, {})


def test_every_name_is_that_of_a_similarity() -> None:
    kinds = {"weights": Weights, "covariance": Covariance}
    kinds |= {"activations": Activations, "correlation": Correlation}
    assert kinds.items() <= SIMILARITIES.items()
    assert set(typing.get_args(SimilarityName)) == set(SIMILARITIES)
    for name, kind in SIMILARITIES.items():
        similarity = similarity_from_name(name, NO_MOMENTS)
        assert type(similarity) is kind
        if kind.needs_moments():
            assert similarity.moments is NO_MOMENTS
        else:
            assert isinstance(similarity_from_name(name), kind)
    assert not Weights.needs_moments()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'cosine' is not one of \('weights', 'covariance', "):
        similarity_from_name("cosine", NO_MOMENTS)


@pytest.mark.parametrize("name", ["covariance", "activations", "correlation"])
def test_a_name_that_needs_moments_says_so(name: str) -> None:
    message = f"'{name}' needs moments, and moments is None: .*activation_moments"
    with pytest.raises(ValueError, match=message):
        similarity_from_name(name)


@pytest.fixture(scope="module")
def moments(small_pairs: Any) -> ActivationMoments:
    """The moments of three pairs."""

    def measure(a: Any, b: Any) -> ActivationMoments:
        apply = small_pairs.network.apply
        return activation_moments(apply, small_pairs.spec, a, b, small_pairs.inputs)

    return jax.jit(jax.vmap(measure))(small_pairs.params_a, small_pairs.params_b)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities_are_arguments_of_jit_and_vmap(
    name: str, moments: ActivationMoments, small_pairs: Any
) -> None:
    """A batch of similarities is a similarity of batched moments, and vmap is a loop."""

    def match(a: Any, b: Any, similarity: Similarity) -> Matching:
        return match_layerwise(small_pairs.spec, a, b, similarity=similarity)

    arguments = (*small_pairs[2:4], similarity_from_name(name, moments))
    batched = jax.jit(jax.vmap(match))(*arguments)
    one_by_one = jax.jit(match)
    for i in range(3):
        single = one_by_one(*jax.tree.map(lambda v, i=i: v[i], arguments))
        chex.assert_trees_all_close(single, jax.tree.map(lambda v, i=i: v[i], batched), rtol=1e-5)
    assert one_by_one._cache_size() == 1  # equal structures are one program


def test_one_similarity_serves_a_batch_of_networks(
    moments: ActivationMoments, small_pairs: Any
) -> None:
    """Mapped over the networks alone."""
    a, b = small_pairs[2:4]
    first = jax.tree.map(lambda v: v[0], moments)
    compare = functools.partial(layer_similarity, small_pairs.spec, "Dense_1")

    def by_covariance(a: Any, b: Any, similarity: Similarity) -> jax.Array:
        return compare(a, b, similarity=similarity)

    mapped = jax.jit(jax.vmap(by_covariance, in_axes=(0, 0, None)))
    matrices = mapped(a, b, Covariance(first))
    for i in range(3):
        one, other = (jax.tree.map(lambda v, i=i: v[i], side) for side in (a, b))
        expected = compare(one, other, similarity=Covariance(first))
        np.testing.assert_allclose(matrices[i], expected, rtol=1e-5, atol=1e-5)


def test_similarities_are_pytrees_and_hashable(moments: ActivationMoments) -> None:
    """Arrays are leaves, options are not. Equal are only a similarity and itself."""
    similarity = Covariance(moments, include_bias=True)
    leaves, structure = jax.tree.flatten(similarity)
    assert len(leaves) == len(jax.tree.leaves(moments))
    rebuilt = jax.tree.unflatten(structure, leaves)
    assert rebuilt.include_bias is True
    chex.assert_trees_all_equal(rebuilt, similarity)
    assert structure != jax.tree.structure(Covariance(moments))
    assert jax.tree.leaves(Weights()) == []
    assert {similarity, rebuilt} == {rebuilt, similarity}
    assert len({similarity, similarity, rebuilt}) == 2


def test_twice_the_activations_are_four_times_the_similarity(
    moments: ActivationMoments, small_pairs: Any
) -> None:
    """By covariance: the second moment of the inputs enters once."""
    a, b, first = jax.tree.map(lambda v: v[0], (*small_pairs[2:4], moments))
    inputs = {}
    for kernel, of_kernel in first.inputs.items():
        squares = {name: 4 * getattr(of_kernel, name) for name in of_kernel._fields[3:]}
        means = {name: 2 * getattr(of_kernel, name) for name in of_kernel._fields[1:3]}
        inputs[kernel] = of_kernel._replace(**squares, **means)
    compare = functools.partial(layer_similarity, small_pairs.spec, "Dense_1", a, b)
    doubled = compare(similarity=Covariance(first._replace(inputs=inputs)))
    np.testing.assert_allclose(doubled, 4 * compare(similarity=Covariance(first)), rtol=1e-5)
