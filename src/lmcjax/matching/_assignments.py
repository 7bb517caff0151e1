"""Steps that the matchings share: where they start, and the best permutations of a group."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lmcjax.statistics import over_batch
from lmcjax.symmetry import (
    Permutations,
    PermutationSpec,
    check_permutations,
    identity_permutations,
)
from lmcjax.transport import (
    AssignmentBackend,
    AssignmentCertificate,
    assignment_certificate,
    linear_assignment,
)


def check_at_least_one(**counts: int) -> None:
    """Check numbers of iterations and the like.

    Raises:
        ValueError: one is below 1; it is named.
    """
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1, not {value}")


def start_at(spec: PermutationSpec, permutations: Permutations | None) -> dict[str, Array]:
    """The permutations that a search starts from, checked; None: the identity."""
    if permutations is None:
        return identity_permutations(spec)
    check_permutations(spec, permutations)
    return {group: jnp.asarray(permutations[group], jnp.int32) for group in spec.groups}


def assign(matrix: Array, backend: AssignmentBackend) -> Array:
    """The best permutations for similarities `[*batch, n, n]`: `[*batch, n]`."""
    best = functools.partial(linear_assignment, maximize=True, backend=backend)
    return over_batch(best, matrix.ndim - 2)(matrix)


def matched_similarity(matrix: Array, permutation: Array) -> Array:
    """The similarity of each neuron to its match: `[*batch, n, n]` and `[*batch, n]` to that."""
    return jnp.take_along_axis(matrix, permutation[..., None], axis=-1)[..., 0]


def identity_similarity(matrix: Array) -> Array:
    """The summed similarity of neurons that stay in place."""
    return jnp.trace(matrix, axis1=-2, axis2=-1).sum()


def certificates(
    matrices: dict[str, Array], permutations: dict[str, Array]
) -> dict[str, AssignmentCertificate]:
    """Proofs that each group's permutations `[*batch, n]` are the best for `[*batch, n, n]`."""
    certify = functools.partial(assignment_certificate, maximize=True)
    proofs = {}
    for group, matrix in matrices.items():
        proofs[group] = over_batch(certify, matrix.ndim - 2)(matrix, permutations[group])
    return proofs


def similarity_of_hosts(
    spec: PermutationSpec,
    host: str,
    similarity_of_guest: Callable[[str, dict[str, Array]], Array],
    permutations: dict[str, Array],
    backend: AssignmentBackend,
) -> Array:
    """How alike a group's neurons are by the neurons of other groups inside: `[*batch, n, n]`.

    Heads are such hosts, their channels the guests. Two heads are as alike as their channels are
    under the best permutation of these: one assignment for each pair. Pairs are reached by shifting
    all of B's heads by the same number, once for every number.
    """
    *batch, size = spec.group_shapes()[host]
    numbers = jnp.arange(size, dtype=jnp.int32)
    shifted = (numbers[:, None] + numbers) % size  # [shift, neuron of A]: the neuron of B
    shifted = shifted.reshape(size, *[1] * len(batch), size)
    shifts = jnp.broadcast_to(shifted, (size, *batch, size))
    total = jnp.zeros(())
    for guest in spec.guests(host):
        matched = functools.partial(
            _similarity_at_shift, spec, host, guest, similarity_of_guest, permutations, backend
        )
        by_shift = jnp.moveaxis(jax.vmap(matched)(shifts), 0, -1)  # [*batch, neuron of A, shift]
        shift_of = jnp.broadcast_to((numbers - numbers[:, None]) % size, by_shift.shape)
        by_neuron = jnp.take_along_axis(by_shift, shift_of, axis=-1)
        total = total.astype(by_shift.dtype) + by_neuron
    return total


def _similarity_at_shift(
    spec: PermutationSpec,
    host: str,
    guest: str,
    similarity_of_guest: Callable[[str, dict[str, Array]], Array],
    permutations: dict[str, Array],
    backend: AssignmentBackend,
    shift: Array,
) -> Array:
    """How alike each neuron of A is to the one of B that a shift puts beside it, `[*batch, n]`."""
    matrix = similarity_of_guest(guest, {**permutations, host: shift})
    score = matched_similarity(matrix, assign(matrix, backend)).sum(-1)  # one per batch entry
    axis_of_host, batch_of_host = _axes_of_host(spec, host, guest)
    others = [i for i in range(score.ndim) if i not in (*batch_of_host, axis_of_host)]
    ordered = jnp.moveaxis(score, (*others, *batch_of_host, axis_of_host), tuple(range(score.ndim)))
    return ordered.sum(tuple(range(len(others))))


def _axes_of_host(spec: PermutationSpec, host: str, guest: str) -> tuple[int, tuple[int, ...]]:
    """Which of a guest's batch axes the host permutes, and along which it varies itself."""
    along = spec.along(guest)
    batch_of_host = tuple(along.index(name) for name in spec.along(host))
    return along.index(host), batch_of_host
