"""How alike the neurons of two networks are: one similarity matrix per group, rows A, columns B."""

import functools
import math
from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax._powers_of_two import in_unit_range
from lmcjax.matching._real import check_real_leaves
from lmcjax.statistics import (
    ActivationMoments,
    Moments,
    approximate_dimension,
    cross_correlation,
    cross_covariance,
    group_moments,
    over_batch,
    second_moment,
)
from lmcjax.symmetry import (
    Kernel,
    Permutations,
    PermutationSpec,
    Place,
    from_kernel_matrix,
    identity_permutations,
    kernel_matrix,
    named_leaves,
    permute_leaf,
)

Similarity: TypeAlias = Literal["weights", "covariance", "activations", "correlation"]


def check_similarity(
    spec: PermutationSpec, similarity: str, moments: ActivationMoments | None, include_bias: bool
) -> None:
    """Check that the options of a similarity fit together, before anything is computed.

    Raises:
        ValueError: an unknown similarity, moments that it needs and did not get, or a bias where none can enter.
    """
    if similarity not in get_args(Similarity):
        raise ValueError(f"similarity {similarity!r} is not one of {get_args(Similarity)}")
    if similarity != "weights" and moments is None:
        raise ValueError(
            f"similarity={similarity!r} needs moments, and moments is None: "
            f"compute them with activation_moments(apply, spec, params_a, params_b, inputs)"
        )
    if include_bias and similarity != "covariance":
        raise ValueError(f"include_bias extends similarity='covariance' only, not {similarity!r}")


def layer_similarity(
    spec: PermutationSpec,
    group: str,
    params_a: PyTree,
    params_b: PyTree,
    *,
    similarity: Similarity,
    moments: ActivationMoments | None = None,
    permutations: Permutations | None = None,
    kernels: Collection[str] | None = None,
    include_bias: bool = False,
) -> Float[Array, "*batch n n"]:
    """The similarity of the neurons of one group in two networks; rows A, columns B.

    - `"weights"`: `W_A W_B^T`
    - `"covariance"`: `W_A S W_B^T`, S the uncentred second moment of the kernel's inputs in network A
    - `"activations"`: `sum_x (phi_A - mean_A)(phi_B - mean_B)^T / (N - 1)`, of the group's own activations
    - `"correlation"`: the same, standardised

    W has a row per neuron; entries that belong to other outputs (a head's channels) lie side by side in it. Several
    kernels that write the group add up. Arguments as in `match_layerwise`, and

        permutations: of all groups, applied to B first, but for the neurons that are compared. Default: B as it is.
        kernels: static, names of those that count for the first two. Default: all that write the group.

    Source: the paper, Section 6.
    """
    check_similarity(spec, similarity, moments, include_bias)
    check_real_leaves(params_a, params_b)
    spec = spec.bind(params_a)
    if similarity in ("activations", "correlation"):
        assert moments is not None
        return activation_similarity(group_moments(spec, group, params_a, moments, permutations), similarity)
    permutations = identity_permutations(spec) if permutations is None else permutations
    leaves_a, leaves_b = named_leaves(params_a), named_leaves(params_b)
    terms = []
    for kernel, place in writing_kernels(spec, group):
        if kernels is not None and kernel.name not in kernels:
            continue
        aligned = _aligned(spec, place, permutations, leaves_b)
        leaf = jnp.asarray(leaves_a[place.leaf])
        if similarity == "covariance" and kernel.inputs:
            leaf = in_metric(kernel, leaf, input_moments(kernel, leaf, moments))
        terms.append(row_products(place, place, leaf, aligned))
    if include_bias:
        terms.append(_bias_terms(spec, group, leaves_a, leaves_b, permutations, moments))
    return sum(terms[1:], terms[0])


def activation_similarity(moments: Moments, similarity: Similarity) -> Array:
    """`"activations"` or `"correlation"` from the moments of a group's own activations."""
    compare = cross_covariance if similarity == "activations" else cross_correlation
    return over_batch(compare, moments.num_samples.ndim)(moments)


def writing_kernels(spec: PermutationSpec, group: str) -> list[tuple[Kernel, Place]]:
    """The kernels that write a group; where there are none (a learned state, say), all leaves that do."""
    kernels = list(spec.writers(group))
    return kernels or [(Kernel(p.leaf, p.leaf, ()), p) for p in spec.places(group) if p.segment.role != "reads"]


def _aligned(
    spec: PermutationSpec, place: Place, permutations: Permutations, leaves_b: Mapping[str, ArrayLike]
) -> Array:
    """B's leaf with every group in place but the one that is compared."""
    axes = place.others(dict(spec.leaves)[place.leaf])
    return jnp.asarray(permute_leaf(axes, permutations, leaves_b[place.leaf]))


def row_products(place_a: Place, place_b: Place, a: Array, b: Array) -> Array:
    """Of the neurons' rows of two leaves, one of each network: `[*batch, n_a, n_b]`."""
    dtype = accumulation_dtype(a, b)
    rows_a, rows_b = (p.rows(leaf.astype(dtype), range(leaf.ndim)) for p, leaf in ((place_a, a), (place_b, b)))
    return jnp.matmul(rows_a, jnp.swapaxes(rows_b, -1, -2), precision=jax.lax.Precision.HIGHEST)


