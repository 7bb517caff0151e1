"""How alike the neurons of two networks are: one similarity matrix per group, rows A, columns B."""

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax.statistics import Moments, approximate_dimension, cross_correlation, cross_covariance, second_moment
from lmcjax.symmetry import PermutationSpec, named_leaves

Similarity: TypeAlias = Literal["weights", "covariance", "activations", "correlation"]


def check_similarity(
    spec: PermutationSpec, similarity: str, moments: Mapping[str, Moments] | None, include_bias: bool
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
            f"compute them with activation_moments(taps, params_a, params_b, inputs)"
        )
    if include_bias and similarity != "covariance":
        raise ValueError(f"include_bias extends similarity='covariance' only, not {similarity!r}")
    for group in spec.groups:
        if any(segment.batch_axes for _, _, segment in spec.segments(group)):
            raise ValueError(f"group {group!r} has batch axes, which layer-by-layer matching cannot follow yet")


def incoming_leaves(spec: PermutationSpec, group: str) -> tuple[list[tuple[str, int]], list[str]]:
    """The leaves that write a group: kernels as `(leaf name, axis written)`, and vectors (biases, scales) by name.

    Raises:
        ValueError: a kernel writes the group through blocks or next to another group on the same axis, or reads a group
            that only comes later.
    """
    axes = dict(spec.leaves)
    kernels, vectors = [], []
    for name, axis, segment in spec.segments(group):
        if segment.role == "reads":
            continue
        if len(axes[name]) == 1:
            vectors.append(name)
            continue
        if len(axes[name][axis]) > 1 or segment.outer * segment.inner > 1:
            raise ValueError(
                f"leaf {name!r} writes group {group!r} through {axes[name][axis]}, expected one plain segment"
            )
        others = {s.group for other in axes[name] for s in other if s.group not in (None, group)}
        if later := [g for g in others if g and spec.groups.index(g) > spec.groups.index(group)]:
            raise ValueError(
                f"leaf {name!r} writes group {group!r} and depends on {later}, which comes later in {spec.groups}: "
                "list the leaves of the spec in the order of the computation"
            )
        kernels.append((name, axis))
    if not kernels:
        raise ValueError(f"no kernel writes group {group!r}, only {vectors}: there are no incoming weights to compare")
    return kernels, vectors


def _rows(leaf: ArrayLike, axis: int) -> Array:
    """The incoming weights of each neuron: `[n, rest]`."""
    leaf = jnp.asarray(leaf, accumulation_dtype(leaf))
    return jnp.moveaxis(leaf, axis, 0).reshape(leaf.shape[axis], -1)


def _moments_at(moments: Mapping[str, Moments], name: str) -> Moments:
    if name not in moments:
        raise ValueError(f"there are no moments for {name!r}, only for {sorted(moments)}")
    return moments[name]


def _own(spec: PermutationSpec, group: str, moments: Mapping[str, Moments]) -> Moments:
    """The moments of a group's own activations."""
    found, size = _moments_at(moments, group), spec.group_shapes()[group][-1]
    if found.centred_ab.shape != (size, size):
        raise ValueError(f"group {group!r} has {size} neurons, its moments are {found.centred_ab.shape}")
    return found


def _input_moments(spec: PermutationSpec, kernel: str, moments: Mapping[str, Moments]) -> Moments:
    """What a kernel sees: moments under its own name, else those of the group that it reads."""
    if kernel in moments:
        return moments[kernel]
    read = [s.group for axis in dict(spec.leaves)[kernel] for s in axis if s.group and s.role != "writes"]
    return _moments_at(moments, read[0] if read else kernel)


def _metric(moments: Moments, include_bias: bool) -> Array:
    """The second moment of a kernel's inputs, with a constant input 1 appended for the bias."""
    metric = second_moment(moments, ddof=1)
    if not include_bias:
        return metric
    scale = moments.num_samples / (moments.num_samples - 1)
    mean = scale * moments.mean_a
    return jnp.block([[metric, mean[:, None]], [mean[None, :], scale]])


