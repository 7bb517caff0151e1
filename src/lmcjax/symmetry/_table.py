"""A permutation spec written as text, as it stands in a TOML or JSON file."""

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

from lmcjax.symmetry._spec import Axis, PermutationSpec, Role, Segment, fixed

_FORM = (
    '"" where nothing acts, "writes GROUP", "reads GROUP", "both GROUP", each optionally with '
    'outer=N, inner=N and batch=I,J, or "fixed N"; a list of these for a concatenation'
)


def spec_from_table(table: Mapping[str, Any]) -> PermutationSpec:
    """Read a spec from a table of texts, the written form of `PermutationSpec.from_axes`.

    >>> axes = {
    ...     "w1": ["", "writes hidden"],
    ...     "b1": ["writes hidden"],
    ...     "w2": ["reads hidden outer=4", ""],
    ... }
    >>> spec_from_table({"axes": axes}).groups
    ('hidden',)

    Args:
        table: `"axes"`: leaf name to one entry per axis: `""` where nothing acts, `"writes GROUP"`,
            `"reads GROUP"` or `"both GROUP"`, each optionally followed by `outer=N`, `inner=N` and
            `batch=I,J` (see `Segment`), or `"fixed N"`; a list of these for a concatenation.
            `"inputs"`, optional: see `from_axes`.

    Raises:
        ValueError: something else is written there (names the leaf), or `from_axes` refuses it.
    """
    if unknown := sorted(table.keys() - {"axes", "inputs"}):
        raise ValueError(f"a spec's table has axes and perhaps inputs, not {unknown[0]!r}")
    if not isinstance(table.get("axes"), Mapping):
        raise ValueError("a spec's table has axes: leaf name to one entry per axis")
    axes: dict[str, list[Axis]] = {}
    for leaf, entries in table["axes"].items():
        if isinstance(entries, str) or not isinstance(entries, Sequence):
            raise ValueError(f"leaf {leaf!r} has a list with one entry per axis, not {entries!r}")
        axes[leaf] = [_axis(leaf, entry) for entry in entries]
    return PermutationSpec.from_axes(axes, inputs=table.get("inputs"))


def _axis(leaf: str, entry: Any) -> Axis:
    texts = [entry] if isinstance(entry, str) else entry
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"leaf {leaf!r}: {entry!r} is not {_FORM}")
    segments = []
    for text in texts:
        if not text:
            continue
        try:
            segments.append(_segment(text))
        except ValueError as error:
            raise ValueError(f"leaf {leaf!r}: {text!r} is not {_FORM}") from error
    return tuple(segments)


def _segment(text: str) -> Segment:
    """Read one segment.

    Raises:
        ValueError: the text is not of the form.
    """
    role, _, rest = text.partition(" ")
    words = rest.split()
    if not words:
        raise ValueError("no group is named")
    name = words[0]
    options = words[1:]
    if role == "fixed" and not options:
        return fixed(int(name))
    if role not in get_args(Role):
        raise ValueError(f"there is no role {role!r}")
    values = {"outer": "1", "inner": "1", "batch": ""}
    for option in options:
        key, value = option.split("=")
        if key not in values:
            raise ValueError(f"there is no option {key!r}")
        values[key] = value
    return Segment(
        name,
        cast(Role, role),
        outer=int(values["outer"]),
        inner=int(values["inner"]),
        batch_axes=tuple(int(axis) for axis in values["batch"].split(",") if axis),
    )
