"""Learned soft permutations: gradient descent through entropic transport."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from lmcjax.matching._assignments import assign, check_at_least_one
from lmcjax.matching._matching import Matching
from lmcjax.matching._pair import parameter_dtype
from lmcjax.matching.searches._losses import PairLoss, weight_distance
from lmcjax.matching.searches._schedule import Schedule, at_step
from lmcjax.matching.searches._search import begin, make_matching
from lmcjax.matching.searches._soft_alignments import SoftAlignments, soft_alignments
from lmcjax.symmetry import Permutations, PermutationSpec, apply_soft, as_alignments
from lmcjax.transport import AssignmentBackend


class _State(NamedTuple):
    """Where the search stands between two steps."""

    logits: dict[str, Array]  # [*batch, n, n]
    optimizer: optax.OptState
    soft: SoftAlignments  # of the logits before the last step; `finite` speaks of all steps


def match_sinkhorn(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    *,
    loss: PairLoss = weight_distance,
    optimizer: optax.GradientTransformation | None = None,
    num_iterations: int = 200,
    temperature: Schedule = 0.3,
    init: Permutations | None = None,
    key: Key[Array, ""] | None = None,
    threshold: float = 1e-4,
    sinkhorn_iterations: int = 1000,
    backend: AssignmentBackend = "auto",
) -> Matching:
    """Learn soft permutations that make any differentiable loss small, then harden them.

    Per group logits X, `T = soft_alignments(X)`, and gradient steps on `loss(A, apply_soft(T, B))`
    through Sinkhorn's fixed point. At the end the permutations maximise `sum_i T[i, p[i]]` group by
    group. All groups and all leaves that they touch are moved at once, whatever the spec: streams,
    heads and their channels, stacks.

    Jittable and vmappable as a whole; the soft alignments, their loss and the trace are
    differentiable in both networks and in the temperature, through all steps.

    Args:
        spec: static.
        params_a: the network that stays, traced.
        params_b: the network whose neurons are mixed and reordered, traced, of the same shapes.
        loss: static; `loss(params_a, params_b, key)`, smaller is better: `weight_distance`, what
            `midpoint_loss` or `random_point_loss` return, or any other. Step i has the key
            `fold_in(key, i)`.
        optimizer: static, of the logits; with any schedule of optax inside. Default: Adam, its rate
            falling from 0.1 to 0 along a cosine.
        num_iterations: static, gradient steps, at least 1.
        temperature: traced, or a schedule; above 0, in the logits' unit.
        init: where to start, traced: the logits are 1 there and 0 elsewhere. Default: 0 everywhere,
            that is, uniform alignments, which prefer no neuron.
        key: for losses that draw. Default: `jax.random.key(0)`.
        threshold: static, see `soft_alignments`.
        sinkhorn_iterations: static, the most of each of them, see `soft_alignments`.
        backend: static, of the assignment at the end, see `linear_assignment`.

    Returns:
        `Matching` with the `alignments` after the last step. `search.trace` is the loss of the soft
        alignments, before each step and after the last, `search.loss` that of the permutations.
        `converged`: the last Sinkhorn iterations met their threshold. `finite` is False if a traced
        temperature was not above 0 at some step.

    Raises:
        ValueError: shapes that differ between the networks or do not fit the spec or the start,
            fewer than one step, a loss that is no scalar, a known temperature that is not above 0.

    Source: Pena et al. (2023), "Re-basin via implicit Sinkhorn differentiation".
    """
    check_at_least_one(num_iterations=num_iterations)
    pair, start = begin(spec, params_a, params_b, init)
    if key is None:
        key = jax.random.key(0)
    if optimizer is None:
        optimizer = optax.adam(optax.cosine_decay_schedule(0.1, num_iterations))

    def soft_loss(logits: dict[str, Array], step: Array) -> tuple[Array, SoftAlignments]:
        soft = soft_alignments(
            logits,
            temperature=at_step(temperature, step),
            threshold=threshold,
            max_iterations=sinkhorn_iterations,
        )
        mixed_b = apply_soft(pair.spec, soft.alignments, params_b)
        value = loss(params_a, mixed_b, jax.random.fold_in(key, step))
        return jnp.asarray(value), soft

    def advance(state: _State, step: Array) -> tuple[_State, Array]:
        value_and_gradient = jax.value_and_grad(soft_loss, has_aux=True)
        (value, soft), gradient = value_and_gradient(state.logits, step)
        soft = soft._replace(finite=soft.finite & state.soft.finite)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.logits)
        logits = optax.apply_updates(state.logits, updates)
        return _State(logits, optimizer_state, soft), value

    logits = as_alignments(start, parameter_dtype(params_a, params_b))
    if init is None:
        logits = jax.tree.map(jnp.zeros_like, logits)
    unknown = SoftAlignments(logits, converged=jnp.asarray(False), finite=jnp.asarray(True))
    first = _State(logits, optimizer.init(logits), unknown)
    # One more than there are steps, for the value after the last: the loop's body is compiled once,
    # and that is slow.
    steps = jnp.arange(num_iterations + 1)
    last, trace = jax.lax.scan(advance, first, steps)

    alignments = last.soft.alignments
    permutations = {group: assign(matrix, backend) for group, matrix in alignments.items()}
    last_key = jax.random.fold_in(key, num_iterations)
    matching = make_matching(pair, params_a, params_b, permutations, loss, last_key, trace)
    finite = matching.finite & last.soft.finite
    return matching._replace(
        iterations=jnp.asarray(num_iterations, jnp.int32),
        finite=finite,
        converged=last.soft.converged & finite,
        alignments=alignments,
    )
