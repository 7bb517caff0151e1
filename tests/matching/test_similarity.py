"""Similarities that a user writes, in the matchings that take one; against SciPy and POT."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy.optimize import linear_sum_assignment

from lmcjax import (
    ActivationMoments,
    Activations,
    Correlation,
    Covariance,
    Similarity,
    Weights,
    activation_moments,
    approximate_dimensions,
    match_layerwise,
    match_soft,
)
from lmcjax.matching import KernelSimilarity, Matching, Pair, Term, layer_similarity
from lmcjax.statistics import group_moments

pytestmark = pytest.mark.usefixtures("quick_compilation")


@dataclasses.dataclass(frozen=True, eq=False)
class Nearness(KernelSimilarity):
    """`-||w_a - w_b||^2` of incoming weights, times a scale."""

    scale: jax.Array

    def compare(self, rows_a: jax.Array, rows_b: jax.Array) -> jax.Array:
        differences = rows_a[..., :, None, :] - rows_b[..., None, :, :]
        return -self.scale * jnp.sum(differences**2, axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class MeanActivations(Similarity):
    """Products of mean activations, which no other group moves."""

    moments: ActivationMoments

    def terms(self, pair: Pair, group: str) -> list[Term]:
        own = group_moments(pair.spec, group, pair.leaves_a, self.moments, params_b=pair.leaves_b)

        def matrix(alignments: Any) -> jax.Array:
            del alignments
            return jnp.outer(own.mean_a, own.mean_b)

        return [Term(frozenset(), matrix)]


Formula = Callable[[list[np.ndarray], list[np.ndarray]], np.ndarray]


def nearness_in_numpy(kernels: list[np.ndarray], means: list[np.ndarray]) -> np.ndarray:
    kernel_a, kernel_b = kernels
    return -0.5 * ((kernel_a[:, :, None] - kernel_b[:, None, :]) ** 2).sum(0)


def mean_activations_in_numpy(kernels: list[np.ndarray], means: list[np.ndarray]) -> np.ndarray:
    return np.outer(*means)


FORMULAS: dict[str, Formula] = {
    "a kernel similarity": nearness_in_numpy,
    "terms": mean_activations_in_numpy,
}


def similarity_called(name: str, moments: ActivationMoments) -> Similarity:
    return Nearness(jnp.float32(0.5)) if name == "a kernel similarity" else MeanActivations(moments)


def reference(formula: Formula, a: Any, b: Any, inputs: Any) -> list[np.ndarray]:
    """Layer by layer in float64, B aligned by the plans of POT, which are permutations here."""
    phi_a = np.asarray(inputs, np.float64)
    phi_b = phi_a
    before = np.eye(phi_a.shape[1])
    plans = []
    for name in list(a)[:-1]:
        kernel_a, kernel_b = (np.asarray(p[name]["kernel"], np.float64) for p in (a, b))
        phi_a = np.maximum(phi_a @ kernel_a + np.asarray(a[name]["bias"]), 0)
        phi_b = np.maximum(phi_b @ kernel_b + np.asarray(b[name]["bias"]), 0)
        means = [phi_a.mean(0), phi_b.mean(0)]
        matrix = formula([kernel_a, before @ kernel_b], means)
        before = len(matrix) * ot.emd([], [], -matrix)
        np.testing.assert_array_equal(
            before.argmax(1), linear_sum_assignment(matrix, maximize=True)[1]
        )
        plans.append(before)
    return plans


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("match", [match_layerwise, match_soft])
def test_a_users_own_similarity_is_followed(
    match: Callable[..., Matching], name: str, small_pairs: Any
) -> None:
    """Three pairs in a batch, the similarity an argument of the jitted function."""
    spec = small_pairs.spec
    a, b = small_pairs.params_a, small_pairs.params_b

    def measure(a: Any, b: Any) -> ActivationMoments:
        return activation_moments(small_pairs.network.apply, spec, a, b, small_pairs.inputs)

    def match_one(a: Any, b: Any, similarity: Similarity) -> Matching:
        return match(spec, a, b, similarity=similarity)

    moments = jax.jit(jax.vmap(measure))(a, b)
    similarity = similarity_called(name, moments)
    if name == "a kernel similarity":
        similarity = Nearness(jnp.full(3, 0.5))
    matching = jax.jit(jax.vmap(match_one))(a, b, similarity)
    assert matching.converged.all()
    for i in range(3):
        one, other = (jax.tree.map(lambda v, i=i: np.asarray(v[i]), p) for p in (a, b))
        plans = reference(FORMULAS[name], one, other, small_pairs.inputs)
        for group, plan in zip(spec.groups, plans, strict=True):
            if matching.alignments is None:
                np.testing.assert_array_equal(matching.permutations[group][i], plan.argmax(1))
            else:
                np.testing.assert_allclose(matching.alignments[group][i], plan, atol=1e-6)


def test_own_kernels_have_an_approximate_dimension(small_pairs: Any) -> None:
    """That of the similarity of A with itself; without `self_similarity` there is none."""
    a = jax.tree.map(lambda v: v[0], small_pairs.params_a)
    own = Nearness(jnp.float32(0.5))
    dimensions = approximate_dimensions(small_pairs.spec, a, similarity=own)
    matrix = layer_similarity(small_pairs.spec, "Dense_0", a, a, similarity=own)
    matrix = np.asarray(matrix, np.float64)
    squares = (matrix**2).sum()
    assert float(dimensions["Dense_0"]) == pytest.approx(np.trace(matrix) ** 2 / squares, abs=1e-6)
    without = MeanActivations(ActivationMoments({}, {}))
    with pytest.raises(ValueError, match="MeanActivations has no approximate dimension"):
        approximate_dimensions(small_pairs.spec, a, similarity=without)


def test_a_class_says_what_it_needs_and_what_it_has() -> None:
    """Moments by a field of that name, an approximate dimension by `self_similarity`."""
    assert not Nearness.needs_moments()
    assert MeanActivations.needs_moments()
    assert Nearness.has_dimension()
    assert not MeanActivations.has_dimension()
    assert Activations.has_dimension()
    assert not Correlation.has_dimension()


def test_a_similarity_has_terms() -> None:
    class Empty(Similarity):
        pass

    with pytest.raises(TypeError, match=r"abstract method '?terms"):
        Empty()


def test_structures_of_different_similarities_differ() -> None:
    """Where they are equal, `jit` may run the program of one similarity for another."""
    moments = ActivationMoments({}, {})
    similarities = [
        Weights(),
        Covariance(moments),
        Covariance(moments, include_bias=True),
        Activations(moments),
        Correlation(moments),
        MeanActivations(moments),
    ]
    structures = [jax.tree.structure(similarity) for similarity in similarities]
    for structure, other in itertools.combinations(structures, 2):
        assert structure != other
    assert jax.tree.structure(Covariance(moments)) == structures[1]


def test_a_similarity_that_is_no_dataclass_is_refused() -> None:
    class Plain(MeanActivations):
        """It inherits its field, and may."""

    class Bare(Similarity):
        def __init__(self) -> None:
            self.scale = jnp.ones(())

        def terms(self, pair: Pair, group: str) -> list[Term]:
            raise NotImplementedError

    assert len(jax.tree.leaves(Plain(ActivationMoments({"w": jnp.ones(2)}, {})))) == 1
    with pytest.raises(TypeError, match="the similarity Bare is no dataclass"):
        jax.tree.leaves(Bare())
