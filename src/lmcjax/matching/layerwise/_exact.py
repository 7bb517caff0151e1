"""Layer-by-layer matching by exact assignment: the paper's three matchings, and any other."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from lmcjax.matching._assignments import (
    assign,
    certificates,
    check_at_least_one,
    identity_similarity,
    matched_similarity,
)
from lmcjax.matching._matching import Matching, in_unit_of_weights
from lmcjax.matching._pair import Pair, make_pair
from lmcjax.matching._similarity import Similarity, Term, total
from lmcjax.matching.layerwise._terms import GroupTerms
from lmcjax.symmetry import PermutationSpec, identity_permutations
from lmcjax.transport import AssignmentBackend

_ROUNDING = 1e-6  # relative; a pass that raises the summed similarity by less has changed nothing


def match_layerwise(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    *,
    similarity: Similarity,
    backend: AssignmentBackend = "auto",
    max_iterations: int = 50,
    certify: bool = False,
) -> Matching:
    """Match B's neurons to A's one layer after the other, each by one exact linear assignment.

    For each group in the spec's order, with the permutations found so far applied to B, the
    permutation maximises the summed similarity `sum_i M[i, p[i]]`. M is `W_A W_B^T` for
    `Weights()`, `W_A S W_B^T` for `Covariance(moments)`, the cross covariance of the group's
    activations for `Activations(moments)`, their correlation for `Correlation(moments)`, or what a
    similarity of your own says. Only incoming kernels enter the first two: biases and outgoing
    weights do not. Several kernels that write one group add up.

    Where groups depend on each other in a circle (residual streams), the first pass over the groups
    sums for each group only those terms whose other groups are matched already (all terms, if there
    is none such), and further passes sum all of them. No single objective rises from step to step,
    since outgoing weights do not count, and passes could go round for ever. So a pass is kept if it
    raises the similarity summed over all groups, with each in its final place, and the first pass
    that does not is the last. Heads are matched together with their channels: two heads are as
    alike as the best permutation of their channels makes them.

    Jittable and vmappable as a whole. On a CPU each layer is one call to SciPy; in a vmapped batch,
    one for all pairs.

    Args:
        spec: static; groups in the order of the computation.
        params_a: the network that stays, traced.
        params_b: the network whose neurons are reordered, traced, of the same shapes.
        similarity: `Weights()`, `Covariance(moments)`, `Activations(moments)`,
            `Correlation(moments)`, or your own `Similarity`; its moments are traced.
        backend: static, see `linear_assignment`.
        max_iterations: static, passes over the groups; a matching that still improves then is not
            `converged`.
        certify: static; whether the result has a certificate for every group's assignment. Where
            groups depend on each other in a circle, it is asked for the final places of all, in
            which a group may no longer be the best.

    Returns:
        `Matching`, with `permute(spec, matching.permutations, params_b)` lining up with `params_a`.

    Raises:
        ValueError: shapes differ between the networks or do not fit the spec, moments are missing
            or of the wrong size, an unknown backend, fewer than one iteration.

    Source: the paper, Section 6; activation matching after Li et al. (2015).
    """
    return match_pair(
        make_pair(spec, params_a, params_b),
        similarity=similarity,
        backend=backend,
        max_iterations=max_iterations,
        certify=certify,
    )


def match_pair(
    pair: Pair,
    *,
    similarity: Similarity,
    backend: AssignmentBackend = "auto",
    max_iterations: int = 50,
    certify: bool = False,
) -> Matching:
    """`match_layerwise` of a pair, for those who match one pair by several similarities.

    Args:
        pair: what `make_pair` returns; its leaves are traced.
        similarity: as for `match_layerwise`, and so are the others.
        backend: static.
        max_iterations: static.
        certify: static.

    Raises:
        ValueError: moments are missing or of the wrong size, an unknown backend, fewer than one
            iteration.
    """
    check_at_least_one(max_iterations=max_iterations)
    pair, exponent = similarity.unit(pair)
    terms = GroupTerms(pair, similarity)
    start = identity_permutations(pair.spec)
    matching = _one_pass(terms, start, terms.ready(), backend, certify)
    if not terms.settles_in_one_pass():
        matching = _repeat(terms, matching, backend, max_iterations, certify)
    return in_unit_of_weights(matching, exponent)


def _one_pass(
    terms: GroupTerms,
    permutations: dict[str, Array],
    chosen: Mapping[str, Sequence[Term]],
    backend: AssignmentBackend,
    certify: bool,
) -> Matching:
    """Every group matched once, by the chosen terms, each with the others where they are then."""
    permutations = dict(permutations)
    similarity: dict[str, Array] = {}
    identity: dict[str, Array] = {}
    matrices: dict[str, Array] = {}
    finite = jnp.asarray(True)
    for group in terms.spec.groups:
        matrix = terms.similarity(group, permutations, chosen[group], backend)
        permutations[group] = assign(matrix, backend)
        similarity[group] = matched_similarity(matrix, permutations[group]).sum()
        identity[group] = identity_similarity(matrix)
        finite &= jnp.isfinite(matrix).all()
        matrices[group] = matrix
    return Matching(
        permutations,
        similarity,
        identity,
        iterations=jnp.asarray(1, jnp.int32),
        converged=finite,
        finite=finite,
        certificates=certificates(matrices, permutations) if certify else None,
    )


class _Best(NamedTuple):
    """The best pass so far."""

    matching: Matching  # its `iterations` count all passes
    improved: Bool[Array, ""]  # whether the last pass was better than those before


def _repeat(
    terms: GroupTerms,
    first: Matching,
    backend: AssignmentBackend,
    max_iterations: int,
    certify: bool,
) -> Matching:
    """Passes by all terms, from the first one's permutations, until one does not improve."""

    def again(state: _Best) -> Array:
        matching = state.matching
        return state.improved & matching.finite & (matching.iterations < max_iterations)

    def refine(state: _Best) -> _Best:
        best = state.matching
        after = _one_pass(terms, best.permutations, terms.terms, backend, certify=False)
        after = _in_final_places(terms, after, certify)
        before_total = sum(best.similarity.values(), jnp.zeros(()))
        after_total = sum(after.similarity.values(), jnp.zeros(()))
        improved = after_total > before_total + _ROUNDING * jnp.abs(before_total)
        kept = jax.tree.map(lambda new, old: jnp.where(improved, new, old), after, best)
        kept = kept._replace(iterations=best.iterations + 1, finite=best.finite & after.finite)
        return _Best(kept, improved)

    start = _Best(_in_final_places(terms, first, certify), jnp.asarray(True))
    end = jax.lax.while_loop(again, refine, start)
    return end.matching._replace(converged=end.matching.finite & ~end.improved)


def _in_final_places(terms: GroupTerms, matching: Matching, certify: bool) -> Matching:
    """The matching with its similarities by all terms, every other group in its final place."""
    permutations = matching.permutations
    matrices: dict[str, Array] = {}
    similarity: dict[str, Array] = {}
    identity: dict[str, Array] = {}
    for group, all_terms in terms.terms.items():
        matrix = total(all_terms, permutations)
        similarity[group] = matched_similarity(matrix, permutations[group]).sum()
        identity[group] = identity_similarity(matrix)
        matrices[group] = matrix
    return matching._replace(
        similarity=similarity,
        identity_similarity=identity,
        certificates=certificates(matrices, permutations) if certify else None,
    )
