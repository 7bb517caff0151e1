"""Specs written as text are those written in Python."""

import tomllib

import pytest

from lmcjax.symmetry import PermutationSpec, both, fixed, reads, spec_from_table, writes

TEXT = """
[axes]
conv = ["", "", "", "writes c"]
dense = [["reads c outer=2 inner=3", "reads s", "fixed 4"], "writes h"]
stream = ["both s", "writes s"]
stack = ["", "reads h", "writes k batch=0"]
[inputs]
stack = [1]
"""


def test_every_form():
    expected = PermutationSpec.from_axes(
        {
            "conv": (None, None, None, writes("c")),
            "dense": ((reads("c", outer=2, inner=3), reads("s"), fixed(4)), writes("h")),
            "stream": (both("s"), writes("s")),
            "stack": (None, reads("h"), writes("k", batch_axes=(0,))),
        },
        inputs={"stack": [1]},
    )
    assert spec_from_table(tomllib.loads(TEXT)) == expected


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "a spec's table has axes"),
        ({"axes": {}, "input": {}}, "not 'input'"),
        (
            {"axes": {"w": "writes h"}},
            "leaf 'w' has a list with one entry per axis, not 'writes h'",
        ),
        ({"axes": {"w": [1]}}, "leaf 'w': 1 is not"),
        ({"axes": {"w": ["write h"]}}, "leaf 'w': 'write h' is not"),
        ({"axes": {"w": ["writes"]}}, "leaf 'w': 'writes' is not"),
        ({"axes": {"w": ["writes h outer=two"]}}, "leaf 'w': 'writes h outer=two' is not"),
        ({"axes": {"w": ["writes h other=2"]}}, "leaf 'w': 'writes h other=2' is not"),
        ({"axes": {"w": ["writes h outer"]}}, "leaf 'w': 'writes h outer' is not"),
        ({"axes": {"w": ["fixed few"]}}, "leaf 'w': 'fixed few' is not"),
        ({"axes": {"w": ["reads h", ""]}}, "group 'h' has readers but nothing writes it"),
    ],
)
def test_what_is_written_wrongly_is_named(table, message):
    with pytest.raises(ValueError, match=message):
        spec_from_table(table)
