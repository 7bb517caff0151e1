"""What every matching algorithm returns."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Float, Int

from lmcjax._powers_of_two import in_original_unit
from lmcjax.transport import AssignmentCertificate


class TotalSimilarity(NamedTuple):
    """The similarity of whole networks, where an algorithm has one; `vmap` prepends axes.

    A leaf on which two groups act counts once in it, and in both groups' own similarities.
    """

    reached: Float[Array, ""]
    identity: Float[Array, ""]  # with all of B's neurons in place
    restarts: Float[Array, " restarts"]  # reached by each restart; the best was kept


class Search(NamedTuple):
    """What a search for a small loss has found; `vmap` prepends axes. In the loss's unit."""

    loss: Float[Array, ""]  # at the permutations
    identity_loss: Float[Array, ""]  # with all of B's neurons in place, and the same key
    trace: Float[Array, " num_values"]  # at each step, where the search stood then


class Matching(NamedTuple):
    """One pair of networks, matched, by whichever algorithm; `vmap` prepends axes to every field.

    `permutations[g][i]` is the neuron of B that takes the place of A's neuron `i`. Similarities are
    comparable within one matching, not between kinds of similarity. That of a group is at the
    permutations that every other group has in the end (or had when the group's turn came, where
    every group has one turn).

    `match_layerwise`, `match_coordinate_descent` and `match_frank_wolfe` solve their assignments in
    a unit in which each network's largest weight is about 1, and report in the unit of the weights.
    So the permutations, `finite`, `converged` and `optimal` do not depend on the size of the
    weights. Where a similarity, or a number of a certificate, cannot be written in its dtype, it
    says so: inf (or -inf) is too large, nan is smaller than the smallest normal number, and 0 is
    exactly 0. `finite` speaks of the similarities that were compared: where it is True, such an inf
    or nan means no more.

    `save_matching` and `load_matching` keep one in a file.
    """

    permutations: dict[str, Int[Array, "*batch n"]]  # none from `match_soft`: see `alignments`
    similarity: dict[str, Float[Array, ""]]  # what each group has reached
    identity_similarity: dict[str, Float[Array, ""]]  # with B's neurons in place, where possible
    iterations: Int[Array, ""]  # passes over the groups, or steps of the algorithm
    converged: Bool[Array, ""]
    finite: Bool[Array, ""]  # False: some similarity was nan or inf; identity stands where it was
    certificates: dict[str, AssignmentCertificate] | None = None  # per group, the others' given
    total: TotalSimilarity | None = None  # of matchings of all weights at once
    search: Search | None = None  # of searches for a small loss
    alignments: dict[str, Float[Array, "*batch n_a n_b"]] | None = None  # soft ones; rows sum to 1


def in_unit_of_weights(matching: Matching, exponent: Int[Array, ""]) -> Matching:
    """The matching with similarities and certificates times `2^exponent`, their lost factor."""

    def restore(leaf: Array) -> Array:
        return leaf if leaf.dtype == bool else in_original_unit(leaf, exponent)

    in_products = ("similarity", "identity_similarity", "certificates", "total")
    restored = {}
    for name in in_products:
        restored[name] = jax.tree.map(restore, getattr(matching, name))
    return matching._replace(**restored)
