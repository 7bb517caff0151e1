"""Rescaling neurons whose nonlinearity is positively homogeneous: ReLU, leaky ReLU, linear."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax.symmetry._leaves import named_leaves, rebuild
from lmcjax.symmetry._parts import Part, Place, pack
from lmcjax.symmetry._spec import PermutationSpec
from lmcjax.symmetry._verify import perturb

Exponents: TypeAlias = Mapping[tuple[str, int], int]
"""Powers by part and axis of the leaf.

Scaling a neuron by `c` multiplies its entries there by `c^power`.

The power is 1 for incoming weights and -1 for outgoing ones.
"""

_NUM_PROBES = 8
# Where Euler's identity has no solution, the nearest one may be of any size: it is cut off here.
_LARGEST_EXPONENT = 9
_LARGEST_FACTOR = 30  # the smallest is 1 / 30


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
        Exponents by part and axis, per homogeneous group; use them with `rescale`.

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
    largest_output = jnp.max(jnp.abs(before))
    euler_products = _euler_products(outputs, params, before, jax.random.fold_in(key, 1))
    homogeneous: dict[str, Exponents] = {}
    for i, group in enumerate(spec.groups):
        if spec.along(group):
            continue
        exponents = _solve_exponents(spec, group, euler_products)
        size = spec.group_shapes()[group][-1]
        group_key = jax.random.fold_in(key, 2 + i)
        logarithms = jax.random.uniform(group_key, (size,), before.dtype, -1, 1)
        factors = _LARGEST_FACTOR**logarithms
        after = outputs(rescale(spec, {group: exponents}, {group: factors}, params))
        if jnp.max(jnp.abs(after - before)) <= tolerance * largest_output:
            homogeneous[group] = exponents
    return homogeneous


def _euler_products(
    outputs: Callable[[PyTree], Array], params: PyTree, before: Array, key: Key[Array, ""]
) -> dict[str, Array]:
    """The products `w df/dw` per leaf, `[probe, *shape]`, for random combinations f of outputs.

    Args:
        outputs: all outputs of the network in one vector, as a function of its parameters.
        params: the parameters w.
        before: the outputs at `params`.
        key: of the combinations.
    """
    probes = jax.random.normal(key, (_NUM_PROBES, before.size), before.dtype)

    @jax.jit
    def gradients(params: PyTree) -> PyTree:
        _, pull_back = jax.vjp(outputs, params)

        def gradient(probe: Array) -> PyTree:
            return pull_back(probe)[0]

        return jax.vmap(gradient)(probes)

    products = jax.tree.map(lambda leaf, gradient: leaf * gradient, params, gradients(params))
    return named_leaves(products)


def _solve_exponents(
    spec: PermutationSpec, group: str, euler_products: Mapping[str, Array]
) -> dict[tuple[str, int], int]:
    """The exponents of a group that come nearest to solving Euler's identity.

    Those of kernels are known. Those of the other leaves are the rounded least squares solution of
    `sum_p e_p terms_p = 0`, with one equation per neuron and probe.
    """
    terms = _euler_terms(spec, group, euler_products)
    known = _kernel_exponents(spec, group)
    known_sum = np.zeros(1)
    for at, exponent in known.items():
        if at in terms:
            known_sum = known_sum + exponent * terms[at]

    exponents = {at: known.get(at, 0) for at in terms}
    unknown = [at for at in terms if at not in known]
    if unknown:
        matrix = np.stack([terms[at] for at in unknown], axis=1)
        solution = _least_squares(matrix, np.broadcast_to(-known_sum, matrix.shape[:1]))
        for at, exponent in zip(unknown, solution, strict=True):
            exponents[at] = int(np.rint(np.clip(exponent, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)))
    return exponents


def _kernel_exponents(spec: PermutationSpec, group: str) -> dict[tuple[str, int], int]:
    """The exponents that are chosen: 1 where a kernel writes the group, -1 where one reads it."""
    exponents: dict[tuple[str, int], int] = {}
    for kernel, place in spec.writers(group):
        # A depthwise kernel may also read the neurons that it writes: its exponent is to be found.
        if kernel.feature_groups == 1:
            exponents[place.key] = 1
    for _, place in spec.readers(group):
        exponents[place.key] = -1
    return exponents


def _euler_terms(
    spec: PermutationSpec, group: str, euler_products: Mapping[str, Array]
) -> dict[tuple[str, int], np.ndarray]:
    """Euler's `<w_p, df/dw_p>` by leaf and axis p: one number per probe and neuron of the group."""
    terms: dict[tuple[str, int], np.ndarray] = {}
    for place in spec.places(group):

        def sum_per_neuron(products: Array, place: Place = place) -> Array:
            return place.rows(products).sum(-1)

        sums = jax.vmap(sum_per_neuron)(euler_products[place.leaf])
        # a group may stand twice on an axis
        earlier = terms.get(place.key, 0)
        terms[place.key] = earlier + np.asarray(sums, np.float64).ravel()
    return terms


