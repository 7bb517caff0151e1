"""The inner product of two networks' weights, which several matchings maximise, and its parts."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from lmcjax._dtypes import accumulation_dtype, check_real
from lmcjax._powers_of_two import pair_in_unit_range
from lmcjax.matching._assignments import reached
from lmcjax.matching._real import check_real_leaves
from lmcjax.matching._similarity import input_moments, row_products
from lmcjax.statistics import ActivationMoments, Moments, over_batch, second_moment
from lmcjax.symmetry import (
    Alignments,
    Axis,
    Kernel,
    Permutations,
    PermutationSpec,
    Place,
    apply_soft,
    check_same_shapes,
    from_kernel_matrix,
    kernel_matrix,
    named_leaves,
    permute_leaf,
)


class WeightObjective(NamedTuple):
    """What is compared: leaves of A and B by name, metric and weights applied, in the precision of the sums.

    Its spec is bound to them; a leaf that is compared in two metrics (a tied embedding) stands in it twice.
    """

    spec: PermutationSpec
    leaves_a: dict[str, Array]
    leaves_b: dict[str, Array]

    def part(self, names: list[str]) -> "WeightObjective":
        """Of some of the leaves, and of the groups that act on them."""
        leaves = tuple((name, axes) for name, axes in self.spec.leaves if name in names)
        groups = PermutationSpec(leaves).groups
        spec = PermutationSpec(leaves, tuple((g, shape) for g, shape in self.spec.shapes if g in groups))
        return WeightObjective(spec, *({name: side[name] for name, _ in leaves} for side in self[1:]))


def weight_objective(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    metric: ActivationMoments | None = None,
    leaf_weights: Mapping[str, ArrayLike] | None = None,
) -> WeightObjective:
    """The two networks as an `WeightObjective`; arguments and errors as of `weight_inner_product`."""
    check_same_shapes(params_a, params_b)
    check_real_leaves(params_a, params_b)
    spec = spec.bind(params_a)
    sides = [named_leaves(params_a), named_leaves(params_b)]
    counted = [(n, axes) for n, axes in spec.leaves if groups_of(axes) or _is_floating(sides[0][n])]
    dtype = accumulation_dtype(*(side[name] for side in sides for name, _ in counted))
    weights = dict(leaf_weights or {})
    if unknown := sorted(weights.keys() - sides[0].keys()):
        raise ValueError(f"leaf_weights name leaf {unknown[0]!r}, the parameters have {sorted(sides[0])}")
    check_real(*weights.values())
    leaves: list[tuple[str, tuple[Axis, ...]]] = []
    compared: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
    for name, axes in counted:
        a, b = (jnp.asarray(side[name]).astype(dtype) for side in sides)
        a = a * jnp.asarray(weights.get(name, 1), dtype)
        kernels = [] if metric is None else [k for k in spec.kernels if k.leaf == name and k.inputs]
        for kernel in kernels:
            seen = input_moments(kernel, a, metric)
            of_b = seen._replace(mean_a=seen.mean_b, centred_aa=seen.centred_bb)
            leaves.append((kernel.name, axes))
            compared[0][kernel.name], compared[1][kernel.name] = _rooted(kernel, a, seen), _rooted(kernel, b, of_b)
        if not kernels:
            leaves.append((name, axes))
            compared[0][name], compared[1][name] = a, b
    return WeightObjective(PermutationSpec(tuple(leaves), spec.shapes), *compared)


def scaled_weight_objective(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    metric: ActivationMoments | None = None,
    leaf_weights: Mapping[str, ArrayLike] | None = None,
) -> tuple[WeightObjective, Int[Array, ""]]:
    """`weight_objective` of networks whose largest weights are near 1, and what was divided out.

    Inner products times `2^exponent` are those of the networks that were given.
    """
    check_same_shapes(params_a, params_b)
    scaled_a, scaled_b, exponent = pair_in_unit_range(params_a, params_b)
    return weight_objective(spec, scaled_a, scaled_b, metric, leaf_weights), exponent


def weight_inner_product(
    spec: PermutationSpec,
    alignments: Alignments | Permutations,
    params_a: PyTree,
    params_b: PyTree,
    *,
    metric: ActivationMoments | None = None,
    leaf_weights: Mapping[str, ArrayLike] | None = None,
) -> Float[Array, ""]:
    """The inner product `<A, permuted B>` of all parameters of two networks, what `match_weights` maximises.

    Leaves that no group touches count if they are of floating point; counters and random keys do not.
    `sum_leaves w_leaf <A_leaf, B~_leaf>`; for a dense stack `sum_l <W_l^A, P_l W_l^B P_{l-1}^T> + <b_l^A, P_l b_l^B>`.
    Under permutations `||A - B~||^2 = ||A||^2 + ||B||^2 - 2 <A, B~>`: the largest inner product is the smallest
    distance. Linear in the matrix of each group (but for groups that act on two axes of one leaf).

    Args:
        spec: static.
        alignments: per group an integer permutation `[*batch, n]` or a matrix `[*batch, n, n]` for `apply_soft`,
            traced; all of one kind.
        params_a, params_b: traced, of the same shapes; accumulated in float32 at least.
        metric: what `activation_moments` returns: kernels are compared after multiplication with the square root of
            the uncentred second moment (1/N) of their inputs, each network with its own: `<W_A S_A^(1/2), P' W_B
            S_B^(1/2) P^T>`. The root moves with the neurons, so this stays linear in every permutation. Other leaves
            (biases, scales) are compared as they are.
        leaf_weights: leaf name to a factor; 1 where none is given.

    Raises:
        ValueError: a complex leaf or factor, shapes that differ or do not fit, a metric without a
            kernel's moments, an unknown leaf.

    Source: Ainsworth et al. (2023), Section 3.2; the metric after the paper's Section 6.
    """
    objective = weight_objective(spec, params_a, params_b, metric, leaf_weights)
    if all(jnp.issubdtype(jnp.result_type(p), jnp.integer) for p in alignments.values()):
        return inner_product(objective, alignments)
    dtype = accumulation_dtype(*objective.leaves_a.values())
    return soft_inner_product(objective, {group: jnp.asarray(p, dtype) for group, p in alignments.items()})


def inner_product(objective: WeightObjective, permutations: Permutations) -> Array:
    """At permutations, by gathering."""
    return _sum_products(objective, _permuted(objective, permutations))


def unpermuted(objective: WeightObjective) -> Array:
    """At the identity."""
    return _sum_products(objective, objective.leaves_b)


def soft_inner_product(objective: WeightObjective, alignments: Alignments) -> Array:
    """At matrices; differentiable in them."""
    with jax.default_matmul_precision("highest"):
        return _sum_products(objective, apply_soft(objective.spec, alignments, objective.leaves_b))


def weight_similarity(
    spec: PermutationSpec,
    group: str,
    params_a: PyTree,
    params_b: PyTree,
    *,
    permutations: Permutations,
    metric: ActivationMoments | None = None,
    leaf_weights: Mapping[str, ArrayLike] | None = None,
) -> Float[Array, "*batch n n"]:
    """The similarity of the neurons of one group by all that touches them: the gradient of `weight_inner_product`.

    `M_ij = d <A, B~> / d P_ij` at the permutations given; rows A, columns B. For a dense layer
    `W_l^A P_{l-1} W_l^B^T + W_{l+1}^A^T P_{l+1} W_{l+1}^B + b_l^A b_l^B^T`. Where the group acts on one axis of each
    leaf, M does not depend on its own permutation, and `<M, P>` is what it adds; where on two, M linearises.

    Args:
        spec: static.
        group: static.
        params_a, params_b: traced.
        permutations: of all groups, traced.
        metric, leaf_weights: as for `weight_inner_product`.

    Raises:
        ValueError: as `weight_inner_product`.

    Source: Ainsworth et al. (2023), Algorithm 1.
    """
    return group_similarity(weight_objective(spec, params_a, params_b, metric, leaf_weights), group, permutations)


def group_similarity(objective: WeightObjective, group: str, permutations: Permutations) -> Array:
    """The gradient by one group's matrix: rows of A times rows of B, all other groups in place."""
    products = []
    for place in objective.spec.places(group):
        a, b = _in_place(objective, place, permutations)
        products.append(row_products(place, place, a, b))
    return sum(products[1:], products[0])


