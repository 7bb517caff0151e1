"""One transport plan per layer, for networks of different widths."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from lmcjax._checks import check_positive
from lmcjax.matching._assignments import check_at_least_one
from lmcjax.matching._matching import Matching
from lmcjax.matching._pair import Pair, make_pair_of_widths, parameter_dtype
from lmcjax.matching._similarity import Similarity, total
from lmcjax.matching.layerwise._terms import GroupTerms
from lmcjax.statistics import over_batch
from lmcjax.symmetry import PermutationSpec
from lmcjax.transport import AssignmentBackend, exact_plan, sinkhorn_plan


def match_soft(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    *,
    similarity: Similarity,
    temperature: float | Float[ArrayLike, ""] | None = None,
    num_iterations: int = 1,
    threshold: float = 1e-4,
    sinkhorn_iterations: int = 2000,
    backend: AssignmentBackend = "auto",
) -> Matching:
    """Transport B's neurons to A's one layer after the other; the networks may differ in width.

    For each group in the spec's order, with the alignments found so far applied to B, this is
    `T = n_a argmax_P <P, M>` over plans with uniform margins, M the similarity as `match_layerwise`
    has it. With such margins that is the plan of the least squared distance of the rows, too.
    `apply_soft(spec, T, params_b)` has A's shapes; where B's width divides A's and the plan is
    exact, it computes what B does.

    Where groups depend on each other in a circle, the first pass over the groups counts for each
    group the terms whose other groups are aligned already (all if there are none, with uniform
    alignments). Further passes count all.

    Jittable and vmappable; with a temperature differentiable in both networks, the moments and the
    temperature.

    Args:
        spec: static; of either network, or not bound.
        params_a: the network that stays, traced.
        params_b: the network whose neurons are mixed, traced; the same leaves, groups of any sizes.
        similarity: as for `match_layerwise`. `Covariance` reads A's moments only, so those of
            `activation_moments(apply, spec, params_a, params_a, inputs)` will do. The others
            compare both networks' activations; where these differ in width, ask for
            `activation_moments(apply_a, spec, params_a, params_b, inputs, apply_b=apply_b)`.
        temperature: of the entropic plan, traced, above 0, in standard deviations of the
            similarity. None: the exact plan. A traced one that is not above 0 gives alignments of
            nan.
        num_iterations: static, passes over the groups, at least 1.
        threshold, sinkhorn_iterations: static, of the entropic plan, see `sinkhorn_plan`.
        backend: static, of the exact one.

    Returns:
        `Matching` with `alignments` for `apply_soft` and no permutations; columns sum to
        `n_a / n_b`. The similarity of a group is the sum of its alignment times the matrix M, when
        the group was matched. `converged`: in the last pass all plans were exact or met their
        margins to the threshold.

    Raises:
        ValueError: parameters that do not fit the spec, moments that are missing or of the wrong
            size, fewer than one iteration, groups inside groups (channels of heads), an exact plan
            between sizes with a large common multiple, a known temperature that is not above 0.

    Source: Singh and Jaggi (2020), Model Fusion via Optimal Transport, Section 4.
    """
    check_at_least_one(num_iterations=num_iterations)
    if temperature is not None:
        check_positive("temperature", temperature)
    pair = make_pair_of_widths(spec, params_a, params_b)
    for group in pair.spec.groups:
        guests = pair.spec.guests(group)
        if guests:
            raise ValueError(
                f"group {group!r} has neurons of {guests} inside, which have no soft match"
            )
    options = _PlanOptions(temperature, threshold, sinkhorn_iterations, backend)
    terms = GroupTerms(pair, similarity)
    alignments = _uniform(pair, parameter_dtype(params_a, params_b))
    reached: dict[str, Array] = {}
    finite = jnp.asarray(True)
    for iteration in range(num_iterations):
        chosen = terms.ready() if iteration == 0 else terms.terms
        converged = jnp.asarray(True)
        for group in pair.spec.groups:
            matrix = total(chosen[group], alignments)
            plan = over_batch(options.align, matrix.ndim - 2)(matrix)
            alignments[group] = plan.alignment
            reached[group] = (plan.alignment * matrix).sum()
            converged &= plan.converged.all()
            finite &= plan.finite.all() & jnp.isfinite(matrix).all()
    return Matching(
        permutations={},
        similarity=reached,
        identity_similarity={},
        iterations=jnp.asarray(num_iterations, jnp.int32),
        converged=converged & finite,
        finite=finite,
        alignments=alignments,
    )


def _uniform(pair: Pair, dtype: jnp.dtype) -> dict[str, Array]:
    """The alignments that mix all of B's neurons alike."""
    shapes_b = pair.spec_b.group_shapes()
    alignments = {}
    for group, (*batch, size_a) in pair.spec.group_shapes().items():
        size_b = shapes_b[group][-1]
        alignments[group] = jnp.full((*batch, size_a, size_b), 1 / size_b, dtype)
    return alignments


class _Plan(NamedTuple):
    alignment: Array  # [n_a, n_b], rows sum to 1
    converged: Array
    finite: Array


class _PlanOptions(NamedTuple):
    """How plans are made; arguments as of `match_soft`."""

    temperature: float | Float[ArrayLike, ""] | None
    threshold: float
    sinkhorn_iterations: int
    backend: AssignmentBackend

    def align(self, matrix: Array) -> _Plan:
        """The alignment for one similarity `[n_a, n_b]`."""
        if self.temperature is None:
            plan = exact_plan(matrix, maximize=True, backend=self.backend)
            yes = jnp.asarray(True)
            return _Plan(len(matrix) * plan, converged=yes, finite=yes)
        centred = matrix - matrix.mean()
        variance = jnp.mean(centred**2)
        # the root has no derivative at 0, where all similarities are equal
        deviation = jnp.sqrt(jnp.where(variance > 0, variance, 1))
        cost = -centred / deviation
        entropic = sinkhorn_plan(
            cost,
            epsilon=self.temperature,
            threshold=self.threshold,
            max_iterations=self.sinkhorn_iterations,
        )
        return _Plan(len(matrix) * entropic.plan, entropic.converged, entropic.finite)
