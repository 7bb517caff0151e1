"""Index sets and how they relate: what discovery knows about the axes of a program's values.

An *atom* is an index set such as "the neurons of this layer". An *axis* of an array is a
concatenation of *pieces*, and a piece is a product of atoms, outermost first (an axis of heads
times channels has one piece of two atoms). Atoms of equal axes are merged; where an axis is cut or
reshaped, its atoms are split into products or concatenations of smaller ones.

The invariant. Give every atom that is not split a permutation: any one, the identity where the atom
is pinned, the same one to atoms that are merged. This fixes the permutation of every other atom and
of every axis: that of a split atom is the one of the axis it was split into, that of a product acts
on each factor, that of a concatenation on each piece. An operation of `Nodes` only ever adds
equations between permutations: two atoms are equal (`merge`), an atom is an axis of smaller ones
(split), an atom stays in place (`pin`). No equation is ever dropped or replaced. So an atom has one
split at most, a second one is merged with the first; and whoever walks along axes while splitting
atoms expands the axes anew after each step, for a split may touch any atom that is still ahead.
"""

import itertools
import math
from typing import NamedTuple, TypeAlias

Piece: TypeAlias = tuple[int, ...]
NodeAxis: TypeAlias = tuple[Piece, ...]

MOST_BLOCKS = 16
"""An outermost factor of an axis may be taken apart into so many blocks."""


class Pin(NamedTuple):
    """Why nothing may permute an index set."""

    reason: str  # in plain English
    source: str  # the line of the program that pinned it; empty: no line did
    # it stands in a constant, and other values are pinned once they meet that
    of_constant: bool = False


