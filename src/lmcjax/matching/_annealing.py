"""Simulated annealing over swaps of two neurons: the baseline that needs no structure."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from lmcjax._checks import check_not_negative
from lmcjax.matching._matching import Matching
from lmcjax.matching._objectives import Objective, weight_distance
from lmcjax.matching._searched import begin, parameter_dtype, summarise
from lmcjax.matching._sinkhorn import Schedule, at_step
from lmcjax.matching._weight_objective import is_linear
from lmcjax.symmetry import (
    Permutations,
    PermutationSpec,
    Place,
    named_leaves,
    permute,
    permute_leaf,
)

_TRIAL_SWAPS = 16  # whose changes set the first temperature
_COOLING = 1e-3  # the last temperature over the first


class _Swap(NamedTuple):
    group: str
    entry: Array  # of the group's batch axes, flattened
    i: Array  # two different neurons
    j: Array

    def apply(self, permutations: Mapping[str, Array]) -> dict[str, Array]:
        """The permutations with what stands at `i` and `j` exchanged."""
        p = permutations[self.group]
        rows = p.reshape(-1, p.shape[-1])
        at_i, at_j = rows[self.entry, self.i], rows[self.entry, self.j]
        swapped = rows.at[self.entry, self.i].set(at_j).at[self.entry, self.j].set(at_i)
        return {**permutations, self.group: swapped.reshape(p.shape)}


def match_annealing(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    *,
    key: Key[Array, ""],
    objective: Objective = weight_distance,
    num_steps: int = 20_000,
    temperature: Schedule | None = None,
    init: Permutations | None = None,
) -> Matching:
    """Simulated annealing: swap two random neurons of B, keep the swap if it helps, or by chance if
    it does not.

    A swap that changes the objective by D is kept with probability `min(1, exp(-D / temperature))`.
    Groups are drawn in proportion to their neurons. The squared distance of weights is updated by
    what the two neurons carry (where no group acts on two axes of a leaf and none has batch axes);
    any other objective is evaluated anew at every step. What comes back is the best of the
    permutations seen.

    Jittable and vmappable as a whole; without derivative.

    Args:
        spec: static.
        params_a: the network that stays, traced.
        params_b: the network whose neurons are reordered, traced, of the same shapes.
        key: of the swaps and of their acceptance; an objective that draws gets one key for all
            steps.
        objective: static; `objective(params_a, params_b, key)`, smaller is better. Entezari et al.
            take a loss at the middle of the line, `midpoint_loss`.
        num_steps: static, at least 1: swaps that are tried.
        temperature: traced, or a schedule; at least 0, in the objective's unit. At 0 only swaps
            that do not hurt are kept. Default: falling geometrically, from the mean change of 16
            swaps of the start to a thousandth of that.
        init: where to start, traced. Default: the identity.

    Returns:
        The best permutations, with the objective's trace. `converged` says no more than `finite`,
        which is False also if a traced temperature was negative or nan at some step.

    Raises:
        ValueError: a leaf is complex, shapes differ between the networks or do not fit the spec or
            the start, fewer than one step, no group with two neurons, a known temperature that is
            negative or nan.

    Source: Entezari et al. (2022), Section 4 and Appendix.
    """
    if temperature is not None and not callable(temperature):
        check_not_negative("temperature", temperature)
    spec, start = begin(spec, params_a, params_b, init, num_steps=num_steps)
    of_objective, of_trials, of_steps = (jax.random.fold_in(key, i) for i in range(3))

    def value_of(found: Permutations) -> Array:
        return jnp.asarray(objective(params_a, permute(spec, found, params_b), of_objective))

    places = _simple_places(spec) if objective is weight_distance else None

    def propose(swap: _Swap, found: Mapping[str, Array], value: Array) -> tuple[dict[str, Array], Array]:
        swapped = swap.apply(found)
        if places is None:
            return swapped, value_of(swapped) - value
        gain = _gain(spec, places[swap.group], swap, params_a, params_b, found)
        return swapped, (-2 * gain).astype(value.dtype)

    def draw(key: Array, found: Mapping[str, Array], value: Array) -> tuple[dict[str, Array], Array]:
        return _random_swap(spec, key, lambda swap: propose(swap, found, value))

    def advance(state: tuple, step: Array) -> tuple[tuple, Array]:
        found, value, best, least, valid = state
        of_swap, of_chance = jax.random.split(jax.random.fold_in(of_steps, step))
        swapped, change = draw(of_swap, found, value)
        now = jnp.asarray(at_step(schedule, step), value.dtype)
        valid = valid & (now >= 0)  # nan is not
        threshold = now * jax.random.exponential(of_chance, (), value.dtype)
        kept = change <= threshold
        found = jax.tree.map(lambda new, old: jnp.where(kept, new, old), swapped, found)
        value = jnp.where(kept, value + change, value)
        better = value < least
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), found, best)
        return (found, value, best, jnp.where(better, value, least), valid), value

    value = value_of(start)
    if temperature is None:
        trials = jax.vmap(lambda i: jax.random.fold_in(of_trials, i))(jnp.arange(_TRIAL_SWAPS))
        schedule = _cooling(jnp.abs(jax.lax.map(lambda key: draw(key, start, value)[1], trials)).mean(), num_steps)
    else:
        schedule = temperature
    state = (start, value, start, value, jnp.asarray(True))
    (_, _, best, _, valid), trace = jax.lax.scan(advance, state, jnp.arange(num_steps))
    found = summarise(spec, params_a, params_b, best, objective, of_objective, trace, num_steps)
    finite = found.finite & valid
    return found._replace(finite=finite, converged=finite)


def _cooling(first: Array, num_steps: int) -> Schedule:
    """Geometrically, from a first temperature to a thousandth of it."""
    return lambda step: first * _COOLING ** (step.astype(first.dtype) / num_steps)


def _random_swap(spec: PermutationSpec, key: Array, use: Callable[[_Swap], tuple]) -> tuple:
    """`use(swap)` of two different neurons of a random group; groups in proportion to their
    neurons.
    """
    shapes = {group: shape for group, shape in spec.group_shapes().items() if shape[-1] > 1}
    if not shapes:
        raise ValueError(f"no group has two neurons to swap: {spec.group_shapes()}")
    of_group, of_entry, of_first, of_second = jax.random.split(key, 4)

    def branch(group: str) -> Callable[[], tuple]:
        def of_this() -> tuple:
            *batch, size = shapes[group]
            entry = jax.random.randint(of_entry, (), 0, math.prod(batch))
            i = jax.random.randint(of_first, (), 0, size)
            j = (i + jax.random.randint(of_second, (), 1, size)) % size
            return use(_Swap(group, entry, i, j))

        return of_this

    sizes = jnp.asarray([math.prod(shape) for shape in shapes.values()], jnp.float32)
    return jax.lax.switch(jax.random.categorical(of_group, jnp.log(sizes)), [branch(group) for group in shapes])


def _simple_places(spec: PermutationSpec) -> dict[str, list[Place]] | None:
    """Where each group acts, if a swap changes nothing but the inner products of two rows each;
    None: it may.
    """
    places = {group: list(spec.places(group)) for group in spec.groups}
    for group, own in places.items():
        if not is_linear(spec, group) or any(place.segment.batch_axes for place in own):
            return None
    return places


def _gain(
    spec: PermutationSpec, places: list[Place], swap: _Swap, params_a: PyTree, params_b: PyTree, found: Permutations
) -> Array:
    """By how much the swap raises `<A, P B>`: the two rows of A against the two of B, crosswise
    less straight.
    """
    leaves_a, leaves_b, axes = named_leaves(params_a), named_leaves(params_b), dict(spec.leaves)
    here = jnp.stack([swap.i, swap.j])
    there = jnp.asarray(found[swap.group])[here]
    dtype = parameter_dtype(params_a, params_b)
    gain = jnp.zeros((), dtype)
    for place in places:
        a, b = (jnp.asarray(leaves[place.leaf]) for leaves in (leaves_a, leaves_b))
        two = place._replace(size=2, offset=0)
        others = place.others(axes[place.leaf])
        aligned = jnp.asarray(permute_leaf(others, found, _two_neurons(place, b, there)))
        rows_a = two.rows(_two_neurons(place, a, here).astype(dtype), range(a.ndim))
        rows_b = two.rows(aligned.astype(dtype), range(b.ndim))
        gain = gain - jnp.sum((rows_a[0] - rows_a[1]) * (rows_b[0] - rows_b[1]))
    return gain


def _two_neurons(place: Place, leaf: Array, neurons: Array) -> Array:
    """The leaf with only these neurons' entries along the place's axis, in the same layout."""
    taken = jnp.take(place.split(leaf, place.axis), neurons, axis=place.axis + 1)
    before, after = leaf.shape[: place.axis], leaf.shape[place.axis + 1 :]
    return taken.reshape(*before, -1, *after)
