"""Trying a spec out: permuting neurons must not change what the network computes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree

from lmcjax.symmetry._permutations import identity_permutations, permute, random_permutations
from lmcjax.symmetry._spec import PermutationSpec


class Verification(NamedTuple):
    """The result of `verify`; `vmap` prepends axes to every field."""

    difference: dict[str, Float[Array, ""]]  # per group: largest output difference, relative to the largest output
    holds: dict[str, Bool[Array, ""]]  # per group: the difference is within the tolerance
    finite: Bool[Array, ""]  # False: some output is nan or inf, and nothing was verified


def perturb(key: Key[Array, ""], params: PyTree) -> PyTree:
    """Every floating-point leaf moved away from special values, its sign kept.

    Fresh parameters hide false symmetries: biases are 0 and scales are 1, the same for every neuron. Each entry is
    multiplied by `exp(z / 4)` and moved away from 0 by up to a tenth of the leaf's root mean square (0.1 if it is 0).
    """
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, params))
    moved = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size]
    ends = np.cumsum([leaves[i].size for i in moved])
    # one draw for all leaves: a draw compiles for seconds per shape
    stretch, shift = jax.random.normal(key, (2, int(ends[-1]) if moved else 0), jnp.result_type(float))
    for i, end in zip(moved, ends, strict=True):
        start = end - leaves[i].size
        leaves[i] = _perturb_leaf(leaves[i], stretch[start:end], shift[start:end])
    return jax.tree.unflatten(structure, leaves)


@jax.jit
def _perturb_leaf(leaf: Array, stretch: Array, shift: Array) -> Array:
    stretch, shift = (draw.reshape(leaf.shape).astype(leaf.dtype) for draw in (stretch, shift))
    size = jnp.sqrt(jnp.mean(leaf**2))
    away = jnp.where(leaf < 0, -1, 1).astype(leaf.dtype) * jnp.where(size == 0, jnp.ones_like(size), size) / 10
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

    Group by group, so that a failure names its group; the parameters are perturbed first, because fresh ones hide false
    symmetries. In float64 where x64 is on and the parameters are float64.

    Args:
        apply: static; `apply(params, x)` gives the outputs, in any structure of arrays.
        spec: static.
        params: any pytree of arrays that fits the spec, traced.
        x: inputs, traced.
        key: of the perturbation and the permutations; default: `jax.random.key(0)`.
        tolerance: static, relative to the largest output; default: 1e-5, and 1e-9 for float64 outputs.

    Raises:
        ValueError: the spec does not fit the parameters.
    """
    key = jax.random.key(0) if key is None else key
    spec = spec.bind(params)
    perturbed = perturb(jax.random.fold_in(key, 0), params)
    identity, drawn = identity_permutations(spec), random_permutations(jax.random.fold_in(key, 1), spec)

    @jax.jit
    def outputs(permutations: dict[str, Array], params: PyTree, x: Any) -> list[Array]:
        return jax.tree.leaves(apply(permute(spec, permutations, params), x))

    before = outputs(identity, perturbed, x)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in before]))
    if tolerance is None:
        tolerance = 1e-9 if all(leaf.dtype == jnp.float64 for leaf in before) else 1e-5
    difference = {}
    for group in spec.groups:
        after = outputs({**identity, group: drawn[group]}, perturbed, x)
        apart = [jnp.max(jnp.abs(a - b)) for a, b in zip(before, after, strict=True)]
        difference[group] = jnp.max(jnp.stack(apart)) / jnp.where(largest == 0, 1, largest)
    holds = {group: value <= tolerance for group, value in difference.items()}
    return Verification(difference, holds, jnp.isfinite(largest))
