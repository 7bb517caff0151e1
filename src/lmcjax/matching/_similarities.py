"""The similarities of the paper, and correlation: objects, and their names."""

import abc
import dataclasses
import functools
import math
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int

from lmcjax._dtypes import accumulation_dtype
from lmcjax.matching._pair import Pair, are_permutations, in_unit_of_their_own
from lmcjax.matching._similarity import KernelSimilarity, Similarity, Term
from lmcjax.statistics import (
    ActivationMoments,
    Moments,
    activation_sources,
    bound_group_moments,
    cross_correlation,
    cross_covariance,
    over_batch,
    second_moment,
)
from lmcjax.symmetry import (
    Alignments,
    Kernel,
    Permutations,
    Place,
    from_kernel_matrix,
    kernel_matrix,
)

SimilarityName: TypeAlias = Literal[
    "weights",
    "covariance",
    "activations",
    "correlation",
]
"""What the command line, configurations and stored results call the similarities."""

_HIGHEST = jax.lax.Precision.HIGHEST


class KernelMetric(abc.ABC):
    """An inner product of kernels, in which matchings of all weights compare them."""

    @abc.abstractmethod
    def weigh(self, kernel: Kernel, leaf: Array) -> Array:
        """`S W` in the layout of the leaf: `<W, S W>` is the squared norm of W."""

    @abc.abstractmethod
    def root(self, kernel: Kernel, leaf: Array, network: Literal["a", "b"]) -> Array:
        """`S^(1/2) W` in the layout of the leaf, with the S of one of the two networks."""


@dataclasses.dataclass(frozen=True, eq=False)
class Weights(KernelSimilarity):
    """Inner products of incoming weights: `M = W_A W_B^T`.

    Source: the paper, Section 6 ("naive" weight matching).
    """

    def unit(self, pair: Pair) -> tuple[Pair, Int[Array, ""]]:
        """Each network's largest weight near 1."""
        return in_unit_of_their_own(pair)


@dataclasses.dataclass(frozen=True, eq=False)
class Covariance(KernelSimilarity, KernelMetric):
    """Inner products of weights in the second moment of what the layer sees: `M = W_A S W_B^T`.

    S is the uncentred second moment of A's inputs to the kernel, divided by N - 1.

    Attributes:
        moments: what `activation_moments` returns, traced; of network A's inputs only.
        include_bias: static; compares `[W, b]` on the inputs `[phi, 1]`, in dense layers. The paper
            does not.

    Source: the paper, Section 6.
    """

    moments: ActivationMoments
    include_bias: bool = dataclasses.field(default=False, metadata={"static": True})

    def unit(self, pair: Pair) -> tuple[Pair, Int[Array, ""]]:
        """Each network's largest weight near 1; the moments as they are."""
        return in_unit_of_their_own(pair)

    def weigh(self, kernel: Kernel, leaf: Array) -> Array:
        """`S W` in the layout of the leaf."""
        moments = input_moments(kernel, leaf, self.moments)
        dtype = accumulation_dtype(leaf, moments.mean_a)
        matrix = kernel_matrix(kernel, leaf).astype(dtype)
        if moments.centred_aa is None:  # one-hot vectors: S is diagonal
            share = moments.num_samples / (moments.num_samples - 1)
            diagonal = share[..., None] * moments.mean_a
            return from_kernel_matrix(
                kernel, diagonal[..., None].astype(dtype) * matrix, leaf.shape
            )
        of_one = functools.partial(second_moment, ddof=1)
        second = over_batch(of_one, moments.num_samples.ndim)(moments)
        weighed = jnp.matmul(second.astype(dtype), matrix, precision=_HIGHEST)
        return from_kernel_matrix(kernel, weighed, leaf.shape)

    def root(self, kernel: Kernel, leaf: Array, network: Literal["a", "b"]) -> Array:
        """`S^(1/2) W` in the layout of the leaf, S divided by N."""
        moments = input_moments(kernel, leaf, self.moments)
        if network == "b":
            moments = moments._replace(mean_a=moments.mean_b, centred_aa=moments.centred_bb)
        matrix = kernel_matrix(kernel, leaf)
        if moments.centred_aa is None:  # one-hot vectors: S is diagonal
            root = jnp.sqrt(moments.mean_a)[..., None].astype(leaf.dtype)
            return from_kernel_matrix(kernel, root * matrix, leaf.shape)
        second = over_batch(second_moment, moments.num_samples.ndim)(moments)
        root = _square_root(second).astype(leaf.dtype)
        rooted = jnp.matmul(root, matrix, precision=_HIGHEST)
        return from_kernel_matrix(kernel, rooted, leaf.shape)

    def terms(self, pair: Pair, group: str) -> list[Term]:
        """One matrix for each kernel that writes the group, and one for the bias, if it counts."""
        terms = super().terms(pair, group)
        if self.include_bias:
            terms.append(self._bias_term(pair, group))
        return terms

    def _bias_term(self, pair: Pair, group: str) -> Term:
        """What `[W, b] [[S, m], [m^T, c]] [W~, b~]^T` has more than `W S W~^T`."""
        kernel, place, bias = _dense_layer(pair, group)
        seen = input_moments(kernel, pair.leaves_a[kernel.leaf], self.moments)
        share = seen.num_samples / (seen.num_samples - 1)

        def matrix(alignments: Alignments | Permutations) -> Array:
            weights_a = kernel_matrix(kernel, pair.leaves_a[kernel.leaf])
            weights_b = kernel_matrix(kernel, pair.others_in_place(place, alignments))
            dtype = accumulation_dtype(weights_a, weights_b, seen.mean_a)
            mean = (share * seen.mean_a).astype(dtype)
            bias_a = jnp.asarray(pair.leaves_a[bias], dtype)
            bias_b = jnp.asarray(pair.leaves_b[bias], dtype)
            mean_output_a = jnp.matmul(mean, weights_a.astype(dtype), precision=_HIGHEST)
            mean_output_b = jnp.matmul(mean, weights_b.astype(dtype), precision=_HIGHEST)
            crossed = jnp.outer(mean_output_a, bias_b) + jnp.outer(bias_a, mean_output_b)
            return crossed + share.astype(dtype) * jnp.outer(bias_a, bias_b)

        return Term(frozenset(place.groups_beside()), matrix)


