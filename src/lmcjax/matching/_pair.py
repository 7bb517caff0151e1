"""Two networks on their way through a matching: bound to one spec and named leaf by leaf, once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax._powers_of_two import pair_in_unit_range
from lmcjax.matching._real import check_real_leaves
from lmcjax.symmetry import (
    Alignments,
    AxisLike,
    Permutations,
    PermutationSpec,
    Place,
    check_same_shapes,
    groups_of,
    mix_leaf,
    named_leaves,
    permute_leaf,
)


class Pair(NamedTuple):
    """Networks A and B, bound to one spec. Made at the public doors; everything below takes it."""

    spec: PermutationSpec  # bound to A
    spec_b: PermutationSpec  # bound to B: the same, unless the networks differ in width
    leaves_a: dict[str, ArrayLike]
    leaves_b: dict[str, ArrayLike]

    def compared_leaves(self) -> list[str]:
        """The leaves that count as weights: a group acts on them, or they are of floating point."""
        compared = []
        for name, axes in self.spec.leaves:
            if groups_of(axes) or is_floating(self.leaves_a[name]):
                compared.append(name)
        return compared

    def of_a_with_itself(self) -> "Pair":
        """Network A in the place of both."""
        return self._replace(spec_b=self.spec, leaves_b=self.leaves_a)

    def others_in_place(self, place: Place, alignments: Alignments | Permutations) -> Array:
        """A part of B's leaf, with every group aligned but the one at this place of B."""
        entries = place.part.cut(self.leaves_b[place.leaf])
        return align_leaf(place.others(), alignments, entries)


def make_pair(spec: PermutationSpec, params_a: PyTree, params_b: PyTree) -> Pair:
    """Two networks of the same shapes, checked and bound.

    Raises:
        ValueError: shapes that differ between the networks or do not fit the spec, a complex leaf.
    """
    check_same_shapes(params_a, params_b)
    check_real_leaves(params_a, params_b)
    bound = spec.bind(params_a)
    return Pair(bound, bound, named_leaves(params_a), named_leaves(params_b))


def make_pair_of_widths(spec: PermutationSpec, params_a: PyTree, params_b: PyTree) -> Pair:
    """Two networks of the same leaves, whose groups may differ in size.

    Raises:
        ValueError: parameters that do not fit the spec, a complex leaf.
    """
    check_real_leaves(params_a, params_b)
    spec_a = spec.with_widths_of(params_a)
    spec_b = spec.with_widths_of(params_b)
    return Pair(spec_a, spec_b, named_leaves(params_a), named_leaves(params_b))


def in_unit_of_their_own(pair: Pair) -> tuple[Pair, Int[Array, ""]]:
    """The pair with each network's largest weight near 1, and the exponent of two divided out.

    Products of a weight of A and one of B, times `2^exponent`, are those of the pair that was
    given. A power of two changes no digit. Counters and random keys stay as they are.
    """
    compared = pair.compared_leaves()
    weights_a = {name: pair.leaves_a[name] for name in compared}
    weights_b = {name: pair.leaves_b[name] for name in compared}
    scaled_a, scaled_b, exponent = pair_in_unit_range(weights_a, weights_b)
    leaves_a = {**pair.leaves_a, **scaled_a}
    leaves_b = {**pair.leaves_b, **scaled_b}
    return pair._replace(leaves_a=leaves_a, leaves_b=leaves_b), exponent


def align_leaf(
    axes: tuple[AxisLike, ...], alignments: Alignments | Permutations, leaf: ArrayLike
) -> Array:
    """One leaf of B in A's order: gathered by permutations, mixed by matrices."""
    if are_permutations(alignments):
        return jnp.asarray(permute_leaf(axes, alignments, leaf))
    return mix_leaf(axes, alignments, leaf)


def are_permutations(alignments: Alignments | Permutations) -> bool:
    """Whether these are index vectors, rather than matrices."""
    return all(jnp.issubdtype(jnp.result_type(p), jnp.integer) for p in alignments.values())


def parameter_dtype(*networks: PyTree) -> jnp.dtype:
    """The widest float type of the networks' leaves, at least float32.

    Counters and random keys do not count.
    """
    floating = []
    for leaf in jax.tree.leaves(networks):
        if is_floating(leaf):
            floating.append(leaf)
    return accumulation_dtype(*floating)


def is_floating(leaf: ArrayLike) -> bool:
    """Whether a leaf holds weights, rather than a counter or a random key."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
