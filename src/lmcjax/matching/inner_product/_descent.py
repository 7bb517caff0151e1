"""Coordinate descent: one group after the other takes its best permutation, until none gains."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lmcjax.matching._assignments import assign, similarity_of_hosts
from lmcjax.matching.inner_product._weight_inner_product import (
    WeightInnerProduct,
    groups_of,
    is_linear,
    linear_gain,
)
from lmcjax.transport import AssignmentBackend


class Descent(NamedTuple):
    """Where descents from several starts have ended."""

    permutations: dict[str, Array]  # [restarts, *batch, n]
    reached: Array  # inner products, [restarts]
    iterations: Array  # passes over the groups, [restarts]
    settled: Array  # [restarts]; False: the last pass still improved something


class _State(NamedTuple):
    """All descents between two passes."""

    permutations: dict[str, Array]  # [restarts, *batch, n]
    improving: Array  # [restarts]; whether the last pass gained something
    iterations: Array  # [restarts]; passes until it no longer did
    number: Array  # of the next pass


class _Turn(NamedTuple):
    """All descents after some groups of a pass have had their turn."""

    permutations: dict[str, Array]  # [restarts, *batch, n]
    improved: Array  # [restarts]; whether one of these groups has gained something


_Visit: TypeAlias = Callable[[dict[str, Array]], _Turn]


def descend(
    inner_product: WeightInnerProduct,
    starts: dict[str, Array],
    order: tuple[str, ...] | None,
    key: Array | None,
    backend: AssignmentBackend,
    max_iterations: int,
) -> Descent:
    """Coordinate descents side by side; arguments as of `match_coordinate_descent`.

    Args:
        starts: of all restarts, `[restarts, *batch, n]`.
        order: None: drawn from the key in every pass.
    """
    visits = {}
    for group in inner_product.spec.groups:
        visits[group] = jax.vmap(_GroupVisit(inner_product, group, backend).visit)
    num_restarts = jax.tree.leaves(starts)[0].shape[0]

    def one_pass(permutations: dict[str, Array], number: Array) -> _Turn:
        state = _Turn(permutations, jnp.zeros(num_restarts, bool))
        if order is not None:
            return _in_order([visits[group] for group in order], state)
        if key is None:
            raise ValueError("order is drawn from a key, and both are None")
        drawn = jax.random.permutation(jax.random.fold_in(key, number), len(visits))
        return _in_drawn_order(list(visits.values()), drawn, state)

    def again(state: _State) -> Array:
        return state.improving.any() & (state.number < max_iterations)

    def step(state: _State) -> _State:
        # a descent that no longer improves is not changed by further passes
        turn = one_pass(state.permutations, state.number)
        iterations = state.iterations + state.improving.astype(jnp.int32)
        return _State(turn.permutations, turn.improved, iterations, state.number + 1)

    start = _State(
        starts,
        improving=jnp.ones(num_restarts, bool),
        iterations=jnp.zeros(num_restarts, jnp.int32),
        number=jnp.asarray(0, jnp.int32),
    )
    end = jax.lax.while_loop(again, step, start)
    reached = jax.vmap(inner_product.at)(end.permutations)
    return Descent(end.permutations, reached, end.iterations, ~end.improving)


def _in_order(visits: list[_Visit], state: _Turn) -> _Turn:
    """The groups' turns in an order that is known while tracing."""
    for visit in visits:
        after = visit(state.permutations)
        state = _Turn(after.permutations, state.improved | after.improved)
    return state


def _in_drawn_order(visits: list[_Visit], order: Array, state: _Turn) -> _Turn:
    """The groups' turns in an order that is drawn while running."""

    def turn(slot: Array, state: _Turn) -> _Turn:
        after = jax.lax.switch(order[slot], visits, state.permutations)
        return _Turn(after.permutations, state.improved | after.improved)

    return jax.lax.fori_loop(0, len(visits), turn, state)


class _GroupVisit:
    """The step of one group. What no other group moves is compared once, before all loops."""

    def __init__(
        self, inner_product: WeightInnerProduct, group: str, backend: AssignmentBackend
    ) -> None:
        spec = inner_product.spec
        self.inner_product = inner_product
        self.spec = spec
        self.group = group
        self.backend = backend
        self.guests = spec.guests(group)
        self.moved = {group, *self.guests}  # the groups whose permutations a step changes
        self.linear = is_linear(spec, group)

        touched: dict[str, set[str]] = {}  # the group's leaves, and all groups that act on them
        for name, axes in spec.leaves:
            groups = groups_of(axes)
            if group in groups:
                touched[name] = groups
        alone = [name for name, groups in touched.items() if groups == {group}]
        shared = [name for name, groups in touched.items() if groups != {group}]
        beside_guests = [name for name, groups in touched.items() if not groups & {*self.guests}]
        self.shared = inner_product.part(shared)
        self.beside_guests = inner_product.part(beside_guests)
        self.constant: Array | None = None  # the similarity by the leaves that are the group's own
        if alone and self.linear:
            self.constant = inner_product.part(alone).similarity(group, {})
        self.rounding = _rounding(inner_product, self.moved)

    def visit(self, permutations: dict[str, Array]) -> _Turn:
        """The group's best step, taken if it gains more than rounding."""
        if self.guests:
            after = self._best_with_guests(permutations)
            gained = self.inner_product.gain(permutations, after, self.moved)
        else:
            matrix = self._similarity(permutations)
            after = {**permutations, self.group: assign(matrix, self.backend)}
            if self.linear:
                gained = linear_gain(matrix, permutations[self.group], after[self.group])
            else:
                gained = self.inner_product.gain(permutations, after, self.moved)
        improved = gained > self.rounding
        kept = {}
        for group, before in permutations.items():
            kept[group] = jnp.where(improved, after[group], before)
        return _Turn(kept, improved)

    def _similarity(self, permutations: dict[str, Array]) -> Array:
        if self.constant is None:
            return self.inner_product.similarity(self.group, permutations)
        if not self.shared.leaves_a:
            return self.constant
        return self.constant + self.shared.similarity(self.group, permutations)

    def _best_with_guests(self, permutations: dict[str, Array]) -> dict[str, Array]:
        """The group's best permutation, and then those of the groups inside its neurons."""
        matrix = similarity_of_hosts(
            self.spec, self.group, self.inner_product.similarity, permutations, self.backend
        )
        if self.beside_guests.leaves_a:
            matrix = matrix + self.beside_guests.similarity(self.group, permutations)
        after = {**permutations, self.group: assign(matrix, self.backend)}
        for guest in self.guests:
            guest_similarity = self.inner_product.similarity(guest, after)
            after[guest] = assign(guest_similarity, self.backend)
        return after


def _rounding(inner_product: WeightInnerProduct, groups: set[str]) -> Array:
    """What a step of some groups has to gain, lest rounding count as a gain.

    A few units in the last place of the largest inner product that their leaves can have.
    """
    largest = []
    for name, axes in inner_product.spec.leaves:
        if groups_of(axes) & groups:
            norm_a = jnp.linalg.norm(inner_product.leaves_a[name])
            norm_b = jnp.linalg.norm(inner_product.leaves_b[name])
            largest.append(norm_a * norm_b)
    unit = 4 * jnp.finfo(largest[0].dtype).eps
    return unit * sum(largest[1:], largest[0])
