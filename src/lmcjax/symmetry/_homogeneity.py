"""Which neurons may be rescaled: units whose nonlinearity is positively homogeneous (ReLU, leaky
ReLU, linear).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax.symmetry._leaves import named_leaves, rebuild
from lmcjax.symmetry._spec import PermutationSpec, Place
from lmcjax.symmetry._verify import perturb

Exponents: TypeAlias = Mapping[tuple[str, int], int]
"""Leaf and axis to the power of the neuron's scale that they carry: 1 for incoming weights, -1 for
outgoing ones.
"""

_PROBES = 8


def homogeneous_groups(
    apply: Callable[[PyTree, Any], Any],
    spec: PermutationSpec,
    params: PyTree,
    x: Any,
    *,
    key: Key[Array, ""] | None = None,
    tolerance: float = 1e-3,
) -> dict[str, Exponents]:
    """The groups whose neurons may each be rescaled by any positive factor, and how.

    With kernels that write a group scaled by `c` and kernels that read it by `1 / c`, the powers of
    biases, norms and depthwise kernels follow from Euler's identity: the network is unchanged to
    first order if `sum_p e_p <w_p, df/dw_p> = 0` for every neuron, p the places where the group
    acts. Then the outputs are compared for factors from 1/30 to 30, which no bounded, clipped or
    smoothly bent unit passes.

    On the host: what it returns is static. Parameters are perturbed first, as `verify` does.

    Args:
        apply: `apply(params, x)` gives the outputs, in any structure of arrays.
        spec: groups with batch axes are left out.
        params: any pytree of arrays that fits the spec.
        x: inputs on which the network's units are all at work.
        key: default: `jax.random.key(0)`.
        tolerance: of the comparison, relative to the largest output.

    Returns:
        Exponents by leaf and axis, per homogeneous group; use them with `rescale`.

    Raises:
        ValueError: the spec does not fit the parameters.

    Source: the scale symmetry of ReLU networks, Neyshabur et al. (2015), Path-SGD.
    """
    key = jax.random.key(0) if key is None else key
    spec = spec.bind(params)
    params = perturb(jax.random.fold_in(key, 0), params)

    @jax.jit
    def outputs(params: PyTree) -> Array:
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(apply(params, x))])

    before = outputs(params)
    probes = jax.random.normal(jax.random.fold_in(key, 1), (_PROBES, before.size), before.dtype)
    gradients = jax.jit(
        lambda params: jax.vmap(lambda probe: jax.vjp(outputs, params)[1](probe)[0])(probes)
    )(params)
    powers = jax.tree.map(lambda leaf, gradient: leaf * gradient, params, gradients)
    found: dict[str, Exponents] = {}
    for i, group in enumerate(spec.groups):
        if any(place.segment.batch_axes for place in spec.places(group)):
            continue
        exponents = _exponents(spec, group, named_leaves(powers))
        size = spec.group_shapes()[group][-1]
        draw = jax.random.uniform(jax.random.fold_in(key, 2 + i), (size,), before.dtype, -1, 1)
        after = outputs(rescale(spec, {group: exponents}, {group: 30**draw}, params))
        if jnp.max(jnp.abs(after - before)) <= tolerance * jnp.max(jnp.abs(before)):
            found[group] = exponents
    return found


def _exponents(
    spec: PermutationSpec, group: str, powers: Mapping[str, Array]
) -> dict[tuple[str, int], int]:
    """The exponents nearest to solving Euler's identity; `powers` hold `w df/dw`, with an axis of
    probes in front.
    """
    known = {
        (place.leaf, place.axis): 1
        for kernel, place in spec.writers(group)
        if kernel.feature_groups == 1
    }
    known |= {(place.leaf, place.axis): -1 for _, place in spec.readers(group)}
    columns: dict[tuple[str, int], np.ndarray] = {}
    for place in spec.places(group):
        rows = jax.vmap(lambda power, place=place: place.rows(power, range(power.ndim)).sum(-1))(
            powers[place.leaf]
        )
        at = (place.leaf, place.axis)
        columns[at] = columns.get(at, 0) + np.asarray(rows, np.float64).ravel()
    free = [at for at in columns if at not in known]
    target = -sum(
        (power * columns[at] for at, power in known.items() if at in columns), np.zeros(1)
    )
    solved = {}
    if free:
        matrix = np.stack([columns[at] for at in free], axis=1)
        scale = np.maximum(np.linalg.norm(matrix, axis=0), np.finfo(float).tiny)
        solution = (
            np.linalg.lstsq(matrix / scale, np.broadcast_to(target, matrix.shape[:1]), rcond=1e-6)[
                0
            ]
            / scale
        )
        solved = {
            at: int(np.rint(np.clip(e, -9, 9)))
            for at, e in zip(free, np.nan_to_num(solution), strict=True)
        }
    return {at: known.get(at, solved.get(at, 0)) for at in columns}


def rescale(
    spec: PermutationSpec,
    exponents: Mapping[str, Exponents],
    factors: Mapping[str, Float[ArrayLike, " n"]],
    params: PyTree,
) -> PyTree:
    """Multiply the neurons of homogeneous groups by positive factors; the network computes the
    same.

    Args:
        spec: static.
        exponents: static; from `homogeneous_groups`.
        factors: per group `[n]`, traced.
        params: any pytree of arrays that fits the spec, traced.

    Raises:
        ValueError: the spec does not fit the parameters, or a group without exponents.
    """
    spec = spec.bind(params)
    leaves = named_leaves(params)
    for group, factor in factors.items():
        if group not in exponents:
            raise ValueError(f"group {group!r} has no exponents, only {sorted(exponents)}")
        for place in spec.places(group):
            leaves[place.leaf] = _scale(
                leaves[place.leaf], place, jnp.asarray(factor), exponents[group]
            )
    return rebuild(params, leaves)


class CanonicalScales(NamedTuple):
    """A network with its homogeneous neurons at scale 1; `vmap` prepends axes to every array."""

    params: PyTree
    factors: dict[str, Float[Array, " n"]]  # of the groups that were rescaled, and of no others


def canonical_scales(
    spec: PermutationSpec, exponents: Mapping[str, Exponents], params: PyTree
) -> CanonicalScales:
    """Give each homogeneous neuron incoming weights of norm 1; its outgoing weights take the
    factor, the outputs stay.

    Group by group in the spec's order, `w_i / ||w_i||` for a neuron's rows of all kernels that
    write it (biases follow but do not count), so that two networks that differ by scales become
    equal, and matchings by weights see directions. A neuron whose incoming weights are all 0 is
    left as it is. Left out are groups whose scale would spoil a norm: those read by a kernel whose
    norms are 1 already, or by their own (residual streams). Jittable, vmappable, differentiable
    where no norm is 0.

    Args:
        spec: static; groups in the order of the computation.
        exponents: static; from `homogeneous_groups`, of the groups to rescale.
        params: any pytree of arrays that fits the spec, traced.

    Returns:
        The rescaled parameters, and by group the factors of the incoming weights: what stands there
            was rescaled.

    Raises:
        ValueError: the spec does not fit the parameters.

    Source: the normal form of ReLU networks, as in Neyshabur et al. (2015), Path-SGD.
    """
    spec = spec.bind(params)
    factors: dict[str, Array] = {}
    settled: set[str] = set()  # leaves whose norms are 1
    for group in (group for group in spec.groups if group in exponents):
        moved = [
            place.leaf for place in spec.places(group) if exponents[group][place.leaf, place.axis]
        ]
        counted = [p for kernel, p in spec.writers(group) if exponents[group][p.leaf, p.axis] == 1]
        own = {place.leaf for place in counted}
        if not counted or settled & {*moved} or any(moved.count(leaf) > 1 for leaf in own):
            continue
        leaves = named_leaves(params)
        norm = _row_norms(
            [p.rows(jnp.asarray(leaves[p.leaf]), range(jnp.ndim(leaves[p.leaf]))) for p in counted]
        )
        factors[group] = 1 / jnp.where(norm == 0, 1, norm)
        params = rescale(spec, exponents, {group: factors[group]}, params)
        settled |= own
    return CanonicalScales(params, factors)


def _row_norms(rows: list[Array]) -> Array:
    """Of matrices `[n, rest]` side by side; nan where a row is."""
    dtype = accumulation_dtype(*rows)
    squared = sum((jnp.sum(row.astype(dtype) ** 2, axis=1) for row in rows), jnp.zeros((), dtype))
    return jnp.where(squared == 0, 0, jnp.sqrt(jnp.where(squared == 0, 1, squared)))


def _scale(leaf: ArrayLike, place: Place, factor: Array, exponents: Exponents) -> Array:
    """One place of one leaf times a power of the factors."""
    leaf = jnp.asarray(leaf)
    power = jnp.power(factor.astype(leaf.dtype), exponents[place.leaf, place.axis])
    repeated = jnp.tile(jnp.repeat(power, place.segment.inner), place.segment.outer)
    shape = [1] * leaf.ndim
    shape[place.axis] = repeated.size
    stop = place.offset + repeated.size
    index = (slice(None),) * place.axis + (slice(place.offset, stop),)
    return leaf.at[index].multiply(repeated.reshape(shape))
