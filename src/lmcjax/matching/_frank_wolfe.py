"""Weight matching of all groups at once over the Birkhoff polytope, by Frank and Wolfe's algorithm."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Key, PyTree

from lmcjax.matching._assignments import assign, reached, start_at
from lmcjax.matching._matching import Matching, in_unit_of_weights
from lmcjax.matching._polynomial import largest_on_segment, points, through
from lmcjax.matching._weight_objective import (
    WeightObjective,
    degree,
    inner_product,
    scaled_weight_objective,
    soft_inner_product,
)
from lmcjax.matching._weights import descend, describe, describe_nothing
from lmcjax.statistics import ActivationMoments
from lmcjax.symmetry import Permutations, PermutationSpec, as_alignments
from lmcjax.transport import AssignmentBackend

Initial: TypeAlias = Literal["uniform", "identity", "random"]

_BALANCINGS = 20  # of rows and columns; entries in (0, 1) are balanced to rounding in fewer


def match_frank_wolfe(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    *,
    key: Key[Array, ""] | None = None,
    init: Initial | Permutations = "uniform",
    max_iterations: int = 200,
    tolerance: float | Array = 1e-4,
    polish: bool = True,
    metric: ActivationMoments | None = None,
    leaf_weights: Mapping[str, ArrayLike] | None = None,
    backend: AssignmentBackend = "auto",
    certify: bool = True,
) -> Matching:
    """Maximise the inner product `<A, mixed B>` of all weights over doubly stochastic matrices, then round.

    The Birkhoff polytope of each group relaxes its permutations. Every step assigns all groups at once by the gradient
    at the present matrices T (the vertex S with the largest `<gradient, S>`), and goes from T towards S as far as is
    best. Along that segment the inner product is a polynomial whose degree is the largest number of group-carrying
    axes of a leaf (2 for a dense stack, 3 for attention kernels), so that the best step is exact: among the ends and
    the roots of its derivative. It ends where the gap `<gradient, S - T>`, which is 0 at stationary points only, is
    small. Each matrix is then rounded to the permutation nearest to it, by assignment. The relaxation is not concave:
    what is found is a stationary point, not a bound.

    Jittable and vmappable as a whole.

    Args:
        spec: static.
        params_a: the network that stays, traced.
        params_b: the network whose neurons are reordered, traced, of the same shapes.
        key: traced; needed by `init="random"` only.
        init: `"uniform"`: all entries 1/n; `"identity"`; `"random"`: halfway between the uniform matrix and a random
            one, balanced until it is doubly stochastic; these static; or permutations, traced.
        max_iterations: static.
        tolerance: traced; the gap at which iteration ends, relative to the inner product.
        polish: static; whether the rounded permutations are improved by coordinate descent, as of `match_weights`.
            The inner product can only rise by it.
        metric, leaf_weights, backend, certify: as for `match_weights`.

    Returns:
        `Matching`: the inner product in `total_objective`, the steps in `iterations`; `converged` says that the gap
        was met. Certificates as of `match_weights`.

    Raises:
        ValueError: a complex leaf, shapes that differ between the networks or do not fit the spec,
            an unknown start, a random one without a key, fewer than one iteration, an unknown leaf,
            a metric that lacks a kernel.

    Source: Frank and Wolfe (1956); Vogelstein et al. (2015) for one group; Crisostomi et al. (2024), C2M3, for all.
    """
    if isinstance(init, str) and init not in get_args(Initial):
        raise ValueError(f"init {init!r} is not one of {get_args(Initial)}")
    if init == "random" and key is None:
        raise ValueError("init='random' is drawn from a key, and key is None")
    if max_iterations < 1:
        raise ValueError(f"max_iterations is at least 1, not {max_iterations}")
    objective, exponent = scaled_weight_objective(spec, params_a, params_b, metric, leaf_weights)
    if not objective.spec.groups:
        return in_unit_of_weights(describe_nothing(objective), exponent)
    relaxed = _ascend(objective, _start(objective, init, key), max_iterations, tolerance, backend)
    found = {group: assign(matrix, backend) for group, matrix in relaxed.alignments.items()}
    if polish:
        stacked = {group: p[None] for group, p in found.items()}
        descent = descend(objective, stacked, objective.spec.groups, None, backend, max_passes=100)
        found = {group: p[0] for group, p in descent.permutations.items()}
    matching = describe(objective, found, relaxed.iterations, relaxed.converged, certify)
    assert matching.total_objective is not None
    matching = matching._replace(restart_objectives=matching.total_objective[None])
    return in_unit_of_weights(matching, exponent)


class _Ascent(NamedTuple):
    """Where the relaxed problem stands."""

    alignments: dict[str, Array]
    iterations: Array
    converged: Array
    stuck: Array  # no step gains anything, by rounding


def _ascend(
    objective: WeightObjective,
    start: dict[str, Array],
    max_iterations: int,
    tolerance: float | Array,
    backend: AssignmentBackend,
) -> _Ascent:
    axes = dict(objective.spec.leaves)
    coupled = objective.part([name for name in axes if degree(axes[name]) > 1])
    linear = objective.part([name for name in axes if degree(axes[name]) <= 1])
    highest = max((degree(leaf) for leaf in axes.values()), default=0)
    # one group-carrying axis: the gradient is the same everywhere
    base, constant = jax.value_and_grad(_value)(start, linear)
    base = base - _dot(constant, start)

    def step(state: _Ascent) -> _Ascent:
        here = state.alignments
        value, gradient = jax.value_and_grad(_value)(here, coupled)
        gradient = jax.tree.map(jnp.add, gradient, constant)
        value = value + base + _dot(constant, here)
        vertex = {group: assign(matrix, backend) for group, matrix in gradient.items()}
        gap = _add([reached(gradient[g], p).sum() for g, p in vertex.items()]) - _dot(gradient, here)
        there = as_alignments(vertex, value.dtype)
        inside = [_value(_between(here, there, x), objective) for x in points(highest)[1:-1]]
        end = [inner_product(objective, vertex)] if highest > 1 else []
        coefficients = through([value, *inside, *end], gap)
        size = largest_on_segment(coefficients)
        converged = gap <= tolerance * jnp.abs(value)
        moved = _between(here, there, jnp.where(converged, 0, size))
        return _Ascent(moved, state.iterations + (~converged).astype(jnp.int32), converged, ~(size > 0))

    def again(state: _Ascent) -> Array:
        return ~state.converged & ~state.stuck & (state.iterations < max_iterations)

    no = jnp.asarray(False)
    return jax.lax.while_loop(again, step, _Ascent(start, jnp.asarray(0, jnp.int32), no, no))


def _value(alignments: dict[str, Array], objective: WeightObjective) -> Array:
    """The inner product of some leaves."""
    if not objective.leaves_a:
        return jnp.zeros((), jax.tree.leaves(alignments)[0].dtype)
    return soft_inner_product(objective, {group: alignments[group] for group in objective.spec.groups})


def _dot(first: dict[str, Array], second: dict[str, Array]) -> Array:
    return _add([jnp.sum(matrix * second[group]) for group, matrix in first.items()])


def _add(terms: list[Array]) -> Array:
    return sum(terms[1:], terms[0])


def _between(here: dict[str, Array], there: dict[str, Array], step: Array | float) -> dict[str, Array]:
    return {group: (1 - step) * matrix + step * there[group] for group, matrix in here.items()}


def _start(objective: WeightObjective, init: Initial | Permutations, key: Array | None) -> dict[str, Array]:
    """The first matrices, `[*batch, n, n]`."""
    dtype = jax.tree.leaves(objective.leaves_a)[0].dtype
    if init == "identity" or not isinstance(init, str):
        return as_alignments(start_at(objective.spec, None if isinstance(init, str) else init), dtype)
    starts = {}
    for i, (group, shape) in enumerate(objective.spec.group_shapes().items()):
        uniform = jnp.full((*shape, shape[-1]), 1 / shape[-1], dtype)
        starts[group] = uniform
        if init == "random":
            assert key is not None
            drawn = jax.random.uniform(jax.random.fold_in(key, i), uniform.shape, dtype)
            starts[group] = (uniform + _balance(drawn)) / 2
    return starts


def _balance(matrix: Array) -> Array:
    """Rows and columns scaled in turn until both sum to 1 (Sinkhorn and Knopp 1967)."""

    def scale(_: Array, matrix: Array) -> Array:
        matrix = matrix / matrix.sum(-1, keepdims=True)
        return matrix / matrix.sum(-2, keepdims=True)

    return jax.lax.fori_loop(0, _BALANCINGS, scale, matrix)
