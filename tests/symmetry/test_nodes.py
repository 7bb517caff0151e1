"""The algebra of index sets: merges and splits in any order lose no equation."""

import itertools

import numpy as np
import pytest

from lmcjax.symmetry._nodes import Nodes, Pin


def permutations_of(nodes, axis, drawn):
    """The permutation of an axis, entry by entry, from those drawn for the atoms not split."""
    pieces, offset = [], 0
    for piece in nodes.expand(axis):
        numbers = np.zeros(1, int)
        for atom in piece:
            size = nodes.size(atom)
            own = drawn[atom] if nodes.pinned(atom) is None else np.arange(size)
            numbers = (numbers[:, None] * size + own).reshape(-1)
        pieces.append(offset + numbers)
        offset += len(numbers)
    return np.concatenate(pieces)


FACTORS = [(2, 8), (8, 2), (4, 4), (2, 2, 4), (4, 2, 2), (16,)]


@pytest.mark.parametrize("groupings", list(itertools.permutations(FACTORS, 3)))
def test_one_axis_grouped_in_three_ways(groupings):
    nodes = Nodes()
    whole = nodes.axis(16)
    axes = []
    for sizes in groupings:
        factors = [nodes.new(size) for size in sizes]
        axes.append((tuple(factors),))
        axes.append((tuple(reversed(factors)),))
    for axis in axes:
        nodes.merge(whole, axis)
    rng = np.random.default_rng(0)
    atoms = {atom for axis in axes for piece in nodes.expand(axis) for atom in piece}
    drawn = {atom: rng.permutation(nodes.size(atom)) for atom in atoms}
    for axis in axes:
        np.testing.assert_array_equal(
            permutations_of(nodes, axis, drawn), permutations_of(nodes, whole, drawn)
        )


def test_the_factors_of_16_as_2_by_8_and_8_by_2_are_one_set_of_two():
    """Only what does not tell the four factors of two apart is left: the same swap in each."""
    nodes = Nodes()
    two, eight = nodes.new(2), nodes.new(8)
    nodes.merge(((two, eight),), ((eight, two),))
    (piece,) = nodes.expand(((two, eight),))
    assert [nodes.size(atom) for atom in piece] == [2, 2, 2, 2]
    assert len(set(piece)) == 1


def test_a_cut_across_a_product_pins():
    """Entries 0 to 4 of a product 2 x 8 are no stretch of whole blocks."""
    nodes = Nodes()
    two, eight = nodes.new(2), nodes.new(8)
    whole = nodes.axis(16)
    nodes.merge(whole, ((two, eight),))
    nodes.merge(whole, (*nodes.axis(5), *nodes.axis(11)))
    assert nodes.pinned(two)
    assert nodes.pinned(eight)


def test_a_pin_has_the_first_reason_and_its_line():
    nodes = Nodes()
    a, b, c = (nodes.axis(6) for _ in range(3))
    nodes.source = "line 1"
    nodes.pin(a, "first")
    nodes.source = "line 2"
    nodes.pin(a, "second")
    nodes.pin(b, "other")
    nodes.merge(c, ((nodes.new(2), nodes.new(3)),))
    nodes.merge(b, c)
    nodes.merge(a, b)
    ((outer, inner),) = nodes.expand(c)
    assert {nodes.pinned(node) for node in (a[0][0], outer, inner)} == {Pin("first", "line 1")}


def test_where_a_constant_is_met_counts_more_than_where_it_is_from():
    nodes = Nodes()
    constant = nodes.axis(6, Pin("a constant", "line 1", of_constant=True))
    data = nodes.axis(6)
    nodes.pin(data, "meets a constant")
    nodes.merge(constant, data)
    assert nodes.pinned(constant[0][0]) == Pin("meets a constant", "")
