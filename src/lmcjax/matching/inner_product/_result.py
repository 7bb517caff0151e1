"""The account of what permutations reach, as a `Matching`."""

import jax.numpy as jnp
from jaxtyping import Array

from lmcjax.matching._assignments import certificates, identity_similarity, matched_similarity
from lmcjax.matching._matching import Matching, TotalSimilarity
from lmcjax.matching.inner_product._weight_inner_product import WeightInnerProduct
from lmcjax.symmetry import identity_permutations


def make_matching(
    inner_product: WeightInnerProduct,
    permutations: dict[str, Array],
    *,
    iterations: Array,
    converged: Array,
    certify: bool,
    restarts: Array | None = None,
) -> Matching:
    """What permutations reach; the identity instead where something is not finite.

    Args:
        inner_product: of the two networks.
        permutations: found, `[*batch, n]`.
        iterations, converged: of the algorithm.
        certify: static; whether each group's permutation is proven.
        restarts: the inner products that all restarts have reached, `[restarts]`. None: there was
            one, and it has found these permutations.
    """
    matrices, reached = inner_product.similarities(permutations)
    at_identity = inner_product.at_identity()
    finite = jnp.isfinite(reached) & jnp.isfinite(at_identity)
    for matrix in matrices.values():
        finite &= jnp.isfinite(matrix).all()

    identity = identity_permutations(inner_product.spec)
    kept: dict[str, Array] = {}
    similarity: dict[str, Array] = {}
    of_identity: dict[str, Array] = {}
    for group, matrix in matrices.items():
        kept[group] = jnp.where(finite, permutations[group], identity[group])
        similarity[group] = matched_similarity(matrix, kept[group]).sum()
        of_identity[group] = identity_similarity(matrix)

    if restarts is None:
        total = TotalSimilarity(reached, at_identity, reached[None])
    else:
        total = TotalSimilarity(jnp.max(restarts), at_identity, restarts)
    return Matching(
        kept,
        similarity,
        of_identity,
        iterations=iterations,
        converged=converged & finite,
        finite=finite,
        certificates=certificates(matrices, kept) if certify else None,
        total=total,
    )


def without_groups(inner_product: WeightInnerProduct) -> Matching:
    """The matching of networks in which nothing can be permuted."""
    return make_matching(
        inner_product,
        {},
        iterations=jnp.asarray(0, jnp.int32),
        converged=jnp.asarray(True),
        certify=False,
    )
