"""Learned soft permutations: gradient descent through entropic transport."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Key, PyTree

from lmcjax._checks import check_positive
from lmcjax.matching._assignments import assign
from lmcjax.matching._matching import Matching
from lmcjax.matching._objectives import Objective, weight_distance
from lmcjax.matching._searched import begin, parameter_dtype, summarise
from lmcjax.statistics import over_batch
from lmcjax.symmetry import (
    Permutations,
    PermutationSpec,
    apply_soft,
    as_alignments,
)
from lmcjax.transport import AssignmentBackend, sinkhorn_plan

Schedule: TypeAlias = float | Float[ArrayLike, ""] | Callable[[Array], ArrayLike]
"""A number, or a function of the step: any of optax's schedules."""


def at_step(schedule: Schedule, step: Array) -> ArrayLike:
    """The schedule's value."""
    return schedule(step) if callable(schedule) else schedule


class SoftAlignments(NamedTuple):
    """Doubly stochastic matrices by group; `vmap` prepends axes to every field."""

    alignments: dict[str, Float[Array, "*batch n n"]]  # rows and columns sum to 1, rows exactly
    converged: Bool[Array, ""]  # every column sum is met to the threshold
    finite: Bool[Array, ""]


def soft_alignments(
    logits: Mapping[str, Float[ArrayLike, "*batch n n"]],
    *,
    temperature: float | Float[ArrayLike, ""],
    threshold: float = 1e-4,
    max_iterations: int = 1000,
) -> SoftAlignments:
    """The Sinkhorn operator: `argmax_T <X, T> + temperature * entropy(T)` over doubly stochastic T,
    per group.

    Differentiable in logits and temperature, by implicit differentiation of the fixed point, as
    `sinkhorn_plan` is.

    Args:
        logits: X per group `[*batch, n, n]`, traced, any unit.
        temperature: traced, above 0, in the unit of the logits; smaller is nearer a permutation,
            and slower. A traced one that is not above 0 gives matrices of nan.
        threshold: static; the summed error of the column sums, relative to n, at which iteration
            stops.
        max_iterations: static.

    Returns:
        Matrices in the orientation of `apply_soft`: rows A, columns B.

    Raises:
        ValueError: a matrix that is not square, a known temperature that is not above 0.

    Source: Mena et al. (2018); implicit differentiation for matching networks: Pena et al. (2023),
        Section 3.2.
    """
    check_positive("temperature", temperature)
    alignments, converged, finite = {}, jnp.asarray(True), jnp.asarray(True)
    for group, matrix in logits.items():
        matrix = jnp.asarray(matrix)
        if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
            raise ValueError(f"the logits of group {group!r} have shape {matrix.shape}, expected [*batch, n, n]")

        def solve(x: Array) -> tuple[Array, Array, Array]:
            result = sinkhorn_plan(-x, epsilon=temperature, threshold=threshold, max_iterations=max_iterations)
            return len(x) * result.plan, result.converged, result.finite

        alignments[group], met, clean = over_batch(solve, matrix.ndim - 2)(matrix)
        converged, finite = converged & met.all(), finite & clean.all()
    return SoftAlignments(alignments, converged, finite)


def match_sinkhorn(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    *,
    objective: Objective = weight_distance,
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 200,
    temperature: Schedule = 0.3,
    init: Permutations | None = None,
    key: Key[Array, ""] | None = None,
    threshold: float = 1e-4,
    max_iterations: int = 1000,
    backend: AssignmentBackend = "auto",
) -> Matching:
    """Learn soft permutations that make any differentiable objective small; harden them by exact
    assignment.

    Per group logits X, `T = soft_alignments(X)`, and gradient steps on `objective(A, apply_soft(T,
    B))` through Sinkhorn's fixed point. At the end the permutations maximise `sum_i T[i, p[i]]`
    group by group. All groups and all leaves that they touch are moved at once, whatever the spec:
    streams, heads and their channels, stacks.

    Jittable and vmappable as a whole; the soft alignments, their objective and the trace are
    differentiable in both networks and in the temperature, through all steps.

    Args:
        spec: static.
        params_a: the network that stays, traced.
        params_b: the network whose neurons are mixed and reordered, traced, of the same shapes.
        objective: static; `objective(params_a, params_b, key)`, smaller is better:
            `weight_distance`, what `midpoint_loss` or `random_point_loss` return, or any other.
            Step i has the key `fold_in(key, i)`.
        optimizer: static, of the logits; with any schedule of optax inside. Default: Adam, its rate
            falling from 0.1 to 0 along a cosine.
        num_steps: static, at least 1.
        temperature: traced, or a schedule; above 0, in the logits' unit.
        init: where to start, traced: the logits are 1 there and 0 elsewhere. Default: 0 everywhere,
            that is, uniform alignments, which prefer no neuron.
        key: for objectives that draw. Default: `jax.random.key(0)`.
        threshold: static, see `soft_alignments`.
        max_iterations: static, of Sinkhorn, per step.
        backend: static, see `linear_assignment`.

    Returns:
        `Matching` with the `alignments` after the last step; `trace` is the loss of the soft
        alignments, before each step and after the last, `loss` that of the permutations.
        `converged`: the last Sinkhorn iterations met their threshold. `finite` is False if a traced
        temperature was not above 0 at some step.

    Raises:
        ValueError: a leaf is complex, shapes differ between the networks or do not fit the spec or
            the start, fewer than one step, an objective that is no scalar, a known temperature that
            is not above 0.

    Source: Pena et al. (2023), "Re-basin via implicit Sinkhorn differentiation".
    """
    spec, start = begin(spec, params_a, params_b, init, num_steps=num_steps)
    key = jax.random.key(0) if key is None else key
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, num_steps)) if optimizer is None else optimizer

    def reached(logits: PyTree, step: Array) -> tuple[Array, SoftAlignments]:
        now = at_step(temperature, step)
        soft = soft_alignments(logits, temperature=now, threshold=threshold, max_iterations=max_iterations)
        value = objective(params_a, apply_soft(spec, soft.alignments, params_b), jax.random.fold_in(key, step))
        return jnp.asarray(value), soft

    def advance(state: tuple, step: Array) -> tuple[tuple, Array]:
        logits, opt_state, before = state
        (value, soft), gradient = jax.value_and_grad(reached, has_aux=True)(logits, step)
        soft = soft._replace(finite=soft.finite & before.finite)  # at every step so far
        updates, opt_state = optimizer.update(gradient, opt_state, logits)
        return (optax.apply_updates(logits, updates), opt_state, soft), value

    logits = as_alignments(start, parameter_dtype(params_a, params_b))
    if init is None:
        logits = jax.tree.map(jnp.zeros_like, logits)
    state = (logits, optimizer.init(logits), SoftAlignments(logits, jnp.asarray(False), jnp.asarray(True)))
    # one more than there are steps, for the value after the last: the loop's body is compiled once,
    # and that is slow
    (_, _, soft), values = jax.lax.scan(advance, state, jnp.arange(num_steps + 1))
    hard = {g: assign(t, backend) for g, t in soft.alignments.items()}
    last = jax.random.fold_in(key, num_steps)
    found = summarise(spec, params_a, params_b, hard, objective, last, values, num_steps)
    finite = found.finite & soft.finite
    return found._replace(finite=finite, converged=soft.converged & finite, alignments=soft.alignments)
