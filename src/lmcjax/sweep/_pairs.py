"""What is measured on a pair of networks, as one program."""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from lmcjax.batching import network_map
from lmcjax.data import evenly_spaced
from lmcjax.evaluation import (
    BarrierResult,
    LossAndAccuracy,
    barrier_along,
    batched_loss,
    cross_entropy_and_accuracy,
)
from lmcjax.interpolation import straight_line
from lmcjax.matching import (
    SIMILARITIES,
    Matching,
    Pair,
    Similarity,
    SimilarityName,
    dimensions_of_pair,
    make_pair,
    match_pair,
    similarity_from_name,
)
from lmcjax.models import Network
from lmcjax.statistics import bound_activation_moments
from lmcjax.sweep._variables import Label
from lmcjax.symmetry import (
    PermutationSpec,
    drop_padding,
    identity_permutations,
    permute_leaf,
    rebuild,
)


class Compared(NamedTuple):
    """One pair of networks, A and B; `vmap` prepends axes to every field.

    Each field stands once, here: its axes are its dimensions in the results, see `Label`. The
    splits are train and test, the networks A and B. The first matching is none, the others are
    those by each similarity. The layers are the groups of the permutation spec.
    """

    path_loss: Annotated[Float[Array, "split matching t"], Label("nats")]
    path_accuracy: Annotated[Float[Array, "split matching t"], Label("1")]
    midpoint_loss: Annotated[Float[Array, "split matching"], Label("nats", "loss at t = 1/2")]
    midpoint_accuracy: Annotated[Float[Array, "split matching"], Label("1")]
    barrier: Annotated[Float[Array, "split matching"], Label("nats", "max of loss minus chord")]
    barrier_over_mean: Annotated[
        Float[Array, "split matching"],
        Label("nats", "max of loss minus mean of the endpoints' losses"),
    ]
    finite: Annotated[
        Bool[Array, "split matching"], Label(long_name="no loss on the path is nan or inf")
    ]
    endpoint_loss: Annotated[Float[Array, "split network"], Label("nats")]
    endpoint_accuracy: Annotated[Float[Array, "split network"], Label("1")]
    approximate_dimension: Annotated[
        Float[Array, "similarity layer"], Label("1", "(tr M)^2 / tr(M^2) of network A")
    ]
    similarity_reached: Float[Array, "similarity layer"]
    similarity_of_identity: Float[Array, "similarity layer"]
    converged: Bool[Array, " similarity"]
    permutations: dict[str, Int[Array, "matching ..."]]  # by group


