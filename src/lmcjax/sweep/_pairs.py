"""What is measured on a pair of networks, as one program."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from lmcjax.batching import network_map
from lmcjax.data import evenly_spaced
from lmcjax.evaluation import (
    BarrierResult,
    LossAndAccuracy,
    batched_loss,
    cross_entropy_and_accuracy,
    linear_barrier,
)
from lmcjax.matching import Similarity, approximate_dimensions, match_layerwise
from lmcjax.models import Network
from lmcjax.statistics import activation_moments
from lmcjax.symmetry import PermutationSpec, drop_padding, identity_permutations, permute


class Compared(NamedTuple):
    """One pair. Matchings: none, then the similarities asked for; splits: train, test."""

    path_loss: Float[Array, "2 matchings num_points"]  # nats
    path_accuracy: Float[Array, "2 matchings num_points"]
    midpoint_loss: Float[Array, "2 matchings"]
    midpoint_accuracy: Float[Array, "2 matchings"]
    barrier: Float[Array, "2 matchings"]
    barrier_over_mean: Float[Array, "2 matchings"]
    finite: Bool[Array, "2 matchings"]
    endpoint_loss: Float[Array, "2 networks"]
    endpoint_accuracy: Float[Array, "2 networks"]
    approximate_dimension: Float[Array, "similarities groups"]  # of A
    similarity_reached: Float[Array, "similarities groups"]
    similarity_of_identity: Float[Array, "similarities groups"]
    converged: Bool[Array, " similarities"]
    permutations: dict[str, Int[Array, "matchings ..."]]  # by group


def compare_pair(
    network: Network,
    spec: PermutationSpec,
    similarities: Sequence[Similarity],
    num_points: int,
    moment_samples: int | None,
    params_a: PyTree,
    params_b: PyTree,
    train: tuple[Array, Array],
    test: tuple[Array, Array],
) -> Compared:
    """Match one pair in every way, and measure the line between A and B, as it is and permuted by
    each.
    """
    moments = None
    if set(similarities) - {"weights"}:
        moments = activation_moments(
            network.apply, spec, params_a, params_b, evenly_spaced(train[0], moment_samples)
        )
    matched = [
        match_layerwise(spec, params_a, params_b, similarity=s, moments=moments)
        for s in similarities
    ]
    dimensions = [
        {g: jnp.asarray(jnp.nan) for g in spec.groups}  # correlations have none
        if s == "correlation"
        else approximate_dimensions(spec, params_a, similarity=s, moments=moments)
        for s in similarities
    ]
    identity = identity_permutations(spec)
    permutations = {
        g: jnp.stack([identity[g], *(m.permutations[g] for m in matched)]) for g in spec.groups
    }

    def along(permutation: dict[str, Array]) -> BarrierResult:
        """Both splits, train before test, under one matching."""
        aligned = permute(spec, permutation, params_b)
        losses = [
            batched_loss(network.apply, cross_entropy_and_accuracy, data) for data in (train, test)
        ]
        results = [
            linear_barrier(loss, params_a, aligned, num_points=num_points) for loss in losses
        ]
        return jax.tree.map(lambda *split: jnp.stack(split), *results)

    barriers = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), jax.lax.map(along, permutations))
    values: LossAndAccuracy = barriers.values

    def by_group(of_each: Sequence[dict[str, Array]]) -> Array:
        rows = [jnp.stack([values[g].mean() for g in spec.groups]) for values in of_each]
        return jnp.stack(rows) if rows else jnp.zeros((0, len(spec.groups)))

    return Compared(
        path_loss=values.loss,
        path_accuracy=values.accuracy,
        midpoint_loss=barriers.midpoint.loss,
        midpoint_accuracy=barriers.midpoint.accuracy,
        barrier=barriers.height,
        barrier_over_mean=barriers.height_over_mean,
        finite=barriers.finite,
        endpoint_loss=values.loss[:, 0, jnp.array([0, -1])],
        endpoint_accuracy=values.accuracy[:, 0, jnp.array([0, -1])],
        approximate_dimension=by_group(dimensions),
        similarity_reached=by_group([m.objective for m in matched]),
        similarity_of_identity=by_group([m.identity_objective for m in matched]),
        converged=jnp.stack([m.converged for m in matched]) if matched else jnp.zeros(0, bool),
        permutations=permutations,
    )


@functools.cache
def compiled_comparison(
    network: Network,
    spec: PermutationSpec,
    wide: PermutationSpec,
    similarities: tuple[Similarity, ...],
    num_points: int,
    moment_samples: int | None,
    devices: tuple[jax.Device, ...],
) -> Callable[..., Compared]:
    """`compare_pair` over pairs of networks in the shape of `wide`, whose padding is dropped first;
    kept, so that the
    same shapes compile once."""

    def compare(
        params_a: PyTree, params_b: PyTree, train: tuple[Array, Array], test: tuple[Array, Array]
    ) -> Compared:
        pair = (params_a, params_b)
        if wide != spec:
            pair = tuple(drop_padding(wide, spec, params) for params in pair)
        return compare_pair(
            network, spec, similarities, num_points, moment_samples, *pair, train, test
        )

    return jax.jit(network_map(compare, in_axes=(0, 0, None, None), devices=devices))