def _least_squares(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Solve for numbers of the order of 1, with columns of any size; 0 in place of nan."""
    column_norms = np.linalg.norm(matrix, axis=0)
    scale = np.maximum(column_norms, np.finfo(float).tiny)  # a leaf may have no influence at all
    scaled_solution, *_ = np.linalg.lstsq(matrix / scale, target, rcond=1e-6)
    return np.nan_to_num(scaled_solution / scale)


def rescale(
    spec: PermutationSpec,
    exponents: Mapping[str, Exponents],
    factors: Mapping[str, Float[ArrayLike, " n"]],
    params: PyTree,
) -> PyTree:
    """Multiply the neurons of homogeneous groups by positive factors, keeping the function.

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
            exponent = exponents[group][place.key]
            parts = spec.parts[place.leaf]
            leaf = jnp.asarray(leaves[place.leaf])
            leaves[place.leaf] = _scale(leaf, parts, place, jnp.asarray(factor), exponent)
    return rebuild(params, leaves)


class CanonicalScales(NamedTuple):
    """A network with its homogeneous neurons at scale 1; `vmap` prepends axes to every array."""

    params: PyTree
    factors: dict[str, Float[Array, " n"]]  # of the groups that were rescaled, and of no others


def canonical_scales(
    spec: PermutationSpec, exponents: Mapping[str, Exponents], params: PyTree
) -> CanonicalScales:
    """Rescale each homogeneous neuron so that its incoming weights have norm 1.

    Its outgoing weights take the factor, so the outputs stay. Group by group in the spec's order,
    `w_i / ||w_i||` for a neuron's rows of all kernels that write it (biases follow but do not
    count). Two networks that differ by scales become equal, and matchings by weights see
    directions. A neuron whose incoming weights are all 0 is left as it is. Left out are groups
    whose scale would spoil a norm: those read by a kernel whose norms are 1 already, or by their
    own (residual streams). Jittable, vmappable, differentiable where no norm is 0.

    Args:
        spec: static; groups in the order of the computation.
        exponents: static; from `homogeneous_groups`, of the groups to rescale.
        params: any pytree of arrays that fits the spec, traced.

    Returns:
        The rescaled parameters, and the factors of the incoming weights, of the rescaled groups
            alone.

    Raises:
        ValueError: the spec does not fit the parameters.

    Source: the normal form of ReLU networks, as in Neyshabur et al. (2015), Path-SGD.
    """
    spec = spec.bind(params)
    factors: dict[str, Array] = {}
    normalised: set[str] = set()  # leaves whose norms are 1
    for group in spec.groups:
        if group not in exponents:
            continue
        incoming = _incoming_places(spec, group, exponents[group])
        own_leaves = {place.leaf for place in incoming}
        changed_leaves = _changed_leaves(spec, group, exponents[group])
        spoils_a_norm = not normalised.isdisjoint(changed_leaves)
        reads_itself = any(changed_leaves.count(leaf) > 1 for leaf in own_leaves)
        if not incoming or spoils_a_norm or reads_itself:
            continue
        norms = _incoming_norms(incoming, params)
        factors[group] = 1 / jnp.where(norms == 0, 1, norms)
        params = rescale(spec, exponents, {group: factors[group]}, params)
        normalised |= own_leaves
    return CanonicalScales(params, factors)


def _incoming_places(spec: PermutationSpec, group: str, exponents: Exponents) -> list[Place]:
    """Where kernels write the group in proportion to its scale."""
    places = []
    for _, place in spec.writers(group):
        if exponents[place.key] == 1:
            places.append(place)
    return places


def _changed_leaves(spec: PermutationSpec, group: str, exponents: Exponents) -> list[str]:
    """The leaves that change with the scale of a group, once for each axis on which they do."""
    changed = {}
    for place in spec.places(group):
        if exponents[place.key] != 0:
            changed[place.leaf, place.leaf_axis] = place.leaf
    return list(changed.values())


def _incoming_norms(places: list[Place], params: PyTree) -> Array:
    """The norm of each neuron's incoming weights, `[n]`; nan where one of them is."""
    leaves = named_leaves(params)
    rows = []
    for place in places:
        rows.append(place.rows(leaves[place.leaf]))
    dtype = accumulation_dtype(*rows)
    squared_norms = jnp.zeros((), dtype)
    for row in rows:
        squared_norms = squared_norms + jnp.sum(row.astype(dtype) ** 2, axis=1)
    # The square root has an infinite derivative at 0, so it never gets to see a 0.
    is_zero = squared_norms == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squared_norms)))


def _scale(
    leaf: Array, parts: tuple[Part, ...], place: Place, factor: Array, exponent: int
) -> Array:
    """Multiply one place of a leaf by a power of the group's factors."""
    power = jnp.power(factor.astype(leaf.dtype), exponent)
    scaled = []
    for part in parts:
        entries = part.cut(leaf)
        if part == place.part:
            shape = [1] * entries.ndim
            shape[place.axis] = power.size
            entries = entries * power.reshape(shape)
        scaled.append(entries)
    return pack(parts, scaled)
