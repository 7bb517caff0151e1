"""The inner product of two networks' weights, which the matchings of this family maximise."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from lmcjax._dtypes import accumulation_dtype, check_real
from lmcjax.matching._assignments import matched_similarity
from lmcjax.matching._pair import (
    Pair,
    are_permutations,
    in_unit_of_their_own,
    make_pair,
)
from lmcjax.matching._similarities import KernelMetric, Weights, metric_of
from lmcjax.matching._similarity import Similarity, inner_products
from lmcjax.symmetry import (
    Alignments,
    AxisLike,
    Permutations,
    PermutationSpec,
    Place,
    apply_soft,
    groups_of,
    permute_leaf,
)


class _Similarities(NamedTuple):
    """All groups' similarities, with every other group in place."""

    of_groups: dict[str, Array]  # [*batch, n, n]
    inner_product: Array


@dataclasses.dataclass(frozen=True, eq=False)
class WeightInnerProduct:
    """The inner product `<A, permuted B>` of all weights that are compared.

    Attributes:
        spec: static, bound; a leaf that is compared in two metrics (a tied embedding) stands in it
            twice.
        leaves_a: A's leaves by name, their weights and the metric applied, in the precision of the
            sums.
        leaves_b: B's, with the metric applied.
    """

    spec: PermutationSpec
    leaves_a: dict[str, Array]
    leaves_b: dict[str, Array]

    def part(self, names: Collection[str]) -> "WeightInnerProduct":
        """The inner product of some of the leaves, and the groups that act on them."""
        leaves = tuple((name, axes) for name, axes in self.spec.leaves if name in names)
        groups = PermutationSpec(leaves).groups
        shapes = tuple((group, shape) for group, shape in self.spec.shapes if group in groups)
        return WeightInnerProduct(
            PermutationSpec(leaves, shapes),
            {name: self.leaves_a[name] for name, _ in leaves},
            {name: self.leaves_b[name] for name, _ in leaves},
        )

    def at(self, permutations: Permutations) -> Array:
        """The inner product at permutations, by gathering."""
        return self._product_with(self._permuted(permutations))

    def at_identity(self) -> Array:
        """The inner product with B's neurons in place."""
        return self._product_with(self.leaves_b)

    def at_matrices(self, alignments: Alignments) -> Array:
        """The inner product at matrices; differentiable in them."""
        with jax.default_matmul_precision("highest"):
            return self._product_with(apply_soft(self.spec, alignments, self.leaves_b))

    def similarity(self, group: str, permutations: Permutations) -> Array:
        """The gradient by one group's matrix `[*batch, n, n]`, all other groups in place."""
        products = []
        for place in self.spec.places(group):
            leaf_a, leaf_b = self._in_place(place, permutations)
            products.append(_row_products(place, leaf_a, leaf_b))
        return sum(products[1:], products[0])

    def similarities(self, permutations: Permutations) -> _Similarities:
        """`similarity` of every group, and `at`; every leaf is permuted once."""
        aligned = self._permuted(permutations)
        matrices = {}
        for group in self.spec.groups:
            if self.spec.guests(group):
                # the guests' order in B's neurons depends on which neuron of A is compared
                matrices[group] = self.similarity(group, permutations)
                continue
            products = []
            for place in self.spec.places(group):
                leaf_a, leaf_b = self.leaves_a[place.leaf], aligned[place.leaf]
                products.append(_row_products(place, leaf_a, leaf_b))
            in_place = sum(products[1:], products[0])  # columns in A's order
            back = jnp.argsort(permutations[group], axis=-1)[..., None, :]
            back = jnp.broadcast_to(back, in_place.shape)
            matrices[group] = jnp.take_along_axis(in_place, back, axis=-1)
        return _Similarities(matrices, self._product_with(aligned))

    def gain(self, before: Permutations, after: Permutations, groups: Collection[str]) -> Array:
        """What the inner product gains when some groups' permutations change; 0 where they stay."""
        touched = []
        for name, axes in self.spec.leaves:
            if groups_of(axes) & set(groups):
                touched.append(name)
        part = self.part(touched)
        new = part._permuted(after)
        old = part._permuted(before)
        difference = {name: new[name] - old[name] for name in touched}
        return part._product_with(difference)

    def _permuted(self, permutations: Permutations) -> dict[str, Array]:
        permuted = {}
        for name, axes in self.spec.leaves:
            permuted[name] = jnp.asarray(permute_leaf(axes, permutations, self.leaves_b[name]))
        return permuted

    def _product_with(self, leaves_b: Mapping[str, Array]) -> Array:
        products = []
        for name, leaf_a in self.leaves_a.items():
            products.append(jnp.sum(leaf_a * leaves_b[name]))
        return sum(products[1:], products[0])

    def _in_place(self, place: Place, permutations: Permutations) -> tuple[Array, Array]:
        """A's and B's leaf with every group in place but the one at `place`.

        What varies along the place's axis (a head's channels) is numbered by A's neurons, which are
        not those of B yet. There A is brought to B's order instead.
        """
        axes = place.part.axes
        varying = [i for i, axis in enumerate(axes) if place.axis in axis.batch_axes]
        others = [i for i in range(len(axes)) if i not in varying]
        of_a = place.part.layout(fixed=others)
        of_b = place.part.layout(fixed=[place.axis, *varying])
        back = {}
        for group in groups_of(of_a):
            back[group] = jnp.argsort(permutations[group], axis=-1)
        leaf_a = permute_leaf(of_a, back, self.leaves_a[place.leaf])
        leaf_b = permute_leaf(of_b, permutations, self.leaves_b[place.leaf])
        return jnp.asarray(leaf_a), jnp.asarray(leaf_b)