def input_moments(kernel: Kernel, leaf: ArrayLike, moments: ActivationMoments | None) -> Moments:
    """The moments of what a kernel sees."""
    inputs = {} if moments is None else moments.inputs
    if kernel.name not in inputs:
        raise ValueError(f"there are no moments of the inputs of kernel {kernel.name!r}, only for {sorted(inputs)}")
    fan_in = math.prod(jnp.shape(leaf)[i] for i in kernel.inputs)
    if inputs[kernel.name].mean_a.shape[-1] != fan_in:
        raise ValueError(
            f"kernel {kernel.name!r} has {fan_in} inputs, its moments are of {inputs[kernel.name].mean_a.shape[-1]}"
        )
    return inputs[kernel.name]


def in_metric(kernel: Kernel, leaf: Array, moments: Moments) -> Array:
    """`S W`, laid out like the leaf, S the second moment of the kernel's inputs."""
    dtype = accumulation_dtype(leaf, moments.mean_a)
    matrix = kernel_matrix(kernel, leaf).astype(dtype)
    if moments.centred_aa is None:  # one-hot vectors: S is diagonal
        second = (moments.num_samples / (moments.num_samples - 1))[..., None] * moments.mean_a
        return from_kernel_matrix(kernel, second[..., None].astype(dtype) * matrix, leaf.shape)
    second = over_batch(functools.partial(second_moment, ddof=1), moments.num_samples.ndim)(moments)
    moved = jnp.matmul(second.astype(dtype), matrix, precision=jax.lax.Precision.HIGHEST)
    return from_kernel_matrix(kernel, moved, leaf.shape)


def _bias_terms(
    spec: PermutationSpec,
    group: str,
    leaves_a: Mapping[str, ArrayLike],
    leaves_b: Mapping[str, ArrayLike],
    permutations: Permutations,
    moments: ActivationMoments | None,
) -> Array:
    """What `[W, b] [[S, m], [m^T, c]] [W~, b~]^T` has more than `W S W~^T`, of a dense layer."""
    kernels = list(spec.writers(group))
    names = {kernel.leaf for kernel in spec.kernels}
    biases = [p.leaf for p in spec.places(group) if p.leaf not in names and p.segment.role == "writes"]
    if (len(kernels), len(biases)) != (1, 1) or jnp.ndim(leaves_a[kernels[0][0].leaf]) != 2:
        raise ValueError(
            f"include_bias needs one dense kernel and one bias for group {group!r}, "
            f"not {[kernel.name for kernel, _ in kernels]} and {biases}"
        )
    ((kernel, place),) = kernels
    weights_b = kernel_matrix(kernel, _aligned(spec, place, permutations, leaves_b))
    weights_a = kernel_matrix(kernel, leaves_a[kernel.leaf])
    seen = input_moments(kernel, leaves_a[kernel.leaf], moments)
    scale = seen.num_samples / (seen.num_samples - 1)
    dtype = accumulation_dtype(weights_a, weights_b, seen.mean_a)
    weights_a, weights_b, mean, bias_a, bias_b = (
        jnp.asarray(x, dtype)
        for x in (weights_a, weights_b, scale * seen.mean_a, leaves_a[biases[0]], leaves_b[biases[0]])
    )
    said_a = jnp.matmul(mean, weights_a, precision=jax.lax.Precision.HIGHEST)
    said_b = jnp.matmul(mean, weights_b, precision=jax.lax.Precision.HIGHEST)
    return jnp.outer(said_a, bias_b) + jnp.outer(bias_a, said_b) + scale.astype(dtype) * jnp.outer(bias_a, bias_b)


def approximate_dimensions(
    spec: PermutationSpec,
    params: PyTree,
    *,
    similarity: Similarity,
    moments: ActivationMoments | None = None,
) -> dict[str, Float[Array, "*batch"]]:
    """The approximate dimension of what a matching compares, per group: `(tr M)^2 / tr(M^2)`.

    M is `W^T W` for `"weights"`, `W S W^T` for `"covariance"`, the uncentred second moment of the group's activations
    for `"activations"`: the self-similarity of network A (`W^T W` and `W W^T` have the same dimension).

    Args:
        spec: static.
        params: network A, traced.
        similarity: static, one of those three.
        moments: as for `match_layerwise`, for all but `"weights"`; only A's are used.

    Raises:
        ValueError: an unknown similarity, moments that are needed and missing, or a complex leaf.

    Source: the paper, Section 6 and the right panel of its Figure 2.
    """
    check_similarity(spec, similarity, moments, include_bias=False)
    check_real_leaves(params)
    if similarity == "correlation":
        raise ValueError("similarity='correlation' has no approximate dimension, only weights, covariance, activations")
    spec = spec.bind(params)
    params, _ = in_unit_range(params)  # no unit of the weights is in the result
    dimensions = {}
    for group in spec.groups:
        if similarity == "activations":
            assert moments is not None
            own = group_moments(spec, group, params, moments)
            matrix = over_batch(second_moment, own.num_samples.ndim)(own)
        else:
            matrix = layer_similarity(spec, group, params, params, similarity=similarity, moments=moments)
        matrix, _ = in_unit_range(matrix)  # and its squares stay numbers
        dimensions[group] = over_batch(approximate_dimension, matrix.ndim - 2)(matrix)
    return dimensions
