"""What the searches for a small loss share: their door, and the account of what they found."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax.matching._assignments import start_at
from lmcjax.matching._matching import Matching, Search
from lmcjax.matching._pair import Pair, make_pair
from lmcjax.matching.searches._losses import PairLoss
from lmcjax.symmetry import (
    Permutations,
    PermutationSpec,
    identity_permutations,
    named_leaves,
    permute,
)


class Start(NamedTuple):
    """Two networks, and where a search between them starts."""

    pair: Pair
    permutations: dict[str, Array]


def begin(
    spec: PermutationSpec, params_a: PyTree, params_b: PyTree, init: Permutations | None
) -> Start:
    """Check and bind the networks and the start; `init` is None for the identity.

    Raises:
        ValueError: shapes that differ between the networks or do not fit the spec or the start, a
            complex leaf.
    """
    pair = make_pair(spec, params_a, params_b)
    return Start(pair, start_at(pair.spec, init))


def make_matching(
    pair: Pair,
    params_a: PyTree,
    params_b: PyTree,
    permutations: Permutations,
    loss: PairLoss,
    key: Key[Array, ""],
    trace: Float[Array, " num_values"],
) -> Matching:
    """What a search has found, measured; finite if the whole search was.

    Both losses have the same key. Per group the similarity is the inner product `<A, P B>` of the
    leaves on which the group acts, whatever was sought.

    Args:
        trace: one value for each iteration.
    """
    spec = pair.spec
    found = {group: jnp.asarray(p) for group, p in permutations.items()}
    aligned = permute(spec, found, params_b)
    reached = loss(params_a, aligned, key)
    unmatched = loss(params_a, permute(spec, identity_permutations(spec), params_b), key)
    finite = jnp.isfinite(trace).all() & jnp.isfinite(reached)
    return Matching(
        found,
        _inner_products(pair, named_leaves(aligned)),
        _inner_products(pair, pair.leaves_b),
        iterations=jnp.asarray(len(trace), jnp.int32),
        converged=finite,
        finite=finite,
        search=Search(jnp.asarray(reached), jnp.asarray(unmatched), trace),
    )


def _inner_products(pair: Pair, leaves_b: dict[str, ArrayLike]) -> dict[str, Array]:
    """`<A, B>` over the leaves on which each group acts."""
    products = {}
    for group in pair.spec.groups:
        touched = dict.fromkeys(place.leaf for place in pair.spec.places(group))
        total = jnp.zeros(())
        for name in touched:
            total = total + _dot(pair.leaves_a[name], leaves_b[name])
        products[group] = total
    return products


def _dot(a: ArrayLike, b: ArrayLike) -> Array:
    """The inner product of two leaves, in JAX's default precision at least."""
    dtype = accumulation_dtype(a, b, least=jnp.result_type(float))
    return jnp.sum(jnp.asarray(a, dtype) * jnp.asarray(b, dtype))