def all_similarities(objective: WeightObjective, permutations: Permutations) -> tuple[dict[str, Array], Array]:
    """`group_similarity` of every group, and `inner_product`; every leaf is permuted once."""
    spec, aligned = objective.spec, _permuted(objective, permutations)
    matrices = {}
    for group in spec.groups:
        if spec.guests(group):  # whose order in B's neurons depends on which neuron of A they are compared with
            matrices[group] = group_similarity(objective, group, permutations)
            continue
        products = [row_products(p, p, objective.leaves_a[p.leaf], aligned[p.leaf]) for p in spec.places(group)]
        back = jnp.argsort(permutations[group], axis=-1)[..., None, :]
        total = sum(products[1:], products[0])
        matrices[group] = jnp.take_along_axis(total, jnp.broadcast_to(back, total.shape), axis=-1)
    return matrices, _sum_products(objective, aligned)


def is_linear(spec: PermutationSpec, group: str) -> bool:
    """Whether the group acts on no more than one axis of each leaf."""
    places = {(name, axis) for name, axis, _ in spec.segments(group)}
    return len({name for name, _ in places}) == len(places)


def gain(objective: WeightObjective, before: Permutations, after: Permutations, groups: set[str]) -> Array:
    """What the objective gains when some groups' permutations change; exactly 0 where they stay."""
    part = objective.part([name for name, axes in objective.spec.leaves if groups_of(axes) & groups])
    new, old = _permuted(part, after), _permuted(part, before)
    return _sum_products(part, {name: new[name] - old[name] for name in new})


