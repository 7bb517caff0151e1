"""Why an axis is permuted or not, read off a network's program."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import PyTree

from lmcjax.symmetry._discover import read_program
from lmcjax.symmetry._layout import Role
from lmcjax.symmetry._nodes import NodeAxis, Piece, Pin
from lmcjax.symmetry._reader import Reader


class ExplainedFactor(NamedTuple):
    """Some entries of an axis of a leaf, all of which one group permutes, or nothing does."""

    leaf: str
    axis: int | None  # None: the leaf is a single number
    length: int  # of the axis
    # the numbers of entries of the axis's factors: 16 * 6 is a product, 4 | 2 a concatenation
    layout: str
    size: int  # of this factor
    group: str | None  # None: nothing permutes these entries
    role: Role | None  # whether the axis writes the group, reads it, or both
    reason: str  # why nothing permutes the entries; empty where a group does
    source: str  # the line of the program that is the reason; empty: no line is


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What permutes each axis of each leaf, or why nothing does; printed, a table.

    Attributes:
        rows: one per factor of an axis; leaves in the order of their first use.
    """

    rows: tuple[ExplainedFactor, ...]

    def __iter__(self) -> Iterator[ExplainedFactor]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, leaf: str, axis: int | None = None) -> tuple[ExplainedFactor, ...]:
        """The rows of a leaf, or of one of its axes."""
        of_leaf = [row for row in self.rows if row.leaf == leaf]
        return tuple(row for row in of_leaf if axis is None or row.axis == axis)

    def cells(self) -> list[tuple[str, ...]]:
        """The table's cells, as texts; the first row is the heading.

        What is as in the row above, leaf or axis, is left out.
        """
        table: list[tuple[str, ...]] = [("leaf", "axis", "length", "permuted by", "or why not")]
        leaf_above = None
        axis_above = None
        for row in self.rows:
            same_leaf = row.leaf == leaf_above
            same_axis = same_leaf and row.axis == axis_above
            leaf = "" if same_leaf else row.leaf
            axis = "" if same_axis or row.axis is None else str(row.axis)
            length = "" if same_axis else _length_cell(row)
            table.append((leaf, axis, length, _group_cell(row), _reason_cell(row)))
            leaf_above = row.leaf
            axis_above = row.axis
        return table

    def __str__(self) -> str:
        table = self.cells()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for row in table:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


def _length_cell(row: ExplainedFactor) -> str:
    if row.axis is None:
        return ""
    return str(row.length) if row.layout == str(row.length) else f"{row.length} = {row.layout}"


def _group_cell(row: ExplainedFactor) -> str:
    """The group, and how it is used; a factor that is not all of its axis says how long it is."""
    text = "" if row.group is None else f"{row.group} ({row.role})"
    if row.size == row.length:
        return text
    return f"{row.size}: {text or '-'}"


def _reason_cell(row: ExplainedFactor) -> str:
    return f"{row.reason}, {_short(row.source)}" if row.source else row.reason


def _short(source: str) -> str:
    """`network.py:12 (apply)` of `/home/me/network.py:12:8 (make.<locals>.apply)`.

    Anything else stays as it is.
    """
    source = re.sub(r"\([^()]*<locals>\.", "(", source)
    return re.sub(r"^(?:.*[/\\])?([^/\\]+:\d+):\d+", r"\1", source)


def explain(
    apply: Callable[[PyTree, Any], Any],
    params: PyTree,
    x: Any,
    *,
    assume_no_ties: bool = False,
) -> Explanation:
    """Which group permutes each axis of each leaf, or else why nothing does, and in which line.

    It is read off the program as by `discover`, whose names the groups have; nothing is executed.
    An axis that several steps pin has the reason that was found first.

    Args:
        apply: static; `apply(params, x)` gives the outputs, in any structure of arrays.
        params: any pytree of arrays or `jax.ShapeDtypeStruct`.
        x: example inputs, a pytree of arrays or `jax.ShapeDtypeStruct`.
        assume_no_ties: as for `discover`.

    Returns:
        Rows of text and numbers, at least one per axis; `print` shows them as a table.
    """
    reader = read_program(apply, params, x, assume_no_ties=assume_no_ties)
    rows: list[ExplainedFactor] = []
    for leaf in reader.order:
        rows += _explain_leaf(reader, leaf)
    return Explanation(tuple(rows))


