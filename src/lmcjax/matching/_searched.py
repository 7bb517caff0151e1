"""What matchings that search for a small objective return, and what they share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Key, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax.matching._matching import Matching
from lmcjax.matching._objectives import Objective
from lmcjax.symmetry import (
    Permutations,
    PermutationSpec,
    identity_permutations,
    named_leaves,
    permute,
)


class SearchedMatching(NamedTuple):
    """One pair of networks, matched by making an objective small; `vmap` prepends axes to every field.

    Per group `matching` has the inner product `<A, P B>` of the leaves on which the group acts, whatever the objective.
    """

    matching: Matching
    objective: Float[Array, ""]  # at the permutations, the objective's unit; smaller is better
    identity_objective: Float[Array, ""]  # at the identity, with the same key
    trace: Float[Array, " num_steps"]  # the objective at each step, where the search stood then

    @property
    def permutations(self) -> dict[str, Array]:
        """Those of the matching."""
        return self.matching.permutations

    @property
    def converged(self) -> Array:
        """That of the matching."""
        return self.matching.converged

    @property
    def finite(self) -> Array:
        """That of the matching."""
        return self.matching.finite


def summarise(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    permutations: Permutations,
    objective: Objective,
    key: Key[Array, ""],
    trace: Float[Array, " num_steps"],
    converged: Bool[Array, ""] | None = None,
) -> SearchedMatching:
    """What was found, measured: both objectives with the same key; finite if the whole search was."""
    found = {group: jnp.asarray(p) for group, p in permutations.items()}
    identity = identity_permutations(spec)
    reached, unmatched = (objective(params_a, permute(spec, p, params_b), key) for p in (found, identity))
    finite = jnp.isfinite(trace).all() & jnp.isfinite(reached)
    matching = Matching(
        found,
        _inner_products(spec, params_a, permute(spec, found, params_b)),
        _inner_products(spec, params_a, params_b),
        jnp.asarray(trace.size, jnp.int32),
        finite if converged is None else finite & converged,
        finite,
    )
    return SearchedMatching(matching, reached, unmatched, trace)


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
