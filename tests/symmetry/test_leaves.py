"""The leaves of a tree by name, and trees that differ."""

from typing import Any

import jax.numpy as jnp
import pytest

from lmcjax.symmetry import check_same_shapes, named_leaves


def test_named_leaves_joins_paths() -> None:
    tree = {"b": [jnp.zeros(1), {"c": jnp.zeros(2)}], "a": (jnp.zeros(3),)}
    assert {name: leaf.shape for name, leaf in named_leaves(tree).items()} == {
        "a/0": (3,),
        "b/0": (1,),
        "b/1/c": (2,),
    }


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"w": [(2, 3)], "b": [(3,)], "c": [(1,)]}, "'c/0' exists only in params_b"),
        ({"w": [(2, 3)]}, "'b/0' exists only in params_a"),
        (
            {"w": [(2, 4)], "b": [(3,)]},
            r"'w/0' has shape \(2, 3\) in params_a but \(2, 4\) in params_b",
        ),
        ({"w": ((2, 3),), "b": [(3,)]}, "containers differ"),
    ],
)
def test_trees_that_differ_are_named(other: dict[str, Any], message: str) -> None:
    def build(shapes: dict[str, Any]) -> dict[str, Any]:
        return {
            name: type(many)(jnp.zeros(shape) for shape in many) for name, many in shapes.items()
        }

    tree = build({"w": [(2, 3)], "b": [(3,)]})
    check_same_shapes(tree, tree)
    with pytest.raises(ValueError, match=message):
        check_same_shapes(tree, build(other))
