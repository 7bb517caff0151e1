"""Layer-by-layer matching, the paper's three and activation correlation."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from lmcjax._powers_of_two import pair_in_unit_range
from lmcjax.matching._assignments import assign, certificates, host_similarity, reached
from lmcjax.matching._matching import Matching, in_unit_of_weights
from lmcjax.matching._real import check_real_leaves
from lmcjax.matching._similarity import Similarity, check_similarity, layer_similarity, writing_kernels
from lmcjax.statistics import ActivationMoments, activation_sources
from lmcjax.symmetry import PermutationSpec, Place, check_same_shapes, identity_permutations
from lmcjax.transport import AssignmentBackend

_ROUNDING = 1e-6  # relative; a pass that raises the summed similarity by less has changed nothing


def match_layerwise(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    *,
    similarity: Similarity,
    moments: ActivationMoments | None = None,
    include_bias: bool = False,
    backend: AssignmentBackend = "auto",
    max_passes: int = 50,
    certify: bool = False,
) -> Matching:
    """Match B's neurons to A's one layer after the other, each by one exact linear assignment.

    For each group in the spec's order, with the permutations found so far applied to B, the permutation maximises the
    summed similarity `sum_i M[i, p[i]]`. `"weights"`: `M = W_A W_B^T`; `"covariance"`: `W_A S W_B^T` with S the
    uncentred second moment of A's inputs to the layer; `"activations"`: the centred cross moment of the group's
    activations; `"correlation"`: the same of standardised activations. Only incoming kernels enter the first two:
    biases and outgoing weights do not (`include_bias` apart). Several kernels that write one group add up.

    Where groups depend on each other in a circle (residual streams), the first pass sums for each group only those
    kernels whose other groups are matched already (all, if there are none), and further passes sum all of them. No
    single objective rises from step to step, since outgoing weights do not count, and passes can go round for ever: a
    pass is kept if it raises the similarity summed over all groups, with each in its final place, and the first that
    does not is the last. Heads are matched together with their channels: two heads are as alike as the best
    permutation of their channels makes them.

    Jittable and vmappable as a whole. On CPU each layer is one call to SciPy; in a vmapped batch, one for all pairs.

    Args:
        spec: static; groups in the order of the computation.
        params_a: the network that stays, traced.
        params_b: the network whose neurons are reordered, traced, of the same shapes.
        similarity: static.
        moments: what `activation_moments` returns; needed by all but `"weights"`.
        include_bias: static; extends `"covariance"` to `[W, b]` and `[phi, 1]` in dense layers. The paper does not.
        backend: static, see `linear_assignment`.
        max_passes: static; a matching that still improves then is not `converged`.
        certify: static; whether the result has a certificate for every group's assignment. Where groups depend on each
            other in a circle, it is asked for the final places of all, in which a group may no longer be the best.

    Returns:
        `Matching`, with `permute(spec, matching.permutations, params_b)` lining up with `params_a`.

    Raises:
        ValueError: a leaf is complex, shapes differ between the networks or do not fit the spec,
            moments missing or of the wrong size, an unknown option, fewer than one pass.

    Source: the paper, Section 6; activation matching after Li et al. (2015).
    """
    if max_passes < 1:
        raise ValueError(f"max_passes is at least 1, not {max_passes}")
    check_similarity(spec, similarity, moments, include_bias)
    check_same_shapes(params_a, params_b)
    check_real_leaves(params_a, params_b)
    spec = spec.bind(params_a)
    order = first_pass(spec, similarity, moments)
    exponent = jnp.zeros((), jnp.int32)
    if similarity in ("weights", "covariance"):  # the others compare activations
        params_a, params_b, exponent = pair_in_unit_range(params_a, params_b)

    similarities = functools.partial(
        layer_similarity,
        spec,
        params_a=params_a,
        params_b=params_b,
        similarity=similarity,
        moments=moments,
        include_bias=include_bias,
    )

    def compare(group: str, found: dict[str, Array], kernels: tuple[str, ...] | None) -> Array:
        if spec.guests(group):
            return _host_similarity(spec, group, similarities, found, kernels, backend)
        return similarities(group, permutations=found, kernels=kernels)

    def one_pass(permutations: dict[str, Array], first: bool) -> Matching:
        """All groups once; `first`: by the kernels that are ready."""
        found = dict(permutations)
        objective, identity_objective, matrices = {}, {}, {}
        finite = jnp.asarray(True)
        for group in spec.groups:
            matrix = matrices[group] = compare(group, found, order[group] if first else None)
            found[group] = assign(matrix, backend)
            objective[group] = reached(matrix, found[group]).sum()
            identity_objective[group] = jnp.trace(matrix, axis1=-2, axis2=-1).sum()
            finite &= jnp.isfinite(matrix).all()
        passes = jnp.asarray(1, jnp.int32)
        proof = certificates(matrices, found) if certify else None
        return Matching(found, objective, identity_objective, passes, finite, finite, proof)

    matching = one_pass(identity_permutations(spec), first=True)
    if all(kernels is None for kernels in order.values()):
        return in_unit_of_weights(matching, exponent)

    def settle(matching: Matching) -> Matching:
        """Its objectives by all kernels, with every other group in its final place."""
        found = matching.permutations
        matrices = {group: similarities(group, permutations=found) for group in spec.groups}
        return matching._replace(
            objective={group: reached(matrix, found[group]).sum() for group, matrix in matrices.items()},
            identity_objective={g: jnp.trace(m, axis1=-2, axis2=-1).sum() for g, m in matrices.items()},
            certificate=certificates(matrices, found) if certify else None,
        )

    def again(state: tuple[Matching, Bool[Array, ""]]) -> Bool[Array, ""]:
        best, improved = state
        return improved & best.finite & (best.iterations < max_passes)

    def refine(state: tuple[Matching, Bool[Array, ""]]) -> tuple[Matching, Bool[Array, ""]]:
        best, _ = state
        passes = best.iterations + 1
        after = settle(one_pass(best.permutations, first=False))
        totals = [sum(matching.objective.values(), jnp.zeros(())) for matching in (after, best)]
        improved = totals[0] > totals[1] + _ROUNDING * jnp.abs(totals[1])
        kept = jax.tree.map(lambda new, old: jnp.where(improved, new, old), after, best)
        return kept._replace(iterations=passes, finite=best.finite & after.finite), improved

    matching, improved = jax.lax.while_loop(again, refine, (settle(matching), jnp.asarray(True)))
    matching = matching._replace(converged=matching.finite & ~improved)
    return in_unit_of_weights(matching, exponent)


def _host_similarity(
    spec: PermutationSpec,
    host: str,
    similarities: Callable[..., Array],
    permutations: dict[str, Array],
    kernels: tuple[str, ...] | None,
    backend: AssignmentBackend,
) -> Array:
    """`host_similarity`, and the host's own kernels in which none of its guests stands."""
    total = host_similarity(spec, host, similarities, permutations, backend)
    inside_none = {k.name for k, p in writing_kernels(spec, host) if not _beside(spec, p) & {*spec.guests(host)}}
    if plain := tuple(name for name in inside_none if kernels is None or name in kernels):
        total = total + similarities(host, permutations=permutations, kernels=plain)
    return total


