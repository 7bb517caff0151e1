"""One transport plan per layer, for networks of different widths."""

import functools
from collections.abc import Collection, Mapping

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from lmcjax._checks import check_positive
from lmcjax.matching._layerwise import first_pass
from lmcjax.matching._matching import Matching
from lmcjax.matching._real import check_real_leaves
from lmcjax.matching._searched import parameter_dtype
from lmcjax.matching._similarity import (
    Similarity,
    activation_similarity,
    check_similarity,
    in_metric,
    input_moments,
    row_products,
    writing_kernels,
)
from lmcjax.statistics import ActivationMoments, group_moments, over_batch
from lmcjax.symmetry import PermutationSpec, mix_leaf, named_leaves
from lmcjax.transport import AssignmentBackend, exact_plan, sinkhorn_plan


def match_soft(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    *,
    similarity: Similarity,
    moments: ActivationMoments | None = None,
    temperature: float | Float[ArrayLike, ""] | None = None,
    num_passes: int = 1,
    threshold: float = 1e-4,
    max_iterations: int = 2000,
    backend: AssignmentBackend = "auto",
) -> Matching:
    """Transport B's neurons to A's one layer after the other; the networks may differ in width.

    For each group in the spec's order, with the alignments found so far applied to B, `T = n_a
    argmax_P <P, M>` over plans with uniform margins, M the similarity as `match_layerwise` has it.
    With such margins that is the plan of the least squared distance of the rows, too.
    `apply_soft(spec, T, params_b)` has A's shapes; where B's width divides A's and the plan is
    exact, it computes what B does.

    Where groups depend on each other in a circle, the first pass counts for each group the kernels
    whose other groups are aligned already (all if there are none, with uniform alignments), further
    passes count all.

    Jittable and vmappable; with a temperature differentiable in both networks, the moments and the
    temperature.

    Args:
        spec: static; of either network, or not bound.
        params_a: the network that stays, traced.
        params_b: the network whose neurons are mixed, traced; the same leaves, groups of any sizes.
        similarity: static.
        moments: as for `match_layerwise`. Covariance reads A's only, so `activation_moments(apply,
            spec, params_a, params_a, inputs)` will do; the others compare both networks'
            activations, and where these differ in width, ask for `activation_moments(apply_a, spec,
            params_a, params_b, inputs, apply_b=apply_b)`.
        temperature: of the entropic plan, traced, above 0, in standard deviations of the
            similarity. None: the exact plan. A traced one that is not above 0 gives alignments of
            nan.
        num_passes: static, at least 1.
        threshold, max_iterations: static, of the entropic plan, see `sinkhorn_plan`.
        backend: static, of the exact one.

    Returns:
        `Matching` with `alignments` for `apply_soft` and no permutations; columns sum to n_a / n_b.
        The objective of a group is the sum of its alignment times the similarity, when the group
        was matched. `converged`: in the last pass all plans were exact or met their margins to the
        threshold.

    Raises:
        ValueError: a leaf is complex, parameters do not fit the spec, moments missing or of the
            wrong size, fewer than one pass, groups inside groups (channels of heads), an exact plan
            between sizes with a large common multiple, a known temperature that is not above 0.

    Source: Singh and Jaggi (2020), Model Fusion via Optimal Transport, Section 4.
    """
    if num_passes < 1:
        raise ValueError(f"num_passes is at least 1, not {num_passes}")
    if temperature is not None:
        check_positive("temperature", temperature)
    check_similarity(spec, similarity, moments, include_bias=False)
    check_real_leaves(params_a, params_b)
    spec = PermutationSpec(spec.leaves, kernels=spec.kernels)
    spec_a, spec_b = spec.bind(params_a), spec.bind(params_b)
    if hosts := [group for group in spec.groups if spec.guests(group)]:
        raise ValueError(f"group {hosts[0]!r} has neurons of {spec.guests(hosts[0])} inside, which have no soft match")
    shapes = {g: (*batch, n_a, spec_b.group_shapes()[g][-1]) for g, (*batch, n_a) in spec_a.group_shapes().items()}
    dtype = parameter_dtype(params_a, params_b)
    found = {group: jnp.full(shape, 1 / shape[-1], dtype) for group, shape in shapes.items()}
    solve = functools.partial(
        _align, temperature=temperature, threshold=threshold, max_iterations=max_iterations, backend=backend
    )
    order = first_pass(spec_a, similarity, moments)
    objective: dict[str, Array] = {}
    converged = finite = jnp.asarray(True)
    for number in range(num_passes):
        converged = jnp.asarray(True)
        for group in spec.groups:
            if similarity in ("activations", "correlation"):
                assert moments is not None
                own = group_moments(spec_a, group, params_a, moments, params_b=params_b)
                matrix = activation_similarity(own, similarity)
            else:
                kernels = order[group] if number == 0 else None
                matrix = _by_weights(spec_a, spec_b, group, params_a, params_b, found, moments, similarity, kernels)
            found[group], met, clean = over_batch(solve, matrix.ndim - 2)(matrix)
            objective[group] = (found[group] * matrix).sum()
            converged = converged & met.all()
            finite = finite & clean.all() & jnp.isfinite(matrix).all()
    passes = jnp.asarray(num_passes, jnp.int32)
    return Matching({}, objective, {}, passes, converged & finite, finite, alignments=found)


def _align(
    matrix: Array,
    *,
    temperature: float | Float[ArrayLike, ""] | None,
    threshold: float,
    max_iterations: int,
    backend: AssignmentBackend,
) -> tuple[Array, Array, Array]:
    """The alignment for one similarity `[n_a, n_b]`, whether it converged, and whether it is
    finite.
    """
    if temperature is None:
        exact = exact_plan(matrix, maximize=True, backend=backend)
        return len(matrix) * exact, jnp.asarray(True), jnp.asarray(True)
    centred = matrix - matrix.mean()
    variance = jnp.mean(centred**2)
    unit = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 1)
    plan = sinkhorn_plan(-centred / unit, epsilon=temperature, threshold=threshold, max_iterations=max_iterations)
    return len(matrix) * plan.plan, plan.converged, plan.finite


def _by_weights(
    spec_a: PermutationSpec,
    spec_b: PermutationSpec,
    group: str,
    params_a: PyTree,
    params_b: PyTree,
    alignments: Mapping[str, Array],
    moments: ActivationMoments | None,
    similarity: Similarity,
    kernels: Collection[str] | None,
) -> Array:
    """`W_A W_B^T` or `W_A S W_B^T` with the other groups' alignments applied to B: `[*batch, n_a,
    n_b]`.
    """
    leaves_a, leaves_b, axes = named_leaves(params_a), named_leaves(params_b), dict(spec_a.leaves)
    terms = []
    for (kernel, place_a), (_, place_b) in zip(
        writing_kernels(spec_a, group), writing_kernels(spec_b, group), strict=True
    ):
        if kernels is not None and kernel.name not in kernels:
            continue
        a = jnp.asarray(leaves_a[kernel.leaf])
        b = jnp.asarray(mix_leaf(place_a.others(axes[kernel.leaf]), alignments, leaves_b[kernel.leaf]))
        if similarity == "covariance" and kernel.inputs:
            a = in_metric(kernel, a, input_moments(kernel, a, moments))
        terms.append(row_products(place_a, place_b, a, b))
    return sum(terms[1:], terms[0])
