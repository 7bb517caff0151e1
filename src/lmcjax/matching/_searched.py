"""What the matchings that search for a small loss share: their start, and the account of what they found."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax.matching._assignments import start_at
from lmcjax.matching._matching import Matching
from lmcjax.matching._objectives import Objective
from lmcjax.matching._real import check_real_leaves
from lmcjax.symmetry import (
    Permutations,
    PermutationSpec,
    check_same_shapes,
    identity_permutations,
    named_leaves,
    permute,
)


def begin(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    init: Permutations | None,
    **counts: int,
) -> tuple[PermutationSpec, dict[str, Array]]:
    """The spec bound to the networks, and where the search starts (None: the identity); all checked."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1, not {value}")
    check_same_shapes(params_a, params_b)
    check_real_leaves(params_a, params_b)
    spec = spec.bind(params_a)
    return spec, start_at(spec, init)


def summarise(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    permutations: Permutations,
    objective: Objective,
    key: Key[Array, ""],
    trace: Float[Array, " num_values"],
    num_steps: int,
) -> Matching:
    """What was found, measured: both losses with the same key; finite if the whole search was.

    Per group the objective is the inner product `<A, P B>` of the leaves on which the group acts, whatever was sought.
    """
    found = {group: jnp.asarray(p) for group, p in permutations.items()}
    identity = identity_permutations(spec)
    loss, unmatched = (objective(params_a, permute(spec, p, params_b), key) for p in (found, identity))
    finite = jnp.isfinite(trace).all() & jnp.isfinite(loss)
    return Matching(
        found,
        _inner_products(spec, params_a, permute(spec, found, params_b)),
        _inner_products(spec, params_a, params_b),
        iterations=jnp.asarray(num_steps, jnp.int32),
        converged=finite,
        finite=finite,
        loss=jnp.asarray(loss),
        identity_loss=jnp.asarray(unmatched),
        trace=trace,
    )


def parameter_dtype(*networks: PyTree) -> jnp.dtype:
    """The widest float type of the networks' leaves, at least float32; counters and random keys do not count."""
    leaves = jax.tree.leaves(networks)
    return accumulation_dtype(*(leaf for leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)))


def _inner_products(spec: PermutationSpec, params_a: PyTree, params_b: PyTree) -> dict[str, Array]:
    """`<A, B>` over the leaves on which each group acts."""
    leaves_a, leaves_b = named_leaves(params_a), named_leaves(params_b)
    products = {}
    for group in spec.groups:
        touched = dict.fromkeys(name for name, _, _ in spec.segments(group))
        products[group] = sum((_dot(leaves_a[name], leaves_b[name]) for name in touched), jnp.zeros(()))
    return products


def _dot(a: ArrayLike, b: ArrayLike) -> Array:
    """In JAX's default precision at least."""
    dtype = accumulation_dtype(a, b, least=jnp.result_type(float))
    return jnp.sum(jnp.asarray(a, dtype) * jnp.asarray(b, dtype))
