"""Weight matching by coordinate descent over all groups and all leaves (Git Re-Basin)."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Key, PyTree

from lmcjax.matching._assignments import assign, certificates, host_similarity, reached, start_at
from lmcjax.matching._matching import Matching, in_unit_of_weights
from lmcjax.matching._weight_objective import (
    WeightObjective,
    all_similarities,
    gain,
    group_similarity,
    groups_of,
    inner_product,
    is_linear,
    linear_gain,
    scaled_weight_objective,
    unpermuted,
)
from lmcjax.statistics import ActivationMoments
from lmcjax.symmetry import (
    Permutations,
    PermutationSpec,
    identity_permutations,
    random_permutations,
)
from lmcjax.transport import AssignmentBackend


def match_weights(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    *,
    key: Key[Array, ""] | None = None,
    order: Sequence[str] | None = None,
    restarts: int = 1,
    init: Permutations | None = None,
    metric: ActivationMoments | None = None,
    leaf_weights: Mapping[str, ArrayLike] | None = None,
    backend: AssignmentBackend = "auto",
    max_passes: int = 100,
    certify: bool = True,
) -> Matching:
    """Maximise the inner product `<A, permuted B>` of all weights, one group after the other, until none improves.

    Each step gives one group its best permutation with all others in place: one exact linear assignment on
    `weight_similarity`, to which incoming and outgoing kernels, biases and whatever else the group touches add up. So
    the inner product never falls, and the descent ends in a point that no single group can better: a local optimum,
    and which one depends on the start and on the order of the groups. Where a group acts on two axes of one leaf the
    assignment maximises a linearisation, and the step is taken only if the inner product itself rises. A group with
    others inside its neurons (heads with channels) is matched together with them.

    Jittable and vmappable. All restarts are one batch, and share the order of a pass; their starts differ. A drawn
    order is a choice made while running: in a batch of pairs by `vmap` every group is then computed at every turn, so
    a given order is cheaper there by the number of groups.

    Args:
        spec: static.
        params_a: the network that stays, traced.
        params_b: the network whose neurons are reordered, traced, of the same shapes.
        key: traced; draws each pass's order where `order` is None, and the starts of all restarts but the first. None:
            nothing is drawn.
        order: static, the order in which the groups are visited in every pass. None: drawn from the key, or the spec's
            without one.
        restarts: static, number of descents; the one with the largest inner product is returned. The first starts at
            `init`, the others at random permutations.
        init: the first start; None: the identity.
        metric: what `activation_moments` returns, for the covariance metric of `weight_inner_product`. None: none.
        leaf_weights: leaf name to a factor of its share in the inner product, traced; 1 where none is given.
        backend: static, see `linear_assignment`.
        max_passes: static; a descent that still improves then is not `converged`.
        certify: static; whether the result has certificates.

    Returns:
        `Matching`: `total_objective` is the inner product, `restart_objectives` that of each restart. The certificate
        of each group proves its permutation the best with the others in place (of the linearised problem, where there
        is one), not the whole matching.

    Raises:
        ValueError: a complex leaf, shapes that differ between the networks or do not fit the spec,
            an order that is not one of all groups, restarts without a key, fewer than one restart
            or pass, an unknown leaf, a metric that lacks a kernel.

    Source: Ainsworth et al. (2023), Git Re-Basin, Algorithm 1.
    """
    for name, value in (("restarts", restarts), ("max_passes", max_passes)):
        if value < 1:
            raise ValueError(f"{name} is at least 1, not {value}")
    if restarts > 1 and key is None:
        raise ValueError(f"restarts={restarts} start at random permutations, and key is None")
    objective, exponent = scaled_weight_objective(spec, params_a, params_b, metric, leaf_weights)
    spec = spec.bind(params_a)
    if order is not None and sorted(order) != sorted(spec.groups):
        raise ValueError(f"order names {tuple(order)}, the groups of the spec are {spec.groups}")
    if not spec.groups:
        return in_unit_of_weights(describe_nothing(objective), exponent)
    starts = _starts(spec, key, restarts, init)
    order = spec.groups if order is None and key is None else order
    descent = descend(objective, starts, None if order is None else tuple(order), key, backend, max_passes)
    best = jnp.argmax(descent.totals)
    found = {group: p[best] for group, p in descent.permutations.items()}
    matching = describe(objective, found, descent.iterations[best], descent.settled[best], certify)
    matching = matching._replace(total_objective=descent.totals[best], restart_objectives=descent.totals)
    return in_unit_of_weights(matching, exponent)


class Descent(NamedTuple):
    """Coordinate descents from several starts."""

    permutations: dict[str, Array]  # [restarts, *batch, n]
    totals: Array  # [restarts]
    iterations: Array  # passes, [restarts]
    settled: Array  # [restarts]; False: the last pass still improved something


def descend(
    objective: WeightObjective,
    starts: dict[str, Array],
    order: tuple[str, ...] | None,
    key: Array | None,
    backend: AssignmentBackend,
    max_passes: int,
) -> Descent:
    """Coordinate descents side by side; arguments as of `match_weights`, `starts` with a leading axis of restarts."""
    visits = {group: jax.vmap(_visitor(objective, group, backend)) for group in objective.spec.groups}
    num_restarts = jax.tree.leaves(starts)[0].shape[0]
    nothing = jnp.zeros(num_restarts, bool)

    def one_pass(permutations: dict[str, Array], number: Array) -> tuple[dict[str, Array], Array]:
        improved = nothing
        if order is not None:  # without a choice at run time
            for group in order:
                permutations, better = visits[group](permutations)
                improved |= better
            return permutations, improved
        assert key is not None
        drawn = jax.random.permutation(jax.random.fold_in(key, number), len(visits))

        def turn(slot: Array, state: tuple[dict[str, Array], Array]) -> tuple[dict[str, Array], Array]:
            after, better = jax.lax.switch(drawn[slot], list(visits.values()), state[0])
            return after, state[1] | better

        return jax.lax.fori_loop(0, len(visits), turn, (permutations, improved))

    def again(state: tuple[dict[str, Array], Array, Array, Array]) -> Array:
        _, active, _, number = state
        return active.any() & (number < max_passes)

    def step(state: tuple[dict[str, Array], Array, Array, Array]) -> tuple[dict[str, Array], Array, Array, Array]:
        permutations, active, iterations, number = state
        permutations, improved = one_pass(permutations, number)  # changes nothing where nothing improves any more
        return permutations, improved, iterations + active.astype(jnp.int32), number + 1

    zero = jnp.asarray(0, jnp.int32)
    start = (starts, ~nothing, jnp.zeros(num_restarts, jnp.int32), zero)
    permutations, active, iterations, _ = jax.lax.while_loop(again, step, start)
    totals = jax.vmap(functools.partial(inner_product, objective))(permutations)
    return Descent(permutations, totals, iterations, ~active)


def describe(
    objective: WeightObjective, permutations: dict[str, Array], iterations: Array, settled: Array, certify: bool
) -> Matching:
    """What permutations reach; the identity instead where something is not finite."""
    identity = identity_permutations(objective.spec)
    matrices, total = all_similarities(objective, permutations)
    at_identity = unpermuted(objective)
    finite = jnp.isfinite(total) & jnp.isfinite(at_identity)
    for matrix in matrices.values():
        finite &= jnp.isfinite(matrix).all()
    kept = {group: jnp.where(finite, p, identity[group]) for group, p in permutations.items()}
    return Matching(
        kept,
        objective={group: reached(matrix, kept[group]).sum() for group, matrix in matrices.items()},
        identity_objective={group: jnp.trace(m, axis1=-2, axis2=-1).sum() for group, m in matrices.items()},
        iterations=iterations,
        converged=settled & finite,
        finite=finite,
        certificate=certificates(matrices, kept) if certify else None,
        total_objective=total,
        total_identity_objective=at_identity,
    )


def describe_nothing(objective: WeightObjective) -> Matching:
    """Of a network without a group that could be permuted."""
    matching = describe(objective, {}, jnp.asarray(0, jnp.int32), jnp.asarray(True), certify=True)
    return matching._replace(restart_objectives=jnp.stack([unpermuted(objective)]))


def _starts(spec: PermutationSpec, key: Array | None, restarts: int, init: Permutations | None) -> dict[str, Array]:
    """`[restarts, *batch, n]`: the first start, then random ones; restart r draws the same in any number of them."""
    first = {group: p[None] for group, p in start_at(spec, init).items()}
    if key is None or restarts == 1:
        return first
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.fold_in(key, 2**31)))(jnp.arange(1, restarts))
    drawn = jax.vmap(functools.partial(random_permutations, spec=spec))(keys)
    return {group: jnp.concatenate([p, drawn[group]]) for group, p in first.items()}


_Visit: TypeAlias = Callable[[dict[str, Array]], tuple[dict[str, Array], Array]]


def _visitor(objective: WeightObjective, group: str, backend: AssignmentBackend) -> _Visit:
    """`visit(permutations) -> (permutations, improved)`: the best step of one group, if it gains more than rounding."""
    spec = objective.spec
    guests, linear = {*spec.guests(group)}, is_linear(spec, group)
    alone = objective.part([name for name, axes in spec.leaves if groups_of(axes) == {group}])
    beside = objective.part([n for n, axes in spec.leaves if group in groups_of(axes) and not groups_of(axes) & guests])
    others = objective.part([n for n, axes in spec.leaves if group in groups_of(axes) and len(groups_of(axes)) > 1])
    # what no other group moves is compared once, before the loop
    constant = group_similarity(alone, group, {}) if alone.leaves_a and linear else None
    rounding = _rounding(objective, {group, *guests})

    def similarity(permutations: dict[str, Array]) -> Array:
        if constant is None:
            return group_similarity(objective, group, permutations)
        return constant + group_similarity(others, group, permutations) if others.leaves_a else constant

    def similarities(guest: str, permutations: dict[str, Array]) -> Array:
        return group_similarity(objective, guest, permutations)

    def propose(permutations: dict[str, Array]) -> tuple[dict[str, Array], Array]:
        if not guests:
            matrix = similarity(permutations)
            after = {**permutations, group: assign(matrix, backend)}
            if linear:
                return after, linear_gain(matrix, permutations[group], after[group])
            return after, gain(objective, permutations, after, {group})
        matrix = host_similarity(spec, group, similarities, permutations, backend)
        if beside.leaves_a:
            matrix = matrix + group_similarity(beside, group, permutations)
        after = {**permutations, group: assign(matrix, backend)}
        for guest in spec.guests(group):
            after[guest] = assign(group_similarity(objective, guest, after), backend)
        return after, gain(objective, permutations, after, {group, *guests})

    def visit(permutations: dict[str, Array]) -> tuple[dict[str, Array], Array]:
        after, gained = propose(permutations)
        improved = gained > rounding
        return {g: jnp.where(improved, after[g], p) for g, p in permutations.items()}, improved

    return visit


def _rounding(objective: WeightObjective, groups: set[str]) -> Array:
    """What a step of some groups has to gain: a few units in the last place of the largest inner product possible."""
    names = [name for name, axes in objective.spec.leaves if groups_of(axes) & groups]
    norms = [
        jnp.linalg.norm(a) * jnp.linalg.norm(objective.leaves_b[n]) for n in names for a in [objective.leaves_a[n]]
    ]
    return 4 * jnp.finfo(norms[0].dtype).eps * sum(norms[1:], norms[0])
