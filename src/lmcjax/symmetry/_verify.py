"""Trying a spec out: permuting neurons must not change what the network computes."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Bool, Float, Key, PyTree

from lmcjax.symmetry._permutations import identity_permutations, permute, random_permutations
from lmcjax.symmetry._spec import PermutationSpec


class Verification(NamedTuple):
    """The result of `verify`; `vmap` prepends axes to every field."""

    difference: dict[
        str, Float[Array, ""]
    ]  # per group: largest output difference, relative to the largest output
    holds: dict[str, Bool[Array, ""]]  # per group: the difference is within the tolerance
    finite: Bool[Array, ""]  # False: some output is nan or inf, and nothing was verified
    joint_difference: Float[Array, ""]  # the same with all groups permuted at once
    jointly_holds: Bool[Array, ""]  # that is within the tolerance


def perturb(key: Key[Array, ""], params: PyTree) -> PyTree:
    """Every floating-point leaf moved away from special values, its sign kept.

    Fresh parameters hide false symmetries: biases are 0 and scales are 1, the same for every
        neuron. Each entry is
    multiplied by `exp(z / 4)` and moved away from 0 by up to a tenth of the leaf's root mean square
    (0.1 if it is 0).
    """
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, params))
    moved = [
        i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size
    ]
    ends = np.cumsum([leaves[i].size for i in moved])
    # one draw for all leaves: a draw compiles for seconds per shape
    stretch, shift = jax.random.normal(
        key, (2, int(ends[-1]) if moved else 0), jnp.result_type(float)
    )
    for i, end in zip(moved, ends, strict=True):
        start = end - leaves[i].size
        leaves[i] = _perturb_leaf(leaves[i], stretch[start:end], shift[start:end])
    return jax.tree.unflatten(structure, leaves)


@jax.jit
def _perturb_leaf(leaf: Array, stretch: Array, shift: Array) -> Array:
    stretch, shift = (draw.reshape(leaf.shape).astype(leaf.dtype) for draw in (stretch, shift))
    size = jnp.sqrt(jnp.mean(leaf**2))
    away = (
        jnp.where(leaf < 0, -1, 1).astype(leaf.dtype)
        * jnp.where(size == 0, jnp.ones_like(size), size)
        / 10
    )
    return leaf * jnp.exp(stretch / 4) + away * jnp.abs(jnp.tanh(shift))


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
    identity, drawn = (
        identity_permutations(spec),
        random_permutations(jax.random.fold_in(key, 1), spec),
    )

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

    def difference_of(permutations: dict[str, Array]) -> Array:
        after = outputs(permutations, perturbed, x)
        apart = [jnp.max(jnp.abs(a - b)) for a, b in zip(before, after, strict=True)]
        return jnp.max(jnp.stack(apart)) / jnp.where(largest == 0, 1, largest)

    # a loop over one compiled function: memory does not grow with the number of groups
    difference = {group: difference_of({**identity, group: drawn[group]}) for group in spec.groups}
    holds = {group: value <= tolerance for group, value in difference.items()}
    joint = difference_of(drawn)
    return Verification(difference, holds, jnp.isfinite(largest), joint, joint <= tolerance)


def _tolerance(program: core.ClosedJaxpr) -> float:
    """How far outputs may lie apart, relative to the largest; `verify` says why."""
    inexact = {dtype for dtype in _dtypes(program.jaxpr) if jnp.issubdtype(dtype, jnp.inexact)}
    eps = max((float(jnp.finfo(dtype).eps) for dtype in inexact), default=0.0)
    if eps <= jnp.finfo(jnp.float64).eps:
        return 1e-9
    if eps <= jnp.finfo(jnp.float32).eps:
        return 1e-5
    return min(16 * eps, 0.03)


def _dtypes(jaxpr: core.Jaxpr) -> Iterator[Any]:
    """Of all values of a program and of the programs that it calls, with repetitions."""
    results = [variable for equation in jaxpr.eqns for variable in equation.outvars]
    for variable in (*jaxpr.constvars, *jaxpr.invars, *results):
        if hasattr(variable.aval, "dtype"):  # tokens have none
            yield variable.aval.dtype
    for equation in jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(value):
                yield from _dtypes(value.jaxpr if isinstance(value, core.ClosedJaxpr) else value)


def _is_program(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)
