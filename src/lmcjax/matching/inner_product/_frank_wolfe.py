"""Weight matching of all groups at once over the Birkhoff polytope, by Frank and Wolfe."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree

from lmcjax.matching._assignments import assign, check_at_least_one, matched_similarity, start_at
from lmcjax.matching._matching import Matching, in_unit_of_weights
from lmcjax.matching._pair import make_pair
from lmcjax.matching._similarities import Weights
from lmcjax.matching._similarity import Similarity
from lmcjax.matching.inner_product._descent import descend
from lmcjax.matching.inner_product._polynomial import largest_on_segment, points, through
from lmcjax.matching.inner_product._result import make_matching, without_groups
from lmcjax.matching.inner_product._weight_inner_product import (
    WeightInnerProduct,
    compare_weights_in_unit,
    degree,
)
from lmcjax.symmetry import Permutations, PermutationSpec, as_alignments
from lmcjax.transport import AssignmentBackend

Initial: TypeAlias = Literal["uniform", "identity", "random"]

_BALANCINGS = 20  # of rows and columns; entries in (0, 1) are balanced to rounding in fewer
_POLISHING = 100  # passes of coordinate descent at most


def match_frank_wolfe(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    *,
    similarity: Similarity | None = None,
    key: Key[Array, ""] | None = None,
    init: Initial | Permutations = "uniform",
    max_iterations: int = 200,
    tolerance: float | Array = 1e-4,
    polish: bool = True,
    leaf_weights: Mapping[str, ArrayLike] | None = None,
    backend: AssignmentBackend = "auto",
    certify: bool = False,
) -> Matching:
    """Maximise the inner product `<A, mixed B>` of all weights over doubly stochastic matrices.

    The Birkhoff polytope of each group relaxes its permutations. Every step assigns all groups at
    once by the gradient at the present matrices T (the vertex S with the largest `<gradient, S>`),
    and goes from T towards S as far as is best. Along that segment the inner product is a
    polynomial whose degree is the largest number of group-carrying axes of a leaf (2 for a dense
    stack, 3 for attention kernels), so that the best step is exact: among the ends and the roots of
    its derivative. It ends where the gap `<gradient, S - T>`, which is 0 at stationary points only,
    is small. Each matrix is then rounded to the permutation nearest to it, by assignment. The
    relaxation is not concave: what is found is a stationary point, not a bound.

    Jittable and vmappable as a whole.

    Args:
        spec: static.
        params_a: the network that stays, traced.
        params_b: the network whose neurons are reordered, traced, of the same shapes.
        similarity: `Weights()`, or `Covariance(moments)` for its metric, see
            `weight_inner_product`. None: `Weights()`.
        key: traced; needed by `init="random"` only.
        init: `"uniform"`: all entries 1/n; `"identity"`; `"random"`: halfway between the uniform
            matrix and a random one, balanced until it is doubly stochastic; these static. Or
            permutations, traced.
        max_iterations: static.
        tolerance: traced; the gap at which iteration ends, relative to the inner product.
        polish: static; whether the rounded permutations are improved by coordinate descent, as in
            `match_coordinate_descent`. The inner product can only rise by it.
        leaf_weights, backend, certify: as for `match_coordinate_descent`.

    Returns:
        `Matching`, whose `total` is the inner product; `converged` says that the gap was met.
        Certificates as of `match_coordinate_descent`.

    Raises:
        ValueError: shapes that differ between the networks or do not fit the spec, an unknown
            start, a random one without a key, fewer than one iteration, an unknown leaf, a
            similarity without a metric or without a kernel's moments.

    Source: Frank and Wolfe (1956); Vogelstein et al. (2015) for one group; Crisostomi et al.
    (2024), C2M3, for all.
    """
    check_at_least_one(max_iterations=max_iterations)
    if isinstance(init, str) and init not in get_args(Initial):
        raise ValueError(f"init {init!r} is not one of {get_args(Initial)}")
    pair = make_pair(spec, params_a, params_b)
    inner_product, exponent = compare_weights_in_unit(pair, similarity or Weights(), leaf_weights)
    start = _start(pair.spec, inner_product, init, key)
    if not pair.spec.groups:
        return in_unit_of_weights(without_groups(inner_product), exponent)

    ascent = _ascend(inner_product, start, max_iterations, tolerance, backend)
    permutations = {}
    for group, alignment in ascent.alignments.items():
        permutations[group] = assign(alignment, backend)
    if polish:
        permutations = _polish(inner_product, permutations, backend)
    matching = make_matching(
        inner_product,
        permutations,
        iterations=ascent.iterations,
        converged=ascent.converged,
        certify=certify,
    )
    return in_unit_of_weights(matching, exponent)


def _polish(
    inner_product: WeightInnerProduct, permutations: dict[str, Array], backend: AssignmentBackend
) -> dict[str, Array]:
    """Permutations that no single group can better, from these."""
    starts = {group: p[None] for group, p in permutations.items()}
    order = inner_product.spec.groups
    descent = descend(inner_product, starts, order, None, backend, _POLISHING)
    return {group: p[0] for group, p in descent.permutations.items()}


class _Ascent(NamedTuple):
    """Where the relaxed problem stands."""

    alignments: dict[str, Float[Array, "*batch n n"]]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]
    stuck: Bool[Array, ""]  # no step gains anything, by rounding


def _ascend(
    inner_product: WeightInnerProduct,
    start: dict[str, Array],
    max_iterations: int,
    tolerance: float | Array,
    backend: AssignmentBackend,
) -> _Ascent:
    """Steps towards the best vertex, until the gap is small."""
    degrees = {name: degree(axes) for name, axes in inner_product.spec.leaves}
    highest = max(degrees.values(), default=0)
    coupled = inner_product.part([name for name, d in degrees.items() if d > 1])
    linear = inner_product.part([name for name, d in degrees.items() if d <= 1])
    # leaves with one group-carrying axis have the same gradient everywhere
    linear_value, linear_gradient = jax.value_and_grad(_value)(start, linear)
    offset = linear_value - _dot(linear_gradient, start)

    def step(state: _Ascent) -> _Ascent:
        here = state.alignments
        value, gradient = jax.value_and_grad(_value)(here, coupled)
        gradient = jax.tree.map(jnp.add, gradient, linear_gradient)
        value = value + offset + _dot(linear_gradient, here)

        vertex = {group: assign(matrix, backend) for group, matrix in gradient.items()}
        there = as_alignments(vertex, value.dtype)
        at_vertex = [matched_similarity(gradient[g], p).sum() for g, p in vertex.items()]
        gap = _add(at_vertex) - _dot(gradient, here)

        values = [value]
        for t in points(highest)[1:-1]:
            values.append(_value(_between(here, there, t), inner_product))
        if highest > 1:
            values.append(inner_product.at(vertex))
        best = largest_on_segment(through(values, gap))

        converged = gap <= tolerance * jnp.abs(value)
        return _Ascent(
            _between(here, there, jnp.where(converged, 0, best)),
            state.iterations + (~converged).astype(jnp.int32),
            converged,
            stuck=~(best > 0),
        )

    def again(state: _Ascent) -> Array:
        return ~state.converged & ~state.stuck & (state.iterations < max_iterations)

    no = jnp.asarray(False)
    return jax.lax.while_loop(again, step, _Ascent(start, jnp.asarray(0, jnp.int32), no, no))


def _value(alignments: dict[str, Array], inner_product: WeightInnerProduct) -> Array:
    """The inner product of the leaves compared, at matrices of these and perhaps other groups."""
    if not inner_product.leaves_a:
        return jnp.zeros((), jax.tree.leaves(alignments)[0].dtype)
    groups = inner_product.spec.groups
    return inner_product.at_matrices({group: alignments[group] for group in groups})


def _dot(first: dict[str, Array], second: dict[str, Array]) -> Array:
    return _add([jnp.sum(matrix * second[group]) for group, matrix in first.items()])


def _add(terms: Sequence[Array]) -> Array:
    return sum(terms[1:], terms[0])


def _between(here: dict[str, Array], there: dict[str, Array], t: Array | float) -> dict[str, Array]:
    """The matrices at t on the segment from `here` (0) to `there` (1)."""
    return {group: (1 - t) * matrix + t * there[group] for group, matrix in here.items()}


def _start(
    spec: PermutationSpec,
    inner_product: WeightInnerProduct,
    init: Initial | Permutations,
    key: Array | None,
) -> dict[str, Array]:
    """The first matrices, `[*batch, n, n]`.

    Raises:
        ValueError: a random start without a key, permutations that do not fit.
    """
    if init == "random" and key is None:
        raise ValueError("init='random' is drawn from a key, and key is None")
    leaves = jax.tree.leaves(inner_product.leaves_a)
    dtype = leaves[0].dtype if leaves else jnp.float32
    if not isinstance(init, str):
        return as_alignments(start_at(spec, init), dtype)
    if init == "identity":
        return as_alignments(start_at(spec, None), dtype)
    starts = {}
    for i, (group, shape) in enumerate(spec.group_shapes().items()):
        size = shape[-1]
        uniform = jnp.full((*shape, size), 1 / size, dtype)
        starts[group] = uniform
        if key is not None and init == "random":
            drawn = jax.random.uniform(jax.random.fold_in(key, i), uniform.shape, dtype)
            starts[group] = (uniform + _balance(drawn)) / 2
    return starts


def _balance(matrix: Array) -> Array:
    """The matrix with rows and columns scaled in turn until both sum to 1.

    Source: Sinkhorn and Knopp (1967).
    """

    def scale(_: Array, matrix: Array) -> Array:
        matrix = matrix / matrix.sum(-1, keepdims=True)
        return matrix / matrix.sum(-2, keepdims=True)

    return jax.lax.fori_loop(0, _BALANCINGS, scale, matrix)