def layer_similarity(
    spec: PermutationSpec,
    group: str,
    params_a: PyTree,
    params_b: PyTree,
    *,
    similarity: Similarity,
    moments: Mapping[str, Moments] | None = None,
    include_bias: bool = False,
) -> Float[Array, "n n"]:
    """The similarity of the neurons of one group in two networks; rows A, columns B.

    - `"weights"`: `W_A W_B^T`
    - `"covariance"`: `W_A S W_B^T`, S the uncentred second moment of the kernel's inputs in network A
    - `"activations"`: `sum_x (phi_A - mean_A)(phi_B - mean_B)^T / (N - 1)`, of the group's own activations
    - `"correlation"`: the same, standardised

    Several kernels that write the group add up. Arguments as in `match_layerwise`; the groups that B's kernels read are
    expected to be aligned already.

    Source: the paper, Section 6.
    """
    check_similarity(spec, similarity, moments, include_bias)
    spec, moments = spec.bind(params_a), moments or {}
    if similarity in ("activations", "correlation"):
        return (cross_covariance if similarity == "activations" else cross_correlation)(_own(spec, group, moments))
    leaves_a, leaves_b = named_leaves(params_a), named_leaves(params_b)
    kernels, vectors = incoming_leaves(spec, group)
    if include_bias and (len(kernels), len(vectors)) != (1, 1):
        raise ValueError(f"include_bias needs one kernel and one bias for group {group!r}, not {kernels} and {vectors}")
    terms = []
    for name, axis in kernels:
        rows_a, rows_b = _rows(leaves_a[name], axis), _rows(leaves_b[name], axis)
        if include_bias:
            rows_a = jnp.column_stack([rows_a, jnp.asarray(leaves_a[vectors[0]], rows_a.dtype)])
            rows_b = jnp.column_stack([rows_b, jnp.asarray(leaves_b[vectors[0]], rows_b.dtype)])
        if similarity == "covariance":
            metric = _metric(_input_moments(spec, name, moments), include_bias)
            if metric.shape[0] != rows_a.shape[1]:
                raise ValueError(
                    f"kernel {name!r} has {rows_a.shape[1]} inputs, the moments of its inputs are {metric.shape}"
                )
            dtype = accumulation_dtype(rows_a, rows_b, metric)
            rows_a, rows_b, metric = (x.astype(dtype) for x in (rows_a, rows_b, metric))
            rows_a = jnp.matmul(rows_a, metric, precision=jax.lax.Precision.HIGHEST)
        terms.append(jnp.matmul(rows_a, rows_b.T, precision=jax.lax.Precision.HIGHEST))
    return sum(terms[1:], terms[0])


def approximate_dimensions(
    spec: PermutationSpec,
    params: PyTree,
    *,
    similarity: Similarity,
    moments: Mapping[str, Moments] | None = None,
) -> dict[str, Float[Array, ""]]:
    """The approximate dimension of what a matching compares, per group: `(tr M)^2 / tr(M^2)`.

    M is `W^T W` for `"weights"`, `W S W^T` for `"covariance"`, the uncentred second moment of the group's activations
    for `"activations"`: the self-similarity of network A (`W^T W` and `W W^T` have the same dimension).

    Args:
        spec: static.
        params: network A, traced.
        similarity: static, one of those three.
        moments: as for `match_layerwise`, for all but `"weights"`; only A's are used.

    Raises:
        ValueError: an unknown similarity, or moments that are needed and missing.

    Source: the paper, Section 6 and the right panel of its Figure 2.
    """
    check_similarity(spec, similarity, moments, include_bias=False)
    if similarity == "correlation":
        raise ValueError("similarity='correlation' has no approximate dimension, only weights, covariance, activations")
    if similarity == "activations":
        spec = spec.bind(params)
        return {g: approximate_dimension(second_moment(_own(spec, g, moments or {}))) for g in spec.groups}
    return {
        g: approximate_dimension(layer_similarity(spec, g, params, params, similarity=similarity, moments=moments))
        for g in spec.groups
    }
