"""What a similarity is: how alike the neurons of one group are in two networks."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax.matching._pair import Pair, make_pair
from lmcjax.symmetry import (
    Alignments,
    Kernel,
    Permutations,
    PermutationSpec,
    Place,
    identity_permutations,
)


class Term(NamedTuple):
    """One of the matrices that add up to a group's similarity."""

    depends_on: frozenset[str]  # the groups whose alignment moves what is compared
    matrix: Callable[[Alignments | Permutations], Array]  # of all groups, to `[*batch, n_a, n_b]`


class Similarity(abc.ABC):
    """How alike the neurons of A and of B are, group by group. Every layerwise matching takes one.

    To write one, subclass this and give `terms`; or subclass `KernelSimilarity` and say how two
    neurons' incoming weights are compared. Make the class a dataclass. It is a pytree then: what it
    holds (moments, say) passes through `jit` and `vmap` as an argument does, and fields with
    `metadata={"static": True}` are static. Moments of activations are held as the field `moments`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Not `jax.tree_util.register_dataclass`: in JAX 0.10.2 the structures of two such classes
        # with alike fields are equal, and `jit` may run the program of one for the other.
        flatten = functools.partial(_flatten, cls)
        unflatten = functools.partial(_unflatten, cls)
        jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)

    @classmethod
    def needs_moments(cls) -> bool:
        """Whether it holds moments of activations: whether it has a field of that name."""
        return any(field.name == "moments" for field in _fields(cls))

    @classmethod
    def has_dimension(cls) -> bool:
        """Whether it has an approximate dimension: whether it overrides `self_similarity`."""
        return cls.self_similarity is not Similarity.self_similarity

    @abc.abstractmethod
    def terms(self, pair: Pair, group: str) -> Sequence[Term]:
        """The matrices that add up to the similarity of one group: rows A, columns B.

        Args:
            pair: both networks.
            group: static.
        """

    def unit(self, pair: Pair) -> tuple[Pair, Int[Array, ""]]:
        """The pair in a unit in which no product under- or overflows, and the exponent lost.

        The similarity of the pair given is that of the one returned, times `2^exponent`. This does
        nothing; a similarity that is linear in the weights of each network overrides it.
        """
        return pair, jnp.zeros((), jnp.int32)

    def self_similarity(self, pair: Pair, group: str) -> Array:
        """The matrix whose approximate dimension `approximate_dimensions` reports, of network A.

        Raises:
            ValueError: this similarity has none.
        """
        raise ValueError(f"{type(self).__name__} has no approximate dimension")


def _flatten(
    kind: type, similarity: Similarity
) -> tuple[list[tuple[jax.tree_util.GetAttrKey, Any]], tuple[Any, ...]]:
    """The fields that are traced, with their names, and the values of those that are static."""
    traced = []
    static = []
    for field in _fields(kind):
        value = getattr(similarity, field.name)
        if field.metadata.get("static", False):
            static.append(value)
        else:
            traced.append((jax.tree_util.GetAttrKey(field.name), value))
    return traced, tuple(static)


def _unflatten(kind: type, static: tuple[Any, ...], traced: Iterable[Any]) -> Any:
    # Without `__init__`: what JAX puts in place of arrays would not pass its checks.
    similarity: Any = object.__new__(kind)
    values_of_static = iter(static)
    values_of_traced = iter(traced)
    for field in _fields(kind):
        is_static = field.metadata.get("static", False)
        value = next(values_of_static if is_static else values_of_traced)
        object.__setattr__(similarity, field.name, value)
    return similarity


def _fields(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    if not dataclasses.is_dataclass(kind):
        raise TypeError(
            f"the similarity {kind.__name__} is no dataclass, so JAX cannot say what it holds: "
            "decorate it with @dataclasses.dataclass(frozen=True, eq=False)"
        )
    return dataclasses.fields(kind)


class KernelSimilarity(Similarity):
    """A similarity of the rows of the kernels that write a group: `sum_kernels f(W_A) W_B^T`.

    W has a row per neuron; entries that belong to other outputs (a head's channels) lie side by
    side in it. Override `weigh` to weigh A's rows, or `compare` to compare rows by something else
    than their inner product.
    """

    def weigh(self, kernel: Kernel, leaf: Array) -> Array:
        """A's kernel as it is compared with B's, in the layout of the leaf."""
        del kernel
        return leaf

    def compare(self, rows_a: Array, rows_b: Array) -> Array:
        """Neurons `[*batch, n_a, d]` of A and `[*batch, n_b, d]` of B to `[*batch, n_a, n_b]`."""
        return inner_products(rows_a, rows_b)

    def terms(self, pair: Pair, group: str) -> list[Term]:
        """One matrix for each kernel that writes the group."""
        kernels_a = writing_kernels(pair.spec, group)
        kernels_b = writing_kernels(pair.spec_b, group)
        terms = []
        for (kernel, place_a), (_, place_b) in zip(kernels_a, kernels_b, strict=True):
            terms.append(self._term(pair, kernel, place_a, place_b))
        return terms

    def _term(self, pair: Pair, kernel: Kernel, place_a: Place, place_b: Place) -> Term:
        weighed = jnp.asarray(pair.leaves_a[place_a.leaf])
        if kernel.inputs:  # a state that is learned, say, has none, and nothing to be weighed by
            weighed = self.weigh(kernel, weighed)

        def matrix(alignments: Alignments | Permutations) -> Array:
            aligned = pair.others_in_place(place_b, alignments)
            dtype = accumulation_dtype(weighed, aligned)
            rows_a = place_a.rows(weighed.astype(dtype))
            rows_b = place_b.rows_of_cut(aligned.astype(dtype))
            return self.compare(rows_a, rows_b)

        return Term(frozenset(place_a.groups_beside()), matrix)

    def self_similarity(self, pair: Pair, group: str) -> Array:
        """The similarity of A with itself."""
        terms = self.terms(pair.of_a_with_itself(), group)
        return total(terms, identity_permutations(pair.spec))


def total(terms: Sequence[Term], alignments: Alignments | Permutations) -> Array:
    """The sum of some terms' matrices."""
    matrices = [term.matrix(alignments) for term in terms]
    return sum(matrices[1:], matrices[0])


def writing_kernels(spec: PermutationSpec, group: str) -> list[tuple[Kernel, Place]]:
    """The kernels that write a group; if there are none (a learned state), all leaves that do."""
    kernels = list(spec.writers(group))
    if kernels:
        return kernels
    leaves = []
    for place in spec.places(group):
        if place.role != "reads":
            leaves.append((Kernel(place.leaf, place.leaf, ()), place))
    return leaves


def inner_products(rows_a: Array, rows_b: Array) -> Array:
    """All inner products of two networks' neurons: `[*batch, n_a, n_b]`."""
    columns_b = jnp.swapaxes(rows_b, -1, -2)
    return jnp.matmul(rows_a, columns_b, precision=jax.lax.Precision.HIGHEST)


def layer_similarity(
    spec: PermutationSpec,
    group: str,
    params_a: PyTree,
    params_b: PyTree,
    *,
    similarity: Similarity,
    permutations: Permutations | None = None,
) -> Float[Array, "*batch n n"]:
    """The similarity of the neurons of one group in two networks; rows A, columns B.

    In the unit of the weights: in float32, products of weights below about 1e-19 are 0, and those
    of weights above 1e19 inf. The matchings keep clear of that.

    Args:
        spec: static.
        group: static.
        params_a, params_b: traced, of the same shapes.
        similarity: `Weights()`, `Covariance(moments)`, ..., or your own.
        permutations: of all groups, applied to B first, but for the neurons that are compared.
            Default: B as it is.

    Raises:
        ValueError: shapes that differ or do not fit, moments that are missing or of the wrong size.

    Source: the paper, Section 6.
    """
    pair = make_pair(spec, params_a, params_b)
    if permutations is None:
        permutations = identity_permutations(pair.spec)
    return total(similarity.terms(pair, group), permutations)