def compare_weights(
    pair: Pair, similarity: Similarity, leaf_weights: Mapping[str, ArrayLike] | None = None
) -> WeightInnerProduct:
    """The inner product of a pair; arguments and errors as of `weight_inner_product`."""
    metric = metric_of(similarity)
    compared = pair.compared_leaves()
    dtype = accumulation_dtype(
        *(pair.leaves_a[name] for name in compared), *(pair.leaves_b[name] for name in compared)
    )
    weights = dict(leaf_weights or {})
    unknown = sorted(weights.keys() - pair.leaves_a.keys())
    if unknown:
        raise ValueError(
            f"leaf_weights name leaf {unknown[0]!r}, the parameters have {sorted(pair.leaves_a)}"
        )
    check_real(*weights.values())
    layouts: list[tuple[str, tuple[AxisLike, ...]]] = []
    parts_a: dict[str, Array] = {}
    parts_b: dict[str, Array] = {}
    for name in compared:
        leaf_a = jnp.asarray(pair.leaves_a[name]).astype(dtype)
        leaf_b = jnp.asarray(pair.leaves_b[name]).astype(dtype)
        leaf_a = leaf_a * jnp.asarray(weights.get(name, 1), dtype)
        in_metric = _in_metric(pair.spec, name, leaf_a, leaf_b, metric)
        for kernel_name, (rooted_a, rooted_b) in in_metric.items():
            for part in pair.spec.parts[name]:
                part_name = part.name.replace(name, kernel_name, 1)
                layouts.append((part_name, part.layout()))
                parts_a[part_name] = part.cut(rooted_a)
                parts_b[part_name] = part.cut(rooted_b)
    spec = PermutationSpec(tuple(layouts), pair.spec.shapes)
    return WeightInnerProduct(spec, parts_a, parts_b)


def compare_weights_in_unit(
    pair: Pair, similarity: Similarity, leaf_weights: Mapping[str, ArrayLike] | None
) -> tuple[WeightInnerProduct, Int[Array, ""]]:
    """`compare_weights` with each network's largest weight near 1, and the exponent divided out.

    Inner products times `2^exponent` are those of the networks that were given.
    """
    scaled, exponent = in_unit_of_their_own(pair)
    return compare_weights(scaled, similarity, leaf_weights), exponent


def _in_metric(
    spec: PermutationSpec,
    name: str,
    leaf_a: Array,
    leaf_b: Array,
    metric: KernelMetric | None,
) -> dict[str, tuple[Array, Array]]:
    """One leaf of both networks, once for each kernel that it is, by the kernels' names."""
    kernels = []
    if metric is not None:
        kernels = [kernel for kernel in spec.kernels if kernel.leaf == name and kernel.inputs]
    if metric is None or not kernels:
        return {name: (leaf_a, leaf_b)}
    rooted = {}
    for kernel in kernels:
        root_a = metric.root(kernel, leaf_a, "a")
        root_b = metric.root(kernel, leaf_b, "b")
        rooted[kernel.name] = (root_a, root_b)
    return rooted


