"""A permutation spec written as text, as it stands in a TOML or JSON file."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from lmcjax.symmetry._layout import Axis, AxisLike, Factor, Role, fixed
from lmcjax.symmetry._spec import PermutationSpec

_FORM = (
    '"" where nothing acts, or "writes GROUP", "reads GROUP", "both GROUP" or "fixed NAME", where '
    "in the place of GROUP may stand a product A*B, a concatenation A | B, numbers for entries "
    "that nothing permutes, brackets, and GROUP/HOST for a group that varies along a host"
)
_WORDS = (*get_args(Role), "fixed")
_TOKEN = re.compile(r"\s*([*|()]|[^*|()\s]+)")


def spec_from_table(table: Mapping[str, Any]) -> PermutationSpec:
    """Read a spec from a table of texts, the written form of `PermutationSpec.from_axes`.

    >>> axes = {
    ...     "w1": ["", "writes hidden"],
    ...     "b1": ["writes hidden"],
    ...     "w2": ["reads 4*hidden", ""],
    ... }
    >>> spec_from_table({"axes": axes}).groups
    ('hidden',)

    Heads, with queries, keys and values one after the other in each:

    >>> axes = {"qkv": ["", "writes heads*(qk/heads | qk/heads | v/heads)"]}
    >>> spec_from_table({"axes": axes, "sizes": {"heads": 4, "qk": 8}}).groups
    ('heads', 'qk', 'v')

    Args:
        table: `"axes"`: leaf name to one entry per axis: `""` where nothing acts, `"writes GROUP"`,
            `"reads GROUP"` or `"both GROUP"`, where the group may be a product `A*B` (the first
            outermost), a concatenation `A | B`, with brackets, and with numbers for entries that
            nothing permutes. A word such as `writes` holds until the next one. `g/h` is a group
            that varies along `h`, which is another group, or entries that nothing permutes,
            `"fixed h"`. `"inputs"` and `"sizes"`, optional: see `from_axes`.

    Raises:
        ValueError: something else is written there (names the leaf), or `from_axes` refuses it.
    """
    if unknown := sorted(table.keys() - {"axes", "inputs", "sizes"}):
        raise ValueError(
            f"a spec's table has axes and perhaps inputs and sizes, not {unknown[0]!r}"
        )
    if not isinstance(table.get("axes"), Mapping):
        raise ValueError("a spec's table has axes: leaf name to one entry per axis")
    axes: dict[str, list[AxisLike]] = {}
    for leaf, entries in table["axes"].items():
        if isinstance(entries, str) or not isinstance(entries, Sequence):
            raise ValueError(f"leaf {leaf!r} has a list with one entry per axis, not {entries!r}")
        axes[leaf] = [_axis(leaf, entry) for entry in entries]
    return PermutationSpec.from_axes(axes, inputs=table.get("inputs"), sizes=table.get("sizes"))


def _axis(leaf: str, entry: Any) -> AxisLike:
    """Read one entry."""
    message = f"leaf {leaf!r}: {entry!r} is not {_FORM}"
    if not isinstance(entry, str):
        raise ValueError(message)
    if not entry.strip():
        return None
    try:
        return _Reader(entry).axis()
    except (ValueError, IndexError) as error:
        raise ValueError(message) from error


class _Reader:
    """Reads the text of one axis from left to right.

    Every method raises ValueError or IndexError where the text is not of the form.
    """

    def __init__(self, text: str) -> None:
        self.tokens = _TOKEN.findall(text)
        self.role: str | None = None

    def axis(self) -> Axis:
        """All of the text."""
        axis = self.concatenation()
        if self.tokens:
            raise ValueError(f"something follows: {self.tokens}")
        return axis

    def concatenation(self) -> Axis:
        """`A | B | ...`."""
        axis = self.product()
        while self._next_is("|"):
            axis = axis | self.product()
        return axis

    def product(self) -> Axis:
        """`A*B*...`."""
        axis = self.factor()
        while self._next_is("*"):
            axis = axis * self.factor()
        return axis

    def factor(self) -> Axis:
        """A name, a number, or something in brackets; words before it say what acts."""
        while self.tokens[0] in _WORDS:
            self.role = self.tokens.pop(0)
        if self._next_is("("):
            inside = self.concatenation()
            if not self._next_is(")"):
                raise ValueError("a bracket is not closed")
            return inside
        token = self.tokens.pop(0)
        if token.isdigit():
            return fixed(int(token))
        name, *along = token.split("/") if self.role != "fixed" else [token]
        is_name = all(part and part not in "*|()" for part in (name, *along))
        if self.role is None or not is_name:
            raise ValueError(f"{token!r} is not the name of something that is written or read")
        if self.role == "fixed":
            return fixed(name)
        return Factor(name, cast(Role, self.role), along=tuple(along))

    def _next_is(self, symbol: str) -> bool:
        """Take the next token if it is this one."""
        if self.tokens and self.tokens[0] == symbol:
            self.tokens.pop(0)
            return True
        return False
