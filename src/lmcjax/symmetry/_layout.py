"""How one axis of a leaf is made up: of factors, their products and their concatenations.

`heads * (qk | qk | v)` is an axis that runs over heads, and within each head over its query, key
and value channels, one block after the other.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

Role: TypeAlias = Literal["writes", "reads", "both"]


class _Joinable:
    """What `*` makes a product of, and `|` a concatenation."""

    def __mul__(self, inner: "Axis") -> "Product":
        return Product((*self._items(Product), *inner._items(Product)))

    def __or__(self, after: "Axis") -> "Concatenation":
        return Concatenation((*self._items(Concatenation), *after._items(Concatenation)))

    def _items(self, kind: type) -> tuple["Axis", ...]:
        """The items of a product or concatenation, so that none stands in one of its own kind."""
        assert isinstance(self, (Factor, Product, Concatenation))
        if isinstance(self, kind) and not isinstance(self, Factor):
            return self.items
        return (self,)


@dataclasses.dataclass(frozen=True)
class Factor(_Joinable):
    """Entries that are numbered by one index: the neurons of a group, or what nothing permutes.

    Make one with `writes`, `reads`, `both` or `fixed`.

    Attributes:
        name: of the group that acts; or of entries that nothing permutes, so that groups may vary
            along them; or None.
        role: `"writes"` the group's neurons (incoming weights, biases, scales), `"reads"` them
            (outgoing weights), or `"both"` (residual streams). None: nothing permutes the entries.
        size: the number of entries that have no name.
        along: names of the factors along which the group's permutation varies. Each stands once
            beside this factor, in the same axis or in another one.
    """

    name: str | None
    role: Role | None = None
    size: int | None = None
    along: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in ("writes", "reads", "both", None):
            raise ValueError(f"a role is 'writes', 'reads' or 'both', not {self.role!r}")
        if self.name is None and (self.size is None or self.size < 0):
            raise ValueError(f"a stretch without a name has a length of at least 0: {self.size}")

    @property
    def group(self) -> str | None:
        """The group that permutes the entries, if any does."""
        return None if self.role is None else self.name

    def as_fixed(self) -> "Factor":
        """The same entries, with nothing that permutes them."""
        return dataclasses.replace(self, role=None, along=())

    def __str__(self) -> str:
        if self.name is None:
            return str(self.size)
        return "/".join((self.name, *self.along))


@dataclasses.dataclass(frozen=True)
class Product(_Joinable):
    """Every combination of its items, the first outermost."""

    items: tuple["Axis", ...]

    def __str__(self) -> str:
        return "*".join(
            f"({item})" if isinstance(item, Concatenation) else str(item) for item in self.items
        )


@dataclasses.dataclass(frozen=True)
class Concatenation(_Joinable):
    """Its items, one after the other."""

    items: tuple["Axis", ...]

    def __str__(self) -> str:
        return " | ".join(str(item) for item in self.items)


Axis: TypeAlias = Factor | Product | Concatenation
AxisLike: TypeAlias = Axis | None
"""One axis of a leaf; None: nothing acts on it."""


def writes(group: str, *, along: str | tuple[str, ...] = ()) -> Factor:
    """An axis that writes the neurons of `group`: incoming weights, biases, scales."""
    return Factor(group, "writes", along=_names(along))


def reads(group: str, *, along: str | tuple[str, ...] = ()) -> Factor:
    """An axis that reads the neurons of `group`: outgoing weights."""
    return Factor(group, "reads", along=_names(along))


def both(group: str, *, along: str | tuple[str, ...] = ()) -> Factor:
    """An axis that reads and writes the neurons of `group`, as on a residual stream."""
    return Factor(group, "both", along=_names(along))


def fixed(entries: int | str) -> Factor:
    """Entries that nothing permutes: so many, or as many as there are of that name.

    A name lets groups vary along the entries, as along the layers of a stack.
    """
    if isinstance(entries, str):
        return Factor(entries)
    return Factor(None, size=entries)


def _names(along: str | tuple[str, ...]) -> tuple[str, ...]:
    return (along,) if isinstance(along, str) else tuple(along)


def factors_of(axis: AxisLike) -> Iterator[Factor]:
    """The factors of an axis, in order."""
    if axis is None:
        return
    if isinstance(axis, Factor):
        yield axis
        return
    for item in axis.items:
        yield from factors_of(item)


def map_factors(function: Callable[[Factor], Factor], axis: AxisLike) -> AxisLike:
    """The axis with every factor replaced by what the function makes of it."""
    return None if axis is None else _map_factors(function, axis)


def _map_factors(function: Callable[[Factor], Factor], axis: Axis) -> Axis:
    if isinstance(axis, Factor):
        return function(axis)
    items = tuple(_map_factors(function, item) for item in axis.items)
    return dataclasses.replace(axis, items=items)


def groups_of(axes: tuple[AxisLike, ...]) -> set[str]:
    """The groups that act on some axes."""
    groups = set()
    for axis in axes:
        for factor in factors_of(axis):
            if factor.group is not None:
                groups.add(factor.group)
    return groups


def size_of(factor: Factor, sizes: Mapping[str, int]) -> int:
    """The number of a factor's entries.

    Args:
        factor: any.
        sizes: by name.
    """
    if factor.name is None:
        assert factor.size is not None
        return factor.size
    return sizes[factor.name]


def length_of(axis: Axis, sizes: Mapping[str, int]) -> int:
    """The number of an axis's entries.

    Args:
        axis: any.
        sizes: of the named factors.
    """
    if isinstance(axis, Factor):
        return size_of(axis, sizes)
    lengths = [length_of(item, sizes) for item in axis.items]
    return math.prod(lengths) if isinstance(axis, Product) else sum(lengths)


class Strand(NamedTuple):
    """Entries of an axis that are numbered by one index per factor.

    The entry `(i, j, ...)` stands at `start + i * strides[0] + j * strides[1] + ...`.
    """

    start: int
    factors: tuple[Factor, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]


def strands_of(axis: Axis, sizes: Mapping[str, int]) -> list[Strand]:
    """An axis cut into strands; every entry is in one of them.

    Args:
        axis: any.
        sizes: of the named factors.
    """
    return _strands(axis, sizes, 1)


def _strands(axis: Axis, sizes: Mapping[str, int], stride: int) -> list[Strand]:
    """The strands of an axis whose neighbouring entries stand `stride` apart."""
    if isinstance(axis, Factor):
        return [Strand(0, (axis,), (size_of(axis, sizes),), (stride,))]
    if isinstance(axis, Concatenation):
        concatenated = []
        start = 0
        for item in axis.items:
            for strand in _strands(item, sizes, stride):
                concatenated.append(strand._replace(start=start + strand.start))
            start += length_of(item, sizes) * stride
        return concatenated
    combined = [Strand(0, (), (), ())]
    inner = math.prod(length_of(item, sizes) for item in axis.items)
    for item in axis.items:
        length = length_of(item, sizes)
        inner = inner // length if length else 0
        inside = _strands(item, sizes, stride * inner)
        combined = [_combine(outer, strand) for outer in combined for strand in inside]
    return combined


def _combine(outer: Strand, inner: Strand) -> Strand:
    return Strand(
        outer.start + inner.start,
        outer.factors + inner.factors,
        outer.sizes + inner.sizes,
        outer.strides + inner.strides,
    )
