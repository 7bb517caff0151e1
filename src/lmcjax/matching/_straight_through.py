"""Permutations learned by a straight-through estimator: forwards hard, backwards as if they were not there."""

import functools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Key, PyTree

from lmcjax.matching._assignments import assign
from lmcjax.matching._matching import Matching
from lmcjax.matching._objectives import Objective, weight_distance
from lmcjax.matching._searched import begin, summarise
from lmcjax.matching._weight_objective import weight_similarity
from lmcjax.symmetry import (
    Permutations,
    PermutationSpec,
    permute,
)
from lmcjax.transport import AssignmentBackend


def match_straight_through(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    *,
    objective: Objective = weight_distance,
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 100,
    num_passes: int = 1,
    init: Permutations | None = None,
    key: Key[Array, ""] | None = None,
    backend: AssignmentBackend = "auto",
) -> Matching:
    """Git Re-Basin's straight-through estimator: learn a target that B is then matched to.

    A free network C starts as a copy of A. In each step B is permuted towards it, `P = argmax <C, P B>`, the objective
    is evaluated at `P B`, and C takes a step along its gradient *there*, as if the projection of C onto permutations
    of B had derivative 1. The projection is coordinate descent over the groups, all leaves counting, warm from the step
    before. What comes back is the best of the permutations seen, since the objective does not fall from step to step.

    Jittable and vmappable as a whole. Leaves that are not of floating point (counters, random keys) take no steps:
    C has A's, B keeps its own. `converged` says no more than `finite`.

    Args:
        spec: static.
        params_a: the network that stays, traced.
        params_b: the network whose neurons are reordered, traced, of the same shapes.
        objective: static; `objective(params_a, params_b, key)`, smaller is better. The paper's is `midpoint_loss`. Step
            i has the key `fold_in(key, i)`.
        optimizer: static, of C; with any schedule of optax inside. Default: Adam, its rate falling from 0.01 to 0 along
            a cosine.
        num_steps: static, at least 1.
        num_passes: static, over the groups, per projection, at least 1.
        init: where to start, traced. Default: the identity.
        key: for objectives that draw. Default: `jax.random.key(0)`.
        backend: static, see `linear_assignment`.

    Returns:
        The best permutations, with the objective's trace. Which are best is judged by the traced values: with an
        objective that draws, by chance too.

    Raises:
        ValueError: a leaf is complex, shapes differ between the networks or do not fit the spec or
            the start, fewer than one step or pass.

    Source: Ainsworth et al. (2023), Git Re-Basin, Algorithm 3.
    """
    spec, start = begin(spec, params_a, params_b, init, num_steps=num_steps, num_passes=num_passes)
    key = jax.random.key(0) if key is None else key
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01, num_steps)) if optimizer is None else optimizer
    project = functools.partial(_project, spec, params_b=params_b, num_passes=num_passes, backend=backend)

    def advance(state: tuple, step: Array) -> tuple[tuple, Array]:
        target, opt_state, found, best, least = state
        found = project(_with_floating(params_a, target), permutations=found)
        aligned = permute(spec, found, params_b)
        step_key = jax.random.fold_in(key, step)

        def of_aligned(floating: PyTree) -> Array:
            return jnp.asarray(objective(params_a, _with_floating(aligned, floating), step_key))

        value, gradient = jax.value_and_grad(of_aligned)(_floating(aligned))
        updates, opt_state = optimizer.update(gradient, opt_state, target)
        better = value < least
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), found, best)
        least = jnp.where(better, value, least)
        return (optax.apply_updates(target, updates), opt_state, found, best, least), value

    value = jax.eval_shape(objective, params_a, params_b, key)
    target = _floating(params_a)
    state = (target, optimizer.init(target), start, start, jnp.full(value.shape, jnp.inf, value.dtype))
    (_, _, _, best, _), trace = jax.lax.scan(advance, state, jnp.arange(num_steps))
    return summarise(spec, params_a, params_b, best, objective, jax.random.fold_in(key, num_steps), trace, num_steps)


def _floating(params: PyTree) -> PyTree:
    """The leaves that a gradient step can move, None for the others."""

    def keep(leaf: ArrayLike) -> ArrayLike | None:
        return leaf if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else None

    return jax.tree.map(keep, params)


def _with_floating(params: PyTree, floating: PyTree) -> PyTree:
    """The parameters, with the leaves of floating point from elsewhere."""

    def take(moved: ArrayLike | None, own: ArrayLike) -> ArrayLike:
        return own if moved is None else moved

    return jax.tree.map(take, floating, params, is_leaf=lambda leaf: leaf is None)


def _project(
    spec: PermutationSpec,
    target: PyTree,
    *,
    params_b: PyTree,
    permutations: Permutations,
    num_passes: int,
    backend: AssignmentBackend,
) -> dict[str, Array]:
    """Coordinate descent on `<C, P B>`: each group by one assignment, the others in their places."""
    found = dict(permutations)
    for _ in range(num_passes):
        for group in spec.groups:
            matrix = weight_similarity(spec, group, target, params_b, permutations=found)
            found[group] = assign(matrix, backend)
    return {group: jnp.asarray(p) for group, p in found.items()}
