"""Permutations learned by a straight-through estimator: projected forwards, not backwards."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Key, PyTree

from lmcjax.matching._assignments import assign, check_at_least_one
from lmcjax.matching._matching import Matching
from lmcjax.matching._pair import Pair, is_floating
from lmcjax.matching._similarities import Weights
from lmcjax.matching.inner_product import compare_weights
from lmcjax.matching.searches._losses import PairLoss, weight_distance
from lmcjax.matching.searches._search import begin, make_matching
from lmcjax.symmetry import Permutations, PermutationSpec, named_leaves, permute, rebuild
from lmcjax.transport import AssignmentBackend


class _State(NamedTuple):
    """Where the search stands between two steps."""

    target: dict[str, Array]  # C's leaves of floating point
    optimizer: optax.OptState
    permutations: dict[str, Array]  # the last ones
    best: dict[str, Array]  # those with the least loss so far
    least: Array


def match_straight_through(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    *,
    loss: PairLoss = weight_distance,
    optimizer: optax.GradientTransformation | None = None,
    num_iterations: int = 100,
    iterations_per_projection: int = 1,
    init: Permutations | None = None,
    key: Key[Array, ""] | None = None,
    backend: AssignmentBackend = "auto",
) -> Matching:
    """Learn a target that B is then matched to: Git Re-Basin's straight-through estimator.

    A free network C starts as a copy of A. In each step B is permuted towards it,
    `P = argmax <C, P B>`, the loss is evaluated at `P B`, and C takes a step along its gradient
    *there*, as if the projection of C onto permutations of B had derivative 1. The projection is
    coordinate descent over the groups, all leaves counting, warm from the step before. What comes
    back is the best of the permutations seen, since the loss does not fall from step to step.

    Jittable and vmappable as a whole. Leaves that are not of floating point (counters, random keys)
    take no steps: C has A's, B keeps its own. `converged` says no more than `finite`.

    Args:
        spec: static.
        params_a: the network that stays, traced.
        params_b: the network whose neurons are reordered, traced, of the same shapes.
        loss: static; `loss(params_a, params_b, key)`, smaller is better. The paper's is
            `midpoint_loss`. Step i has the key `fold_in(key, i)`.
        optimizer: static, of C; with any schedule of optax inside. Default: Adam, its rate falling
            from 0.01 to 0 along a cosine.
        num_iterations: static, steps of C, at least 1.
        iterations_per_projection: static, passes over the groups in each step, at least 1.
        init: where to start, traced. Default: the identity.
        key: for losses that draw. Default: `jax.random.key(0)`.
        backend: static, see `linear_assignment`.

    Returns:
        The best permutations, with the trace of the loss. Which are best is judged by the traced
        values: with a loss that draws, by chance too.

    Raises:
        ValueError: shapes that differ between the networks or do not fit the spec or the start,
            fewer than one step or pass.

    Source: Ainsworth et al. (2023), Git Re-Basin, Algorithm 3.
    """
    check_at_least_one(
        num_iterations=num_iterations, iterations_per_projection=iterations_per_projection
    )
    pair, start = begin(spec, params_a, params_b, init)
    if key is None:
        key = jax.random.key(0)
    if optimizer is None:
        optimizer = optax.adam(optax.cosine_decay_schedule(0.01, num_iterations))
    project = functools.partial(
        _project, pair, num_iterations=iterations_per_projection, backend=backend
    )

    def advance(state: _State, step: Array) -> tuple[_State, Array]:
        permutations = project(state.target, state.permutations)
        aligned = permute(pair.spec, permutations, params_b)
        step_key = jax.random.fold_in(key, step)

        def loss_of_aligned(floating: dict[str, Array]) -> Array:
            leaves = {**named_leaves(aligned), **floating}
            return jnp.asarray(loss(params_a, rebuild(aligned, leaves), step_key))

        floating = _floating_leaves(named_leaves(aligned))
        value, gradient = jax.value_and_grad(loss_of_aligned)(floating)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.target)
        better = value < state.least
        best = {}
        for group, permutation in permutations.items():
            best[group] = jnp.where(better, permutation, state.best[group])
        after = _State(
            optax.apply_updates(state.target, updates),
            optimizer_state,
            permutations,
            best,
            jnp.where(better, value, state.least),
        )
        return after, value

    value = jax.eval_shape(loss, params_a, params_b, key)
    target = _floating_leaves(pair.leaves_a)
    infinite = jnp.full(value.shape, jnp.inf, value.dtype)
    first = _State(target, optimizer.init(target), start, start, infinite)
    last, trace = jax.lax.scan(advance, first, jnp.arange(num_iterations))
    last_key = jax.random.fold_in(key, num_iterations)
    return make_matching(pair, params_a, params_b, last.best, loss, last_key, trace)


def _floating_leaves(leaves: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """The leaves that a gradient step can move."""
    floating = {}
    for name, leaf in leaves.items():
        if is_floating(leaf):
            floating[name] = jnp.asarray(leaf)
    return floating


def _project(
    pair: Pair,
    target: dict[str, Array],
    permutations: dict[str, Array],
    *,
    num_iterations: int,
    backend: AssignmentBackend,
) -> dict[str, Array]:
    """Coordinate descent on `<C, P B>`: each group by one assignment, the others in place."""
    towards = pair._replace(leaves_a={**pair.leaves_a, **target})
    inner_product = compare_weights(towards, Weights())
    permutations = dict(permutations)
    for _ in range(num_iterations):
        for group in pair.spec.groups:
            matrix = inner_product.similarity(group, permutations)
            permutations[group] = assign(matrix, backend)
    return permutations
