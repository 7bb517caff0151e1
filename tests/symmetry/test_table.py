"""Specs written as text are those written in Python."""

import tomllib

import pytest

from lmcjax.symmetry import PermutationSpec, both, fixed, reads, spec_from_table, writes

TEXT = """
[axes]
conv = ["", "", "", "writes c"]
dense = ["reads 2*c*3 | s | 4", "writes h"]
stream = ["both s", "writes s"]
stack = ["fixed layers", "reads h", "writes k/layers"]
qkv = ["both s", "writes heads*(qk/heads | qk/heads | v/heads)"]
[inputs]
stack = [1]
[sizes]
heads = 4
"""


def test_every_form():
    qk = writes("qk", along="heads")
    expected = PermutationSpec.from_axes(
        {
            "conv": (None, None, None, writes("c")),
            "dense": (fixed(2) * reads("c") * fixed(3) | reads("s") | fixed(4), writes("h")),
            "stream": (both("s"), writes("s")),
            "stack": (fixed("layers"), reads("h"), writes("k", along="layers")),
            "qkv": (both("s"), writes("heads") * (qk | qk | writes("v", along="heads"))),
        },
        inputs={"stack": [1]},
        sizes={"heads": 4},
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
        ({"axes": {"w": ["writes h h"]}}, "leaf 'w': 'writes h h' is not"),
        ({"axes": {"w": ["writes h*"]}}, "leaf 'w': 'writes h\\*' is not"),
        ({"axes": {"w": ["writes (h | 2"]}}, r"leaf 'w': 'writes \(h \| 2' is not"),
        ({"axes": {"w": ["writes h/"]}}, "leaf 'w': 'writes h/' is not"),
        ({"axes": {"w": ["h"]}}, "leaf 'w': 'h' is not"),
        ({"axes": {"w": ["writes h/g"]}}, "group 'h' varies along 'g', which does not stand once"),
        ({"axes": {"w": ["reads h", ""]}}, "group 'h' has readers but nothing writes it"),
    ],
)
def test_what_is_written_wrongly_is_named(table, message):
    with pytest.raises(ValueError, match=message):
        spec_from_table(table)