def linear_gain(matrix: Array, before: Array, after: Array) -> Array:
    """The same from a group's similarity, where the group is linear."""
    return (reached(matrix, after) - reached(matrix, before)).sum()


def _is_floating(leaf: ArrayLike) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def groups_of(axes: tuple[Axis, ...]) -> set[str]:
    """Of a leaf."""
    return {segment.group for axis in axes for segment in axis if segment.group is not None}


def degree(axes: tuple[Axis, ...]) -> int:
    """How many of a leaf's axes carry groups: the degree of the inner product in the step of a line search."""
    return sum(any(segment.group is not None for segment in axis) for axis in axes)


def _permuted(objective: WeightObjective, permutations: Permutations) -> dict[str, Array]:
    leaves = objective.leaves_b
    return {n: jnp.asarray(permute_leaf(axes, permutations, leaves[n])) for n, axes in objective.spec.leaves}


def _sum_products(objective: WeightObjective, leaves_b: Mapping[str, Array]) -> Array:
    products = [jnp.sum(a * leaves_b[name]) for name, a in objective.leaves_a.items()]
    return sum(products[1:], products[0])


def _in_place(objective: WeightObjective, place: Place, permutations: Permutations) -> tuple[Array, Array]:
    """A's and B's leaf with every group in place but the one at `place`.

    What varies along its axis (a head's channels) is numbered by A's neurons, which are not those of B yet: there A is
    brought to B's order instead.
    """
    axes = dict(objective.spec.leaves)[place.leaf]
    inside = [any(place.axis in segment.batch_axes for segment in axis) for axis in axes]
    back = {g: jnp.argsort(permutations[g], axis=-1) for g in groups_of(axes)} if any(inside) else {}
    of_a = tuple(axis if moves else () for axis, moves in zip(axes, inside, strict=True))
    of_b = tuple(
        () if moves or i == place.axis else axis for i, (axis, moves) in enumerate(zip(axes, inside, strict=True))
    )
    return (
        jnp.asarray(permute_leaf(of_a, back, objective.leaves_a[place.leaf])),
        jnp.asarray(permute_leaf(of_b, permutations, objective.leaves_b[place.leaf])),
    )


def _rooted(kernel: Kernel, leaf: Array, moments: Moments) -> Array:
    """`S^(1/2) W`, laid out like the leaf, S the second moment of the kernel's inputs in the network called A."""
    matrix = kernel_matrix(kernel, leaf)
    if moments.centred_aa is None:  # one-hot vectors: S is diagonal
        root = jnp.sqrt(moments.mean_a)[..., None].astype(leaf.dtype)
        return from_kernel_matrix(kernel, root * matrix, leaf.shape)
    second = over_batch(second_moment, moments.num_samples.ndim)(moments)
    root = _square_root(second).astype(leaf.dtype)
    return from_kernel_matrix(kernel, jnp.matmul(root, matrix, precision=jax.lax.Precision.HIGHEST), leaf.shape)


def _square_root(matrices: Array) -> Array:
    """Of positive semi-definite matrices; eigenvalues that rounding cannot tell from 0 are 0."""
    values, vectors = jnp.linalg.eigh(matrices)
    rounding = matrices.shape[-1] * jnp.finfo(matrices.dtype).eps * values[..., -1:]
    roots = jnp.sqrt(jnp.where(values > rounding, values, 0))
    return jnp.matmul(vectors * roots[..., None, :], jnp.swapaxes(vectors, -1, -2), precision=jax.lax.Precision.HIGHEST)
