"""Steps that the matchings share: the best permutations of a group, what they reach, and heads with
their channels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lmcjax.statistics import over_batch
from lmcjax.symmetry import Permutations, PermutationSpec, check_permutations, identity_permutations
from lmcjax.transport import (
    AssignmentBackend,
    AssignmentCertificate,
    assignment_certificate,
    linear_assignment,
)


def start_at(spec: PermutationSpec, permutations: Permutations | None) -> dict[str, Array]:
    """Where a search starts, checked; None: the identity."""
    if permutations is None:
        return identity_permutations(spec)
    check_permutations(spec, permutations)
    return {group: jnp.asarray(permutations[group], jnp.int32) for group in spec.groups}


def assign(matrix: Array, backend: AssignmentBackend) -> Array:
    """The best permutations, `[*batch, n, n]` to `[*batch, n]`."""
    return over_batch(
        lambda m: linear_assignment(m, maximize=True, backend=backend), matrix.ndim - 2
    )(matrix)


def reached(matrix: Array, permutation: Array) -> Array:
    """The similarity of each neuron to its match, `[*batch, n]`."""
    return jnp.take_along_axis(matrix, permutation[..., None], axis=-1)[..., 0]


def certificates(
    matrices: dict[str, Array], permutations: dict[str, Array]
) -> dict[str, AssignmentCertificate]:
    """Of each group's permutations, `[*batch, n]`, as the best for its matrix, `[*batch, n, n]`."""

    def certify(matrix: Array, permutation: Array) -> AssignmentCertificate:
        return assignment_certificate(matrix, permutation, maximize=True)

    return {
        group: over_batch(certify, m.ndim - 2)(m, permutations[group])
        for group, m in matrices.items()
    }


def host_similarity(
    spec: PermutationSpec,
    host: str,
    similarities: Callable[..., Array],
    permutations: dict[str, Array],
    backend: AssignmentBackend,
) -> Array:
    """How alike the neurons of a group are by the neurons of other groups inside them (heads):
    `[*batch, n, n]`.

    Two heads are as alike as their channels are under the best permutation of these, one assignment
    for each pair. Pairs are reached by shifting all of B's heads by the same number, once for every
    number.
    """
    *batch, size = spec.group_shapes()[host]
    numbers = jnp.arange(size, dtype=jnp.int32)
    shifted = ((numbers[:, None] + numbers) % size).reshape(size, *[1] * len(batch), size)
    shifts = jnp.broadcast_to(shifted, (size, *batch, size))
    total = jnp.zeros(())
    for guest in spec.guests(host):

        def best(shift: Array, guest: str = guest) -> Array:
            """Of each pair at this shift, `[*batch, n]`."""
            matrix = similarities(guest, permutations={**permutations, host: shift})
            score = reached(matrix, assign(matrix, backend)).sum(-1)
            position, inside = next(
                (i, s.batch_axes)
                for i, axis in enumerate(spec.frame(guest))
                for s in axis
                if s.group == host
            )
            others = [i for i in range(score.ndim) if i not in (*inside, position)]
            return jnp.moveaxis(score, (*others, *inside, position), range(score.ndim)).sum(
                tuple(range(len(others)))
            )

        by_shift = jnp.moveaxis(jax.vmap(best)(shifts), 0, -1)  # [*batch, neuron of A, shift]
        shift_of = jnp.broadcast_to((numbers - numbers[:, None]) % size, by_shift.shape)
        total = total.astype(by_shift.dtype) + jnp.take_along_axis(by_shift, shift_of, axis=-1)
    return total
