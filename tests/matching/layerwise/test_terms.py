"""Which terms count in the first pass over the groups, and what a host's similarity adds up to."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import PermutationSpec, Weights
from lmcjax.matching._pair import make_pair
from lmcjax.matching.layerwise._terms import GroupTerms
from lmcjax.symmetry import both, identity_permutations, reads, writes


def group_terms(axes: Any, shapes: dict[str, tuple[int, ...]]) -> GroupTerms:
    rng = np.random.default_rng(0)
    networks = []
    for _ in range(2):
        networks.append({name: jnp.asarray(rng.normal(size=s)) for name, s in shapes.items()})
    return GroupTerms(make_pair(PermutationSpec.from_axes(axes), *networks), Weights())


def test_a_stack_of_layers_settles_in_one_pass() -> None:
    axes = {"w1": (None, writes("g")), "w2": (reads("g"), writes("h")), "w3": (reads("h"), None)}
    terms = group_terms(axes, {"w1": (2, 3), "w2": (3, 4), "w3": (4, 2)})
    assert terms.settles_in_one_pass()
    assert terms.ready() == terms.terms
    depends_on = {g: [set(t.depends_on) for t in of_group] for g, of_group in terms.terms.items()}
    assert depends_on == {"g": [set()], "h": [{"g"}]}


def test_a_stream_is_matched_first_by_what_depends_on_nothing() -> None:
    """Of its two writers the second reads what is matched later."""
    axes = {
        "in": (None, writes("s")),
        "up": (reads("s"), writes("h")),
        "down": (reads("h"), both("s")),
    }
    terms = group_terms(axes, {"in": (3, 4), "up": (4, 5), "down": (5, 4)})
    assert not terms.settles_in_one_pass()
    ready = terms.ready()
    assert len(terms.terms["s"]) == 2
    assert [set(term.depends_on) for term in ready["s"]] == [set()]
    assert [set(term.depends_on) for term in ready["h"]] == [{"s"}]


def test_all_terms_count_where_none_is_ready() -> None:
    """Two groups that depend on each other, and on nothing else."""
    axes = {"w1": (reads("h"), writes("g")), "w2": (reads("g"), writes("h"))}
    terms = group_terms(axes, {"w1": (4, 3), "w2": (3, 4)})
    assert not terms.settles_in_one_pass()
    assert terms.ready() == terms.terms


@pytest.mark.parametrize("with_own", [False, True], ids=["by channels", "and by a leaf of its own"])
def test_heads_are_as_alike_as_their_channels_can_be(with_own: bool) -> None:
    """By the best permutation of two channels, and by what has no channels."""
    axes = {"q": (None, writes("heads"), writes("c", along="heads"))}
    shapes = {"q": (3, 2, 2)}
    if with_own:
        axes["gate"] = (None, writes("heads"))
        shapes["gate"] = (4, 2)
    terms = group_terms(axes, shapes)
    assert terms.settles_in_one_pass()
    in_place = identity_permutations(terms.spec)
    similarity = terms.similarity("heads", in_place, terms.terms["heads"], "scipy")

    rng = np.random.default_rng(0)
    a, b = ({name: rng.normal(size=shape) for name, shape in shapes.items()} for _ in "ab")
    expected = np.zeros((2, 2))
    for i in range(2):
        for j in range(2):
            products = a["q"][:, i].T @ b["q"][:, j]
            expected[i, j] = max(np.trace(products), np.trace(products[::-1]))
            if with_own:
                expected[i, j] += a["gate"][:, i] @ b["gate"][:, j]
    np.testing.assert_allclose(similarity, expected, rtol=1e-5)
