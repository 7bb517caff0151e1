"""Matching layer by layer, as in Section 6 of the paper."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import PyTree

from lmcjax.matching._matching import Matching
from lmcjax.matching._similarity import Similarity, check_similarity, incoming_leaves, layer_similarity
from lmcjax.statistics import Moments
from lmcjax.symmetry import PermutationSpec, check_same_shapes, identity_permutations, named_leaves, permute_leaf
from lmcjax.transport import AssignmentBackend, linear_assignment


def match_layerwise(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    *,
    similarity: Similarity,
    moments: Mapping[str, Moments] | None = None,
    include_bias: bool = False,
    backend: AssignmentBackend = "auto",
) -> Matching:
    """Match B's neurons to A's one layer after the other, each by one exact linear assignment.

    For each group in the spec's order, with the permutations found so far applied to B, the permutation maximises the
    summed similarity `sum_i M[i, p[i]]`. `"weights"`: `M = W_A W_B^T`; `"covariance"`: `W_A S W_B^T` with S the
    uncentred second moment of A's inputs to the layer; `"activations"`: the centred cross moment of the layer's
    activations; `"correlation"`: the same of standardised activations. Only incoming kernels enter the first two:
    biases and outgoing weights do not (`include_bias` apart).

    Jittable and vmappable as a whole. On CPU each layer is one call to SciPy; in a vmapped batch, one for all pairs.

    Args:
        spec: static; groups in the order of the computation.
        params_a: the network that stays, traced.
        params_b: the network whose neurons are reordered, traced, of the same shapes.
        similarity: static.
        moments: what `activation_moments` returns; needed by all but `"weights"`. By group, and for a kernel that reads
            no group by the kernel's leaf.
        include_bias: static; extends `"covariance"` to `[W, b]` and `[phi, 1]`. The paper does not.
        backend: static, see `linear_assignment`.

    Returns:
        `Matching`, with `permute(spec, matching.permutations, params_b)` lining up with `params_a`.

    Raises:
        ValueError: shapes differ between the networks or do not fit the spec, moments missing or of the wrong size, an
            unknown option, a spec whose groups are not in order.

    Source: the paper, Section 6; activation matching after Li et al. (2015).
    """
    check_similarity(spec, similarity, moments, include_bias)
    check_same_shapes(params_a, params_b)
    spec = spec.bind(params_a)
    axes = dict(spec.leaves)
    leaves_b = named_leaves(params_b)
    permutations = identity_permutations(spec)
    objective, identity_objective = {}, {}
    finite = jnp.asarray(True)
    for group in spec.groups:
        kernels, vectors = incoming_leaves(spec, group)
        aligned = {
            name: permute_leaf(axes[name], permutations, leaves_b[name])
            for name in [*(name for name, _ in kernels), *vectors]
        }
        matrix = layer_similarity(
            spec,
            group,
            params_a,
            {**leaves_b, **aligned},  # a flat dict of leaves is a tree with the same names
            similarity=similarity,
            moments=moments,
            include_bias=include_bias,
        )
        permutations[group] = linear_assignment(matrix, maximize=True, backend=backend)
        objective[group] = jnp.take_along_axis(matrix, permutations[group][:, None], axis=1).sum()
        identity_objective[group] = jnp.trace(matrix)
        finite &= jnp.isfinite(matrix).all()
    one_pass = jnp.asarray(1, jnp.int32)
    return Matching(permutations, objective, identity_objective, one_pass, converged=finite, finite=finite)
