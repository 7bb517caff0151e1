"""Simulated annealing over swaps of two neurons: the baseline that needs no structure."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Key, PyTree

from lmcjax._checks import check_not_negative
from lmcjax.matching._assignments import check_at_least_one
from lmcjax.matching._matching import Matching
from lmcjax.matching._pair import Pair, parameter_dtype
from lmcjax.matching.inner_product import is_linear
from lmcjax.matching.searches._losses import PairLoss, weight_distance
from lmcjax.matching.searches._schedule import Schedule, at_step
from lmcjax.matching.searches._search import begin, make_matching
from lmcjax.symmetry import Permutations, PermutationSpec, Place, permute, permute_leaf

_TRIAL_SWAPS = 16  # whose changes set the first temperature
_COOLING = 1e-3  # the last temperature over the first


class _Swap(NamedTuple):
    """Two neurons of a group that are exchanged."""

    group: str
    entry: Array  # of the group's batch axes, flattened
    i: Array  # two different neurons
    j: Array

    def apply(self, permutations: Mapping[str, Array]) -> dict[str, Array]:
        """The permutations with what stands at `i` and `j` exchanged."""
        permutation = permutations[self.group]
        rows = permutation.reshape(-1, permutation.shape[-1])
        at_i = rows[self.entry, self.i]
        at_j = rows[self.entry, self.j]
        swapped = rows.at[self.entry, self.i].set(at_j)
        swapped = swapped.at[self.entry, self.j].set(at_i)
        return {**permutations, self.group: swapped.reshape(permutation.shape)}


class _Proposal(NamedTuple):
    """Where a swap would lead."""

    permutations: dict[str, Array]
    change: Array  # of the loss


class _State(NamedTuple):
    """Where the search stands between two steps."""

    permutations: dict[str, Array]
    value: Array  # the loss there
    best: dict[str, Array]
    least: Array  # the loss there
    valid: Array  # whether no temperature so far was negative or nan


_Propose: TypeAlias = Callable[[_Swap, Mapping[str, Array], Array], _Proposal]
"""`propose(swap, permutations, value)`."""


def match_annealing(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    *,
    key: Key[Array, ""],
    loss: PairLoss = weight_distance,
    num_iterations: int = 20_000,
    temperature: Schedule | None = None,
    init: Permutations | None = None,
) -> Matching:
    """Swap two random neurons of B, and keep the swap if it helps, or else by chance.

    A swap that changes the loss by D is kept with probability `min(1, exp(-D / temperature))`.
    Groups are drawn in proportion to their neurons. The squared distance of weights is updated by
    what the two neurons carry (where no group acts on two axes of a leaf and none has batch axes);
    any other loss is evaluated anew at every step. What comes back is the best of the permutations
    seen.

    Jittable and vmappable as a whole; without derivative.

    Args:
        spec: static.
        params_a: the network that stays, traced.
        params_b: the network whose neurons are reordered, traced, of the same shapes.
        key: of the swaps and of their acceptance; a loss that draws gets one key for all steps.
        loss: static; `loss(params_a, params_b, key)`, smaller is better. Entezari et al. take a
            loss at the middle of the line, `midpoint_loss`.
        num_iterations: static, swaps that are tried, at least 1.
        temperature: traced, or a schedule; at least 0, in the loss's unit. At 0 only swaps that do
            not hurt are kept. Default: falling geometrically, from the mean change of 16 swaps of
            the start to a thousandth of that.
        init: where to start, traced. Default: the identity.

    Returns:
        The best permutations, with the trace of the loss. `converged` says no more than `finite`,
        which is False also if a traced temperature was negative or nan at some step.

    Raises:
        ValueError: shapes that differ between the networks or do not fit the spec or the start,
            fewer than one step, no group with two neurons, a known temperature that is negative or
            nan.

    Source: Entezari et al. (2022), Section 4 and Appendix.
    """
    check_at_least_one(num_iterations=num_iterations)
    if temperature is not None and not callable(temperature):
        check_not_negative("temperature", temperature)
    pair, start = begin(spec, params_a, params_b, init)
    key_of_loss = jax.random.fold_in(key, 0)
    key_of_trials = jax.random.fold_in(key, 1)
    key_of_steps = jax.random.fold_in(key, 2)

    def loss_at(permutations: Permutations) -> Array:
        aligned = permute(pair.spec, permutations, params_b)
        return jnp.asarray(loss(params_a, aligned, key_of_loss))

    if loss is weight_distance and _swaps_are_simple(pair.spec):
        propose = _proposal_by_two_rows(pair, parameter_dtype(params_a, params_b))
    else:
        propose = _proposal_by_evaluation(loss_at)

    def advance(state: _State, step: Array) -> tuple[_State, Array]:
        key_of_swap, key_of_chance = jax.random.split(jax.random.fold_in(key_of_steps, step))
        proposal = _random_proposal(
            pair.spec, key_of_swap, propose, state.permutations, state.value
        )
        now = jnp.asarray(at_step(schedule, step), state.value.dtype)
        # exp(-D / T) > u for u uniform, as D < T e for e exponential: nothing is divided by T
        threshold = now * jax.random.exponential(key_of_chance, (), state.value.dtype)
        kept = proposal.change <= threshold
        permutations = _where(kept, proposal.permutations, state.permutations)
        value = jnp.where(kept, state.value + proposal.change, state.value)
        better = value < state.least
        after = _State(
            permutations,
            value,
            _where(better, permutations, state.best),
            jnp.where(better, value, state.least),
            state.valid & (now >= 0),  # nan is not
        )
        return after, value

    value = loss_at(start)
    if temperature is None:

        def size_of_change(key: Array) -> Array:
            return jnp.abs(_random_proposal(pair.spec, key, propose, start, value).change)

        numbers = jnp.arange(_TRIAL_SWAPS)
        trial_keys = jax.vmap(lambda i: jax.random.fold_in(key_of_trials, i))(numbers)
        first_temperature = jax.lax.map(size_of_change, trial_keys).mean()
        schedule = _cooling(first_temperature, num_iterations)
    else:
        schedule = temperature
    first = _State(start, value, start, value, jnp.asarray(True))
    last, trace = jax.lax.scan(advance, first, jnp.arange(num_iterations))
    matching = make_matching(pair, params_a, params_b, last.best, loss, key_of_loss, trace)
    finite = matching.finite & last.valid
    return matching._replace(finite=finite, converged=finite)


def _where(condition: Array, yes: Mapping[str, Array], no: Mapping[str, Array]) -> dict[str, Array]:
    return {group: jnp.where(condition, yes[group], no[group]) for group in yes}


def _cooling(first: Array, num_iterations: int) -> Schedule:
    """A schedule that falls geometrically from a first temperature to a thousandth of it."""

    def temperature(step: Array) -> Array:
        return first * _COOLING ** (step.astype(first.dtype) / num_iterations)

    return temperature


def _proposal_by_evaluation(loss_at: Callable[[Permutations], Array]) -> _Propose:
    """The change of any loss, by evaluating it."""

    def propose(swap: _Swap, permutations: Mapping[str, Array], value: Array) -> _Proposal:
        swapped = swap.apply(permutations)
        return _Proposal(swapped, loss_at(swapped) - value)

    return propose


def _proposal_by_two_rows(pair: Pair, dtype: jnp.dtype) -> _Propose:
    """The change of the squared distance, from what the two neurons carry."""
    places = {group: list(pair.spec.places(group)) for group in pair.spec.groups}

    def propose(swap: _Swap, permutations: Mapping[str, Array], value: Array) -> _Proposal:
        gain = _gain(pair, places[swap.group], swap, permutations, dtype)
        return _Proposal(swap.apply(permutations), (-2 * gain).astype(value.dtype))

    return propose


def _random_proposal(
    spec: PermutationSpec,
    key: Array,
    propose: _Propose,
    permutations: Mapping[str, Array],
    value: Array,
) -> _Proposal:
    """A swap of two different neurons of a random group; groups in proportion to their neurons.

    Raises:
        ValueError: no group has two neurons.
    """
    shapes = {}
    for group, shape in spec.group_shapes().items():
        if shape[-1] > 1:
            shapes[group] = shape
    if not shapes:
        raise ValueError(f"no group has two neurons to swap: {spec.group_shapes()}")
    key_of_group, key_of_entry, key_of_first, key_of_second = jax.random.split(key, 4)

    def branch(group: str) -> Callable[[], _Proposal]:
        *batch, size = shapes[group]

        def propose_in_group() -> _Proposal:
            entry = jax.random.randint(key_of_entry, (), 0, math.prod(batch))
            i = jax.random.randint(key_of_first, (), 0, size)
            j = (i + jax.random.randint(key_of_second, (), 1, size)) % size
            return propose(_Swap(group, entry, i, j), permutations, value)

        return propose_in_group

    neurons = jnp.asarray([math.prod(shape) for shape in shapes.values()], jnp.float32)
    drawn = jax.random.categorical(key_of_group, jnp.log(neurons))
    return jax.lax.switch(drawn, [branch(group) for group in shapes])


def _swaps_are_simple(spec: PermutationSpec) -> bool:
    """Whether a swap changes nothing but the inner products of two rows in each leaf."""
    return all(not spec.along(group) and is_linear(spec, group) for group in spec.groups)


def _gain(
    pair: Pair, places: list[Place], swap: _Swap, permutations: Permutations, dtype: jnp.dtype
) -> Array:
    """What the swap adds to `<A, P B>`: the two rows of A against the two of B, crosswise."""
    neurons_a = jnp.stack([swap.i, swap.j])
    neurons_b = jnp.asarray(permutations[swap.group])[neurons_a]
    gain = jnp.zeros((), dtype)
    for place in places:
        two_a = _two_neurons(place, pair.leaves_a[place.leaf], neurons_a)
        two_b = _two_neurons(place, pair.leaves_b[place.leaf], neurons_b)
        two_b = jnp.asarray(permute_leaf(place.others(), permutations, two_b))
        rows_a = place.rows_of_cut(two_a.astype(dtype))
        rows_b = place.rows_of_cut(two_b.astype(dtype))
        # crosswise less straight: (a0.b1 + a1.b0) - (a0.b0 + a1.b1)
        gain = gain - jnp.sum((rows_a[0] - rows_a[1]) * (rows_b[0] - rows_b[1]))
    return gain


def _two_neurons(place: Place, leaf: ArrayLike, neurons: Array) -> Array:
    """The part at a place with only these neurons' entries."""
    return jnp.take(place.part.cut(leaf), neurons, axis=place.axis)
