"""Try a spec out: permuting neurons must not change what the network computes."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, Bool, Float, Key, PyTree

from lmcjax.symmetry._permutations import identity_permutations, permute, random_permutations
from lmcjax.symmetry._spec import PermutationSpec


class Verification(NamedTuple):
    """The result of `verify`; `vmap` prepends axes to every field."""

    # per group: the largest difference of an output, relative to the largest output
    difference: dict[str, Float[Array, ""]]
    holds: dict[str, Bool[Array, ""]]  # per group: the difference is within the tolerance
    finite: Bool[Array, ""]  # False: some output is nan or inf, and nothing was verified
    joint_difference: Float[Array, ""]  # the same with all groups permuted at once
    jointly_holds: Bool[Array, ""]  # that is within the tolerance


def perturb(key: Key[Array, ""], params: PyTree) -> PyTree:
    """Move every floating-point leaf away from special values, keeping the signs.

    Fresh parameters hide false symmetries: biases are 0 and scales are 1, the same for every
    neuron. Each entry is multiplied by `exp(z / 4)`, z standard normal, and moved away from 0 by up
    to a tenth of the leaf's root mean square (by up to 0.1 if that is 0).
    """
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, params))
    num_entries = sum(leaf.size for leaf in leaves if _is_floating(leaf))
    # One draw for all leaves, because a draw compiles for seconds per shape.
    stretch, shift = jax.random.normal(key, (2, num_entries), jnp.result_type(float))
    perturbed = []
    start = 0
    for leaf in leaves:
        if _is_floating(leaf) and leaf.size > 0:
            stop = start + leaf.size
            leaf = _perturb_leaf(leaf, stretch[start:stop], shift[start:stop])
            start = stop
        perturbed.append(leaf)
    return jax.tree.unflatten(structure, perturbed)


def _is_floating(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


@jax.jit
def _perturb_leaf(leaf: Array, stretch: Array, shift: Array) -> Array:
    stretch = stretch.reshape(leaf.shape).astype(leaf.dtype)
    shift = shift.reshape(leaf.shape).astype(leaf.dtype)
    root_mean_square = jnp.sqrt(jnp.mean(leaf**2))
    size = jnp.where(root_mean_square == 0, jnp.ones_like(root_mean_square), root_mean_square)
    sign = jnp.where(leaf < 0, -1, 1).astype(leaf.dtype)
    largest_shift = sign * size / 10
    return leaf * jnp.exp(stretch / 4) + largest_shift * jnp.abs(jnp.tanh(shift))


def verify(
    apply: Callable[[PyTree, Any], Any],
    spec: PermutationSpec,
    params: PyTree,
    x: Any,
    *,
    key: Key[Array, ""] | None = None,
    tolerance: float | None = None,
) -> Verification:
    """Permute each group at random and compare the network's outputs before and after.

    Group by group, so that a failure names its group, and then all groups at once, because a
    mistake in one group can hide until another is permuted too. The parameters are perturbed first,
    because fresh ones hide false symmetries.

    `apply` is traced once, and compiled once for all groups; one copy of the network is run at a
    time. Products are taken in full precision where the program does not say otherwise, on
    accelerators too.

    The default tolerance is that of the least precise floating-point type in the program,
    parameters and inputs included: 1e-9 for float64 (4.5e6 eps), 1e-5 for float32 (84 eps), 0.016
    for float16 (16 eps), 0.03 for bfloat16 (4 eps). A true symmetry changes nothing but the order
    of sums: at most 10 eps in networks of up to 20 layers, as measured on a CPU, where false ones
    changed the outputs by 0.1 and more.

    Args:
        apply: static; `apply(params, x)` gives the outputs, in any structure of arrays.
        spec: static.
        params: any pytree of arrays that fits the spec, traced.
        x: inputs, traced.
        key: of the perturbation and the permutations; default: `jax.random.key(0)`.
        tolerance: static, relative to the largest output; default: see above.

    Raises:
        ValueError: the spec does not fit the parameters.
    """
    key = jax.random.key(0) if key is None else key
    spec = spec.bind(params)
    perturbed = perturb(jax.random.fold_in(key, 0), params)
    identity = identity_permutations(spec)
    drawn = random_permutations(jax.random.fold_in(key, 1), spec)

    with jax.default_matmul_precision("highest"):
        program = jax.make_jaxpr(apply)(perturbed, x)
    if tolerance is None:
        tolerance = _tolerance(program)

    @jax.jit
    def outputs(permutations: dict[str, Array], params: PyTree, x: Any) -> list[Array]:
        permuted = permute(spec, permutations, params)
        return core.jaxpr_as_fun(program)(*jax.tree.leaves((permuted, x)))

    before = outputs(identity, perturbed, x)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in before]))
    unit = jnp.where(largest == 0, 1, largest)

    def difference_of(permutations: dict[str, Array]) -> Array:
        after = outputs(permutations, perturbed, x)
        differences = []
        for leaf_before, leaf_after in zip(before, after, strict=True):
            differences.append(jnp.max(jnp.abs(leaf_before - leaf_after)))
        return jnp.max(jnp.stack(differences)) / unit

    # A loop over one compiled function: memory does not grow with the number of groups.
    difference: dict[str, Array] = {}
    holds: dict[str, Array] = {}
    for group in spec.groups:
        this_group_alone = {**identity, group: drawn[group]}
        difference[group] = difference_of(this_group_alone)
        holds[group] = difference[group] <= tolerance
    joint_difference = difference_of(drawn)
    return Verification(
        difference=difference,
        holds=holds,
        finite=jnp.isfinite(largest),
        joint_difference=joint_difference,
        jointly_holds=joint_difference <= tolerance,
    )


def _tolerance(program: core.ClosedJaxpr) -> float:
    """How far outputs may lie apart, relative to the largest; `verify` says why."""
    eps = 0.0
    for dtype in set(_dtypes(program.jaxpr)):
        if jnp.issubdtype(dtype, jnp.inexact):
            eps = max(eps, float(jnp.finfo(dtype).eps))
    if eps <= jnp.finfo(jnp.float64).eps:
        return 1e-9
    if eps <= jnp.finfo(jnp.float32).eps:
        return 1e-5
    return min(16 * eps, 0.03)


def _dtypes(jaxpr: core.Jaxpr) -> Iterator[Any]:
    """The dtypes of all values of a program and of the programs that it calls, repeated as met."""
    variables = [*jaxpr.constvars, *jaxpr.invars]
    for equation in jaxpr.eqns:
        variables.extend(equation.outvars)
    for variable in variables:
        if hasattr(variable.aval, "dtype"):  # tokens have none
            yield variable.aval.dtype
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if isinstance(value, core.ClosedJaxpr):
                yield from _dtypes(value.jaxpr)
            elif isinstance(value, core.Jaxpr):
                yield from _dtypes(value)


def _is_program(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)
