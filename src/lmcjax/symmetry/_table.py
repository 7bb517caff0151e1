"""A permutation spec written as text, as it stands in a TOML or JSON file."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmcjax.symmetry._spec import Axis, PermutationSpec, Segment, fixed

_FORM = (
    '"" where nothing acts, "writes GROUP", "reads GROUP", "both GROUP", each optionally with outer=N, inner=N and '
    'batch=I,J, or "fixed N"; a list of these for a concatenation'
)


def spec_from_table(table: Mapping[str, Any]) -> PermutationSpec:
    """A spec from a table of texts, the written form of `PermutationSpec.from_axes`.

    >>> spec_from_table({"axes": {
    ...     "w1": ["", "writes hidden"], "b1": ["writes hidden"], "w2": ["reads hidden outer=4",
    ""]}}).groups ('hidden',)

    Args:
        table: `"axes"`: leaf name to one entry per axis: `""` where nothing acts, `"writes GROUP"`,
            `"reads GROUP"` or `"both GROUP"`, each optionally followed by `outer=N`, `inner=N` and
            `batch=I,J` (see `Segment`), or `"fixed N"`; a list of these for a concatenation.
            `"inputs"`, optional: see `from_axes`.

    Raises:
        ValueError: something else is written there; names the leaf. Or as of `from_axes`.
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
    parts = [entry] if isinstance(entry, str) else entry
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"leaf {leaf!r}: {entry!r} is not {_FORM}")
    return tuple(_segment(leaf, part) for part in parts if part)


def _segment(leaf: str, text: str) -> Segment:
    role, _, rest = text.partition(" ")
    name, *options = rest.split() or [""]
    try:
        if role == "fixed" and not options:
            return fixed(int(name))
        given = dict(option.split("=") for option in options)
        batch = tuple(int(axis) for axis in given.pop("batch", "").split(",") if axis)
        if not name or given.keys() - {"outer", "inner"}:
            raise ValueError(text)
        return Segment(
            name, role, batch_axes=batch, **{key: int(value) for key, value in given.items()}
        )  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise ValueError(f"leaf {leaf!r}: {text!r} is not {_FORM}") from error
