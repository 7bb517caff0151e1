"""The approximate dimension of what a matching compares."""

from jaxtyping import Array, Float, PyTree

from lmcjax._powers_of_two import in_unit_range
from lmcjax.matching._pair import Pair, make_pair
from lmcjax.matching._similarity import Similarity
from lmcjax.statistics import approximate_dimension, over_batch
from lmcjax.symmetry import PermutationSpec


def approximate_dimensions(
    spec: PermutationSpec, params: PyTree, *, similarity: Similarity
) -> dict[str, Float[Array, "*batch"]]:
    """The approximate dimension of what a matching compares, per group: `(tr M)^2 / tr(M^2)`.

    M is the self-similarity of network A: `W W^T` for `Weights()`, `W S W^T` for `Covariance`, the
    uncentred second moment of the group's activations for `Activations`. (`W^T W` and `W W^T` have
    the same dimension.)

    Args:
        spec: static.
        params: network A, traced.
        similarity: one of those three, or your own that has a `self_similarity`; only A's moments
            are used.

    Raises:
        ValueError: the similarity has no approximate dimension, or lacks moments.

    Source: the paper, Section 6 and the right panel of its Figure 2.
    """
    return dimensions_of_pair(make_pair(spec, params, params), similarity=similarity)


def dimensions_of_pair(pair: Pair, *, similarity: Similarity) -> dict[str, Float[Array, "*batch"]]:
    """`approximate_dimensions` of the network A of a pair that `make_pair` has made.

    Raises:
        ValueError: the similarity has no approximate dimension, or lacks moments.
    """
    pair, _ = similarity.unit(pair.of_a_with_itself())  # no unit is left in the result
    dimensions: dict[str, Array] = {}
    for group in pair.spec.groups:
        matrix = similarity.self_similarity(pair, group)
        matrix, _ = in_unit_range(matrix)  # its squares stay numbers
        dimensions[group] = over_batch(approximate_dimension, matrix.ndim - 2)(matrix)
    return dimensions