def compare_pair(
    network: Network,
    spec: PermutationSpec,
    similarities: Sequence[SimilarityName],
    num_points: int,
    moment_samples: int | None,
    params_a: PyTree,
    params_b: PyTree,
    train: tuple[Array, Array],
    test: tuple[Array, Array],
) -> Compared:
    """Match a pair by each similarity, and measure the line from A to B under each matching.

    Args:
        network: of both, static.
        spec: what may be permuted, static.
        similarities: to match by, static.
        num_points: points on the line, static.
        moment_samples: training samples on which activations are compared; None: all; static.
        params_a: of A, traced.
        params_b: of B, traced.
        train: inputs and labels, traced.
        test: inputs and labels, traced.
    """
    # Checked, bound and named once, for all that follows
    pair = make_pair(spec, params_a, params_b)
    moments = None
    if any(SIMILARITIES[name].needs_moments() for name in similarities):
        samples = evenly_spaced(train[0], moment_samples)
        moments = bound_activation_moments(
            (network.apply, None),
            pair.spec,
            (params_a, params_b),
            (pair.leaves_a, pair.leaves_b),
            samples,
        )
    matchings = []
    dimensions = []
    for name in similarities:
        similarity = similarity_from_name(name, moments)
        matchings.append(match_pair(pair, similarity=similarity))
        dimensions.append(_dimensions(pair, similarity))
    permutations = _stack_permutations(pair.spec, matchings)
    losses = []
    for data in (train, test):
        losses.append(batched_loss(network.apply, cross_entropy_and_accuracy, data))

    def barriers_of(permutations: dict[str, Array]) -> BarrierResult:
        """Both splits, train before test, under one matching."""
        aligned = {}
        for name, axes in pair.spec.leaves:
            aligned[name] = permute_leaf(axes, permutations, pair.leaves_b[name])
        line = straight_line(params_a, rebuild(params_b, aligned))
        barriers = []
        for loss in losses:
            barriers.append(barrier_along(loss, line, num_points=num_points))
        return jax.tree.map(lambda *splits: jnp.stack(splits), *barriers)

    by_matching = jax.lax.map(barriers_of, permutations)
    barriers = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), by_matching)
    values: LossAndAccuracy = barriers.values
    # Permuting changes no network: the ends are the same under every matching
    ends = jnp.array([0, -1])
    return Compared(
        path_loss=values.loss,
        path_accuracy=values.accuracy,
        midpoint_loss=barriers.midpoint.loss,
        midpoint_accuracy=barriers.midpoint.accuracy,
        barrier=barriers.height,
        barrier_over_mean=barriers.height_over_mean,
        finite=barriers.finite,
        endpoint_loss=values.loss[:, 0, ends],
        endpoint_accuracy=values.accuracy[:, 0, ends],
        approximate_dimension=_similarities_by_layers(spec, dimensions),
        similarity_reached=_similarities_by_layers(spec, [m.similarity for m in matchings]),
        similarity_of_identity=_similarities_by_layers(
            spec, [m.identity_similarity for m in matchings]
        ),
        converged=jnp.array([m.converged for m in matchings], bool),
        permutations=permutations,
    )


def _dimensions(pair: Pair, similarity: Similarity) -> dict[str, Array]:
    """The approximate dimension of each group; nan if the similarity has none."""
    if not similarity.has_dimension():
        return {group: jnp.asarray(jnp.nan) for group in pair.spec.groups}
    return dimensions_of_pair(pair, similarity=similarity)


def _stack_permutations(
    spec: PermutationSpec, matchings: Sequence[Matching]
) -> dict[str, Int[Array, "matching ..."]]:
    """The identity, then the permutations of each matching, by group."""
    identity = identity_permutations(spec)
    stacked = {}
    for group in spec.groups:
        found = [matching.permutations[group] for matching in matchings]
        stacked[group] = jnp.stack([identity[group], *found])
    return stacked


def _similarities_by_layers(
    spec: PermutationSpec, values: Sequence[dict[str, Array]]
) -> Float[Array, "similarity layer"]:
    """Values by group, one dict per similarity, as one array; stacked layers are averaged."""
    rows = []
    for by_group in values:
        means = [by_group[group].mean() for group in spec.groups]
        rows.append(jnp.stack(means))
    if not rows:
        return jnp.zeros((0, len(spec.groups)))
    return jnp.stack(rows)


@functools.cache
def compiled_comparison(
    network: Network,
    spec: PermutationSpec,
    wide: PermutationSpec,
    similarities: tuple[SimilarityName, ...],
    num_points: int,
    moment_samples: int | None,
    devices: tuple[jax.Device, ...],
) -> Callable[..., Compared]:
    """Compile `compare_pair` over pairs of networks in the shape of `wide`.

    Their padding is dropped first. What is compiled is kept: the same shapes compile once.
    """

    def compare(
        params_a: PyTree, params_b: PyTree, train: tuple[Array, Array], test: tuple[Array, Array]
    ) -> Compared:
        if wide != spec:
            params_a = drop_padding(wide, spec, params_a)
            params_b = drop_padding(wide, spec, params_b)
        return compare_pair(
            network,
            spec,
            similarities,
            num_points,
            moment_samples,
            params_a,
            params_b,
            train,
            test,
        )

    return jax.jit(network_map(compare, in_axes=(0, 0, None, None), devices=devices))