def _beside(spec: PermutationSpec, place: Place, among: Sequence[int] | None = None) -> set[str]:
    """The groups that act on the other axes of a leaf, or on the others among some of its axes."""
    axes = dict(spec.leaves)[place.leaf]
    others = (i for i in (range(len(axes)) if among is None else among) if i != place.axis)
    return {segment.group for i in others for segment in axes[i] if segment.group is not None}


def first_pass(
    spec: PermutationSpec, similarity: Similarity, moments: ActivationMoments | None
) -> dict[str, tuple[str, ...] | None]:
    """Per group, the kernels that count in the first pass: those beside whose other groups are matched by then, or all
    if there are none. None: nothing that a later pass would see differently."""
    matched: set[str] = set()
    result: dict[str, tuple[str, ...] | None] = {}
    for group in spec.groups:
        if similarity in ("activations", "correlation"):
            assert moments is not None
            sources = [
                (k, _beside(spec, p, features)) for k, p, features, _ in activation_sources(spec, group, moments)
            ]
        else:
            sources = [(k, _beside(spec, p)) for k, p in writing_kernels(spec, group)]
        beside: dict[str, set[str]] = {}  # kernel to the groups that its comparison depends on
        for kernel, others in sources:
            beside.setdefault(kernel.name, set()).update(others)
        settled = matched | {*spec.guests(group)}  # guests are matched together with their host
        ready = tuple(name for name, others in beside.items() if others <= settled)
        result[group] = None if len(ready) == len(beside) else ready or tuple(beside)
        matched.add(group)
    return result