def weight_inner_product(
    spec: PermutationSpec,
    alignments: Alignments | Permutations,
    params_a: PyTree,
    params_b: PyTree,
    *,
    similarity: Similarity | None = None,
    leaf_weights: Mapping[str, ArrayLike] | None = None,
) -> Float[Array, ""]:
    """The inner product `<A, permuted B>` of all parameters of two networks.

    `sum_leaves w_leaf <A_leaf, B~_leaf>`; for a dense stack
    `sum_l <W_l^A, P_l W_l^B P_{l-1}^T> + <b_l^A, P_l b_l^B>`. Under permutations
    `||A - B~||^2 = ||A||^2 + ||B||^2 - 2 <A, B~>`: the largest inner product is the smallest
    distance. Linear in the matrix of each group (but for groups that act on two axes of one leaf).
    Leaves that no group touches count if they are of floating point; counters and random keys do
    not.

    In the unit of the weights: in float32, products of weights below about 1e-19 are 0, and those
    of weights above 1e19 inf. The matchings keep clear of that.

    Args:
        spec: static.
        alignments: per group an integer permutation `[*batch, n]` or a matrix `[*batch, n, n]` for
            `apply_soft`, traced; all of one kind.
        params_a, params_b: traced, of the same shapes; accumulated in float32 at least.
        similarity: `Weights()`, or one that defines a metric on kernels, such as
            `Covariance(moments)`: kernels are compared after multiplication with the square root of
            the uncentred second moment (1/N) of their inputs, each network with its own:
            `<W_A S_A^(1/2), P' W_B S_B^(1/2) P^T>`. The root moves with the neurons, so this stays
            linear in every permutation. Other leaves (biases, scales) are compared as they are.
            None: `Weights()`.
        leaf_weights: leaf name to a factor; 1 where none is given.

    Raises:
        ValueError: shapes that differ or do not fit, a similarity without a metric or without a
            kernel's moments, an unknown leaf.

    Source: Ainsworth et al. (2023), Section 3.2; the metric after the paper's Section 6.
    """
    pair = make_pair(spec, params_a, params_b)
    compared = compare_weights(pair, similarity or Weights(), leaf_weights)
    if are_permutations(alignments):
        return compared.at(alignments)
    dtype = accumulation_dtype(*compared.leaves_a.values())
    matrices = {group: jnp.asarray(matrix, dtype) for group, matrix in alignments.items()}
    return compared.at_matrices(matrices)


def weight_similarity(
    spec: PermutationSpec,
    group: str,
    params_a: PyTree,
    params_b: PyTree,
    *,
    permutations: Permutations,
    similarity: Similarity | None = None,
    leaf_weights: Mapping[str, ArrayLike] | None = None,
) -> Float[Array, "*batch n n"]:
    """The similarity of one group's neurons by all that touches them.

    The gradient of `weight_inner_product`: `M_ij = d <A, B~> / d P_ij` at the permutations given;
    rows A, columns B. For a dense layer
    `W_l^A P_{l-1} W_l^B^T + W_{l+1}^A^T P_{l+1} W_{l+1}^B + b_l^A b_l^B^T`. Where the group acts on
    one axis of each leaf, M does not depend on its own permutation, and `<M, P>` is what it adds;
    where on two, M linearises.

    Args:
        spec: static.
        group: static.
        params_a, params_b: traced.
        permutations: of all groups, traced.
        similarity, leaf_weights: as for `weight_inner_product`.

    Raises:
        ValueError: as `weight_inner_product`.

    Source: Ainsworth et al. (2023), Algorithm 1.
    """
    pair = make_pair(spec, params_a, params_b)
    compared = compare_weights(pair, similarity or Weights(), leaf_weights)
    return compared.similarity(group, permutations)


def is_linear(spec: PermutationSpec, group: str) -> bool:
    """Whether the group acts on no more than one axis of each part of a leaf."""
    parts = [place.part.name for place in spec.places(group)]
    return len(set(parts)) == len(parts)


def linear_gain(matrix: Array, before: Array, after: Array) -> Array:
    """What the inner product gains by a group's new permutation, where the group is linear."""
    gained = matched_similarity(matrix, after) - matched_similarity(matrix, before)
    return gained.sum()


def degree(axes: tuple[AxisLike, ...]) -> int:
    """The number of a leaf's axes that carry groups.

    The inner product of the leaf along a line of matrices is a polynomial of this degree.
    """
    return sum(bool(groups_of((axis,))) for axis in axes)


def _row_products(place: Place, leaf_a: Array, leaf_b: Array) -> Array:
    """The inner products of the neurons' rows at a place, `[*batch, n, n]`."""
    dtype = accumulation_dtype(leaf_a, leaf_b)
    rows_a = place.rows(leaf_a.astype(dtype))
    rows_b = place.rows(leaf_b.astype(dtype))
    return inner_products(rows_a, rows_b)
