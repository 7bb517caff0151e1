"""Name the leaves of a parameter tree, and compare two trees leaf by leaf."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def named_leaves(params: PyTree) -> dict[str, Any]:
    """The leaves of any pytree by path, `"Dense_0/kernel"`, in the tree's own order.

    Raises:
        ValueError: two leaves have the same path (keys that contain "/").
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    named: dict[str, Any] = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in named:
            raise ValueError(f"two leaves are named {name!r}: rename the keys that contain '/'")
        named[name] = leaf
    return named


def rebuild(params: PyTree, leaves: Mapping[str, Any]) -> PyTree:
    """A tree of the structure of `params` whose leaves are taken from `leaves` by name."""
    in_order = [leaves[name] for name in named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), in_order)


def check_same_shapes(params_a: PyTree, params_b: PyTree) -> None:
    """Check that two trees have the same leaves with the same shapes, in the same containers.

    Raises:
        ValueError: names the first leaf that differs and shows both sides.
    """
    leaves_a = named_leaves(params_a)
    leaves_b = named_leaves(params_b)
    if in_one_only := sorted(leaves_a.keys() ^ leaves_b.keys()):
        name = in_one_only[0]
        owner = "params_a" if name in leaves_a else "params_b"
        raise ValueError(
            f"leaf {name!r} exists only in {owner}: params_a has {sorted(leaves_a)}, "
            f"params_b has {sorted(leaves_b)}"
        )
    for name in leaves_a:
        shape_a = jnp.shape(leaves_a[name])
        shape_b = jnp.shape(leaves_b[name])
        if shape_a != shape_b:
            raise ValueError(
                f"leaf {name!r} has shape {shape_a} in params_a but {shape_b} in params_b"
            )
    # As text, which is also what the error shows.
    container_a = str(jax.tree.structure(params_a))
    container_b = str(jax.tree.structure(params_b))
    if container_a != container_b:
        raise ValueError(
            f"the containers differ: params_a is {container_a}, params_b is {container_b}"
        )