class Nodes:
    """Union-find over index sets.

    Merging and splitting only ever adds constraints, so it may happen in any order.
    """

    def __init__(self) -> None:
        self._size: list[int] = []
        self._parent: list[int] = []
        self._split: dict[int, NodeAxis] = {}  # what a root was split into
        self._pinned: dict[int, Pin] = {}  # by root
        # roots that were laid against each other and do not fit: one number does not mean the same
        # in all places that carry them
        self._misaligned: set[int] = set()
        # the line of the program at hand, which goes into every pin; empty: none
        self.source = ""

    def new(self, size: int, pinned: str | Pin | None = None) -> int:
        """A fresh index set of `size` elements; `pinned`: why nothing may permute it."""
        node = len(self._size)
        self._size.append(size)
        self._parent.append(node)
        if pinned is not None:
            self._pinned[node] = self._as_pin(pinned)
        return node

    def _as_pin(self, reason: str | Pin) -> Pin:
        """A reason, with the line at hand; what is a pin already keeps its own line."""
        return reason if isinstance(reason, Pin) else Pin(reason, self.source)

    def axis(self, size: int, pinned: str | Pin | None = None) -> NodeAxis:
        """A fresh axis; one of a single element is the empty product."""
        return ((),) if size == 1 else ((self.new(size, pinned),),)

    def concatenation(self, axis: NodeAxis) -> int:
        """A fresh factor of a product that is this axis, whatever it is a concatenation of."""
        node = self.new(self.length(axis))
        self._divide(node, axis)
        return node

    def find(self, node: int) -> int:
        """The representative of everything merged with `node`."""
        while self._parent[node] != node:
            self._parent[node] = self._parent[self._parent[node]]
            node = self._parent[node]
        return node

    def size(self, node: int) -> int:
        """Number of elements."""
        return self._size[node]

    def length(self, axis: NodeAxis) -> int:
        """Number of entries of an axis."""
        return sum(self._product(piece) for piece in axis)

    def _product(self, piece: Piece) -> int:
        return math.prod(self._size[node] for node in piece)

    def pinned(self, node: int) -> Pin | None:
        """Why nothing may permute this atom; None: something may."""
        return self._pinned.get(self.find(node))

    def pin(self, axis: NodeAxis, reason: str | Pin) -> None:
        """Nothing permutes any part of this axis. The first reason is kept."""
        pin = self._as_pin(reason)
        for piece in axis:
            for node in piece:
                root = self.find(node)
                self._pinned.setdefault(root, pin)
                if root in self._split:
                    self.pin(self._split[root], pin)

    def misalign(self, axis: NodeAxis, reason: str | Pin) -> None:
        """As `pin`, where an axis is laid against another that it does not fit.

        Besides, no permutation may vary along any part of it: `(i, j)` of a product of 2 and 3
        meets `(j, i)` of one of 3 and 2, and there is no telling how.
        """
        pin = self._as_pin(reason)
        self.pin(axis, pin)
        for piece in axis:
            for node in piece:
                root = self.find(node)
                self._misaligned.add(root)
                if root in self._split:
                    self.misalign(self._split[root], pin)

    def is_aligned(self, node: int) -> bool:
        """Whether a number along this atom means the same in all places that carry it."""
        return self.find(node) not in self._misaligned

    def expand(self, axis: NodeAxis) -> NodeAxis:
        """The axis in smaller atoms, as far as it is a concatenation of products.

        A factor that is a concatenation is multiplied out where it is the outermost of its piece.
        Elsewhere it stays one factor, for its stretches do not lie end to end: `stretches` has
        them.
        """
        return tuple(itertools.chain.from_iterable(self._expand_piece(piece) for piece in axis))

    def _expand_piece(self, piece: Piece) -> NodeAxis:
        for i, node in enumerate(piece):
            split = self._split.get(self.find(node))
            if split is None:
                continue
            before, after = piece[:i], piece[i + 1 :]
            if len(split) == 1:
                return self._expand_piece((*before, *split[0], *after))
            if not before:
                return self.expand(tuple((*part, *after) for part in split))
        return (tuple(self.find(node) for node in piece),)

    def stretches(self, node: int) -> NodeAxis | None:
        """What a factor of an expanded axis is a concatenation of; None: it is not split."""
        split = self._split.get(self.find(node))
        return None if split is None else self.expand(split)

    def multiply_out(self, axis: NodeAxis) -> NodeAxis:
        """The pieces of the expanded axis with every concatenation multiplied out.

        A piece of the result says which atoms stand beside each other, not where they lie.
        """
        pieces: list[Piece] = []
        for piece in self.expand(axis):
            factors = []
            for node in piece:
                stretches = self.stretches(node)
                factors.append(((node,),) if stretches is None else self.multiply_out(stretches))
            for chosen in itertools.product(*factors):
                pieces.append(tuple(itertools.chain.from_iterable(chosen)))
        return tuple(pieces)

    def atoms(self, axis: NodeAxis) -> list[int]:
        """The atoms of an axis that are not split, in order; one that stands twice comes twice."""
        atoms: list[int] = []
        for piece in self.expand(axis):
            for node in piece:
                stretches = self.stretches(node)
                atoms += [node] if stretches is None else self.atoms(stretches)
        return atoms

    def _divide(self, root: int, axis: NodeAxis) -> None:
        """The atom is this axis of smaller ones."""
        if root in self._split:
            self.merge(self._split[root], axis)
            return
        self._split[root] = axis
        self._inherit(root)

    def _inherit(self, root: int) -> None:
        """What holds of an atom holds of those it was split into."""
        if root in self._split and root in self._pinned:
            self.pin(self._split[root], self._pinned[root])
        if root in self._split and root in self._misaligned:
            self.misalign(self._split[root], self._pinned[root])

    def merge(self, first: NodeAxis, second: NodeAxis) -> None:
        """The two axes are the same index set: whatever permutes one permutes the other."""
        left, right = list(self.expand(first)), list(self.expand(second))
        while left and right:
            a, b = left[0], right[0]
            size_a, size_b = self._product(a), self._product(b)
            if size_a == size_b:
                self._merge_products(a, b)
                left, right = left[1:], right[1:]
            elif not (self._cut(b, size_a) if size_a < size_b else self._cut(a, size_b)):
                break
            left, right = list(self.expand(tuple(left))), list(self.expand(tuple(right)))
        for rest in (left, right):
            self.misalign(tuple(rest), "axes that are cut differently in two places")

    def has_blocks(self, axis: NodeAxis) -> bool:
        """Whether a few blocks of the axis have been told apart, while they are one index set.

        It has been made a product, whose outermost factor has been cut into single entries: a few
        entries, such as query, key and value.
        """
        return any(piece and self._has_blocks(piece) for piece in axis)

    def _has_blocks(self, piece: Piece) -> bool:
        root = self.find(piece[0])
        size = self._size[root]
        if len(piece) > 1 and size <= MOST_BLOCKS and self.expand(((root,),)) == ((),) * size:
            return True
        return root in self._split and self.has_blocks(self._split[root])

    def inner_blocks(self, axis: NodeAxis) -> tuple[int, int, int] | None:
        """`(outer, blocks, inner)`: such blocks are told apart within each entry of a product.

        So many blocks of `inner` entries, in each of `outer` entries; None: there are none.
        """
        pieces = self.expand(axis)
        if len(pieces) != 1:
            return None
        (piece,) = pieces
        for i, node in enumerate(piece):
            size = self._size[node]
            lies_between = 0 < i < len(piece) - 1
            if lies_between and size <= MOST_BLOCKS and self.stretches(node) == ((),) * size:
                return self._product(piece[:i]), size, self._product(piece[i + 1 :])
        return None

    def in_inner_blocks(self, outer: int, blocks: int, inner: int) -> NodeAxis:
        """A fresh axis of so many blocks in each outer entry, each with an index set of its own."""
        stretches = itertools.chain.from_iterable(self.axis(inner) for _ in range(blocks))
        return ((self.new(outer), self.concatenation(tuple(stretches))),)

    def _cut(self, piece: Piece, length: int) -> bool:
        """Split a piece after `length` entries, if that is between elements of its first atom."""
        if not piece:
            return False
        root, inner = self.find(piece[0]), self._product(piece[1:])
        if length % inner or not 0 < length // inner < self._size[root]:
            return False
        head = length // inner
        self._divide(root, (*self.axis(head), *self.axis(self._size[root] - head)))
        return True

    def cut(self, axis: NodeAxis, start: int, stop: int) -> NodeAxis | None:
        """The entries `start .. stop` of an axis, splitting atoms where need be.

        None where that can't be said.
        """
        for boundary in (start, stop):
            offset = 0
            for piece in self.expand(axis):
                length = self._product(piece)
                if offset < boundary < offset + length and not self._cut(piece, boundary - offset):
                    return None
                offset += length
        offset, inside = 0, []
        for piece in self.expand(axis):
            length = self._product(piece)
            if start <= offset and offset + length <= stop:
                inside.append(piece)
            offset += length
        return tuple(inside) if self.length(tuple(inside)) == stop - start else None

    def _merge_products(self, first: Piece, second: Piece) -> None:
        """Merge two products of equal length, factor by factor from the outermost.

        Factors are split where sizes divide.
        """
        while first and second:
            if self._size[first[0]] == self._size[second[0]]:
                self._union(first[0], second[0])
                first, second = first[1:], second[1:]
                continue
            left, right = self.expand((first,)), self.expand((second,))
            if len(left) > 1 or len(right) > 1:  # the outermost factor is a concatenation
                self.merge(left, right)
                return
            (first,), (second,) = left, right
            size_a, size_b = self._size[first[0]], self._size[second[0]]
            if size_a == size_b:
                continue
            longer = first[0] if size_a > size_b else second[0]
            if not self._factor(longer, min(size_a, size_b)):
                break
        for rest in (first, second):
            self.misalign((rest,), "axes that are reshaped differently in two places")

    def _factor(self, node: int, outer: int) -> bool:
        """Split an atom into a product whose outermost factor has `outer` elements, if possible."""
        rest, remainder = divmod(self._size[node], outer)
        if remainder:
            return False
        self._divide(node, ((self.new(outer), self.new(rest)),))
        return True

    def _union(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        self._parent[b] = a
        pins = [self._pinned[root] for root in (a, b) if root in self._pinned]
        if pins:  # the first, unless only the other one says where a constant was met
            self._pinned[a] = min(pins, key=lambda pin: pin.of_constant)
        split_a, split_b = self._split.get(a), self._split.pop(b, None)
        if split_a is not None and split_b is not None:
            self.merge(split_a, split_b)
        elif split_b is not None:
            self._split[a] = split_b
        if b in self._misaligned:
            self._misaligned.add(a)
        self._inherit(a)
