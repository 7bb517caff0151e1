"""Weight matching by coordinate descent over all groups and all leaves (Git Re-Basin)."""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Key, PyTree

from lmcjax.matching._assignments import check_at_least_one, start_at
from lmcjax.matching._matching import Matching, in_unit_of_weights
from lmcjax.matching._pair import make_pair
from lmcjax.matching._similarities import Weights
from lmcjax.matching._similarity import Similarity
from lmcjax.matching.inner_product._descent import descend
from lmcjax.matching.inner_product._result import make_matching, without_groups
from lmcjax.matching.inner_product._weight_inner_product import compare_weights_in_unit
from lmcjax.symmetry import Permutations, PermutationSpec, random_permutations
from lmcjax.transport import AssignmentBackend


def match_coordinate_descent(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    *,
    similarity: Similarity | None = None,
    key: Key[Array, ""] | None = None,
    order: Sequence[str] | None = None,
    restarts: int = 1,
    init: Permutations | None = None,
    leaf_weights: Mapping[str, ArrayLike] | None = None,
    backend: AssignmentBackend = "auto",
    max_iterations: int = 100,
    certify: bool = False,
) -> Matching:
    """Maximise the inner product `<A, permuted B>` of all weights, one group after the other.

    Each step gives one group its best permutation with all others in place: one exact linear
    assignment on `weight_similarity`, to which incoming and outgoing kernels, biases and whatever
    else the group touches add up. So the inner product never falls, and the descent (of the
    distance) ends in a point that no single group can better. That is a local optimum, and which
    one depends on the start and on the order of the groups. Where a group acts on two axes of one
    leaf the assignment maximises a linearisation, and the step is taken only if the inner product
    itself rises. A group with others inside its neurons (heads with channels) is matched together
    with them.

    Jittable and vmappable. All restarts are one batch, and share the order of the groups in a pass;
    their starts differ. A drawn order is a choice made while running: in a batch of pairs by `vmap`
    every group is then computed at every turn, so a given order is cheaper there by the number of
    groups.

    Args:
        spec: static.
        params_a: the network that stays, traced.
        params_b: the network whose neurons are reordered, traced, of the same shapes.
        similarity: `Weights()`, or `Covariance(moments)` for its metric, see
            `weight_inner_product`. None: `Weights()`.
        key: traced; draws the order of the groups in each pass where `order` is None, and the
            starts of all restarts but the first. None: nothing is drawn.
        order: static, the order in which the groups are visited in every pass. None: drawn from the
            key, or the spec's without one.
        restarts: static, number of descents; the one with the largest inner product is returned.
            The first starts at `init`, the others at random permutations.
        init: the first start; None: the identity.
        leaf_weights: leaf name to a factor of its share in the inner product, traced; 1 where none
            is given.
        backend: static, see `linear_assignment`.
        max_iterations: static, passes over the groups; a descent that still improves then is not
            `converged`.
        certify: static; whether the result has certificates.

    Returns:
        `Matching`, whose `total` is the inner product, that of each restart included. The
        certificate of each group proves its permutation the best with the others in place (of the
        linearised problem, where there is one), not the whole matching.

    Raises:
        ValueError: shapes that differ between the networks or do not fit the spec, an order that is
            not one of all groups, restarts without a key, fewer than one restart or iteration, an
            unknown leaf, a similarity without a metric or without a kernel's moments.

    Source: Ainsworth et al. (2023), Git Re-Basin, Algorithm 1.
    """
    check_at_least_one(restarts=restarts, max_iterations=max_iterations)
    if restarts > 1 and key is None:
        raise ValueError(f"restarts={restarts} start at random permutations, and key is None")
    pair = make_pair(spec, params_a, params_b)
    groups = pair.spec.groups
    if order is not None and sorted(order) != sorted(groups):
        raise ValueError(f"order names {tuple(order)}, the groups of the spec are {groups}")
    inner_product, exponent = compare_weights_in_unit(pair, similarity or Weights(), leaf_weights)
    if not groups:
        return in_unit_of_weights(without_groups(inner_product), exponent)

    if order is None and key is None:
        order = groups
    descent = descend(
        inner_product,
        _starts(pair.spec, key, restarts, init),
        None if order is None else tuple(order),
        key,
        backend,
        max_iterations,
    )
    best = jnp.argmax(descent.reached)
    matching = make_matching(
        inner_product,
        {group: p[best] for group, p in descent.permutations.items()},
        iterations=descent.iterations[best],
        converged=descent.settled[best],
        restarts=descent.reached,
        certify=certify,
    )
    return in_unit_of_weights(matching, exponent)


def _starts(
    spec: PermutationSpec, key: Array | None, restarts: int, init: Permutations | None
) -> dict[str, Array]:
    """The first start, then random ones: `[restarts, *batch, n]`.

    Restart r draws the same start, however many there are.
    """
    first = {group: p[None] for group, p in start_at(spec, init).items()}
    if key is None or restarts == 1:
        return first
    of_starts = jax.random.fold_in(key, 2**31)  # passes fold in their numbers, from 0
    numbers = jnp.arange(1, restarts)
    keys = jax.vmap(functools.partial(jax.random.fold_in, of_starts))(numbers)
    drawn = jax.vmap(functools.partial(random_permutations, spec=spec))(keys)
    return {group: jnp.concatenate([p, drawn[group]]) for group, p in first.items()}