class ActivationSimilarity(Similarity):
    """A similarity of a group's own activations in the two networks, on the same inputs.

    Subclasses hold `moments`, and say by `compare` how two neurons' activations are compared.
    """

    moments: ActivationMoments

    @abc.abstractmethod
    def compare(self, moments: Moments) -> Array:
        """The matrix of one group, `[n_a, n_b]`, from the moments of its activations."""

    def terms(self, pair: Pair, group: str) -> list[Term]:
        """One matrix, of all that is seen of the group."""
        depends_on = set()
        for _, place, features, _ in activation_sources(pair.spec, group, self.moments):
            depends_on |= place.groups_beside(features)

        def matrix(alignments: Alignments | Permutations) -> Array:
            # matrices would mix what is seen; match_soft refuses the specs where that matters
            permutations = alignments if are_permutations(alignments) else None
            own = self.group_moments(pair, group, permutations)
            return over_batch(self.compare, own.num_samples.ndim)(own)

        return [Term(frozenset(depends_on), matrix)]

    def group_moments(
        self, pair: Pair, group: str, permutations: Permutations | None = None
    ) -> Moments:
        """The moments of the group's activations, all that is seen of it pooled."""
        return bound_group_moments(
            (pair.spec, pair.spec_b),
            (pair.leaves_a, pair.leaves_b),
            group,
            self.moments,
            permutations,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Activations(ActivationSimilarity):
    """Covariances of activations: `M = sum_x (phi_A - mean_A)(phi_B - mean_B)^T / (N - 1)`.

    Attributes:
        moments: what `activation_moments` returns, traced.

    Source: the paper, Section 6, after Li et al. (2015).
    """

    moments: ActivationMoments

    def compare(self, moments: Moments) -> Array:
        """The cross covariance."""
        return cross_covariance(moments)

    def self_similarity(self, pair: Pair, group: str) -> Array:
        """The uncentred second moment of A's activations, divided by N."""
        own = self.group_moments(pair.of_a_with_itself(), group)
        return over_batch(second_moment, own.num_samples.ndim)(own)


@dataclasses.dataclass(frozen=True, eq=False)
class Correlation(ActivationSimilarity):
    """Pearson's correlations of activations, 0 for a neuron that is constant.

    Attributes:
        moments: what `activation_moments` returns, traced.

    Source: Li et al. (2015), Convergent Learning.
    """

    moments: ActivationMoments

    def compare(self, moments: Moments) -> Array:
        """The cross correlation."""
        return cross_correlation(moments)


SIMILARITIES: dict[SimilarityName, type[Similarity]] = {
    "weights": Weights,
    "covariance": Covariance,
    "activations": Activations,
    "correlation": Correlation,
}


def similarity_from_name(name: str, moments: ActivationMoments | None = None) -> Similarity:
    """The similarity that is called so, holding the moments if it needs any.

    Args:
        name: static, one of `SIMILARITIES`.
        moments: what `activation_moments` returns; for those that `needs_moments` says need any.

    Raises:
        ValueError: an unknown name, or moments that are needed and missing.
    """
    if name not in SIMILARITIES:
        raise ValueError(f"similarity {name!r} is not one of {tuple(SIMILARITIES)}")
    kind: Any = SIMILARITIES[name]
    if not kind.needs_moments():
        return kind()
    if moments is None:
        raise ValueError(
            f"similarity {name!r} needs moments, and moments is None: "
            "compute them with activation_moments(apply, spec, params_a, params_b, inputs)"
        )
    return kind(moments=moments)


def metric_of(similarity: Similarity) -> KernelMetric | None:
    """The metric in which all weights are compared; None: as they are.

    Raises:
        ValueError: the similarity is none of weights.
    """
    if isinstance(similarity, KernelMetric):
        return similarity
    if isinstance(similarity, Weights):
        return None
    raise ValueError(
        f"{type(similarity).__name__} defines no metric on kernels, "
        "in which all weights could be compared: give Weights() or Covariance(moments)"
    )


def input_moments(kernel: Kernel, leaf: ArrayLike, moments: ActivationMoments) -> Moments:
    """The moments of what a kernel sees.

    Raises:
        ValueError: there are none, or they are of another size.
    """
    inputs = moments.inputs
    if kernel.name not in inputs:
        raise ValueError(
            f"there are no moments of the inputs of kernel {kernel.name!r}, "
            f"only for {sorted(inputs)}"
        )
    shape = jnp.shape(leaf)
    fan_in = math.prod(shape[i] for i in kernel.inputs)
    measured = inputs[kernel.name].mean_a.shape[-1]
    if measured != fan_in:
        raise ValueError(
            f"kernel {kernel.name!r} has {fan_in} inputs, its moments are of {measured}"
        )
    return inputs[kernel.name]


def _dense_layer(pair: Pair, group: str) -> tuple[Kernel, Place, str]:
    """The one kernel that writes a group, its place, and the leaf of its bias.

    Raises:
        ValueError: the group is not that of one dense layer with a bias.
    """
    kernels = list(pair.spec.writers(group))
    kernel_leaves = {kernel.leaf for kernel in pair.spec.kernels}
    biases = []
    for place in pair.spec.places(group):
        if place.role == "writes" and place.leaf not in kernel_leaves:
            biases.append(place.leaf)
    is_dense = len(kernels) == 1 and jnp.ndim(pair.leaves_a[kernels[0][0].leaf]) == 2
    if not is_dense or len(biases) != 1:
        names = [kernel.name for kernel, _ in kernels]
        raise ValueError(
            f"include_bias needs one dense kernel and one bias for group {group!r}, "
            f"not {names} and {biases}"
        )
    kernel, place = kernels[0]
    return kernel, place, biases[0]


def _square_root(matrices: Array) -> Array:
    """The roots of positive semi-definite matrices; eigenvalues within rounding of 0 are 0."""
    values, vectors = jnp.linalg.eigh(matrices)
    rounding = matrices.shape[-1] * jnp.finfo(matrices.dtype).eps * values[..., -1:]
    roots = jnp.sqrt(jnp.where(values > rounding, values, 0))
    scaled = vectors * roots[..., None, :]
    return jnp.matmul(scaled, jnp.swapaxes(vectors, -1, -2), precision=_HIGHEST)