class _Entries(NamedTuple):
    """One factor of an axis: a group's neurons, or entries that nothing permutes."""

    size: int
    atom: int | None  # the group's index set
    pin: Pin | None


# the factors of a product; one that is a list is a concatenation
_Stretch: TypeAlias = list["_Entries | list[_Stretch]"]


def _explain_leaf(reader: Reader, leaf: int) -> list[ExplainedFactor]:
    name = reader.names[leaf]
    axes = reader.axes[leaf]
    if not axes:
        reason = _why_a_number_stays(reader, leaf)
        return [ExplainedFactor(name, None, 1, "1", 1, None, None, reason, "")]
    rows = []
    for i, axis in enumerate(axes):
        length = reader.nodes.length(axis)
        stretches = _stretches(reader, axis)
        layout = _layout(stretches)
        for size, atom, pin in _entries_of(stretches):
            group = None if atom is None else reader.group_names[atom]
            role = None if atom is None else reader.role(leaf, i, atom)
            reason, source = ("", "") if pin is None else (pin.reason, pin.source)
            row = ExplainedFactor(name, i, length, layout, size, group, role, reason, source)
            rows.append(row)
    return rows


def _why_a_number_stays(reader: Reader, leaf: int) -> str:
    if reader.is_counter(leaf):
        return "a counter: an integer that nothing uses"
    return "a leaf that nothing uses" if leaf in reader.unused else "a single number"


def _stretches(reader: Reader, axis: NodeAxis) -> list[_Stretch]:
    """The factors of an axis, stretch by stretch; neighbours that one line pins are joined."""
    stretches: list[_Stretch] = []
    for piece in axis:
        stretch = _factors(reader, piece)
        if not stretch:  # of no entries
            continue
        joined = _join_end_to_end(stretches[-1], stretch) if stretches else None
        if joined is None:
            stretches.append(stretch)
        else:
            stretches[-1] = joined
    return stretches or [[_Entries(0, None, Pin("no entries", ""))]]


def _factors(reader: Reader, piece: Piece) -> _Stretch:
    """The factors of one stretch; none where it has no entries."""
    nodes = reader.nodes
    factors: _Stretch = []
    for node in piece:
        size = nodes.size(node)
        if size == 0:
            return []
        if size == 1:
            continue
        concatenated = nodes.stretches(node)
        if concatenated is not None:
            inside = _stretches(reader, concatenated)
            factors += inside[0] if len(inside) == 1 else [inside]
            continue
        pin = nodes.pinned(node)
        before = factors[-1] if factors else None
        if pin is not None and isinstance(before, _Entries) and before.pin == pin:
            size *= before.size
            factors.pop()
        factors.append(_Entries(size, node if pin is None else None, pin))
    return factors or [_Entries(1, None, Pin("a single entry", ""))]


def _entries_of(stretches: Sequence[_Stretch]) -> Iterator[_Entries]:
    """What the stretches are made of, in order."""
    for stretch in stretches:
        for factor in stretch:
            if isinstance(factor, _Entries):
                yield factor
            else:
                yield from _entries_of(factor)


def _join_end_to_end(first: _Stretch, second: _Stretch) -> _Stretch | None:
    """Two stretches as one, if both are pinned as a whole, and for the same reason."""
    if len(first) != 1 or len(second) != 1:
        return None
    (before,) = first
    (after,) = second
    if not isinstance(before, _Entries) or not isinstance(after, _Entries):
        return None
    if before.pin is None or before.pin != after.pin:
        return None
    if before.size == after.size == 1:  # each is a single one: two are not
        return None
    return [before._replace(size=before.size + after.size)]


def _layout(stretches: Sequence[_Stretch]) -> str:
    products = [" * ".join(map(_factor_layout, stretch)) for stretch in stretches]
    return " | ".join(products)


def _factor_layout(factor: _Entries | list[_Stretch]) -> str:
    return str(factor.size) if isinstance(factor, _Entries) else f"({_layout(factor)})"
