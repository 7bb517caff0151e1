"""A matching in a file: `save_matching` and `load_matching`."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
from jaxtyping import Array
from safetensors.numpy import load_file, save_file

from lmcjax.matching._matching import Matching, Search, TotalSimilarity
from lmcjax.transport import AssignmentCertificate

_FORMAT = "lmcjax.Matching"
_VERSION = "2"
_BY_GROUP = ("permutations", "similarity", "identity_similarity", "alignments")
_PARTS: dict[str, Any] = {
    "total": TotalSimilarity,
    "search": Search,
}  # fields that have fields of their own


class _Name(NamedTuple):
    """Where an array stands: `similarity/group`, `total.reached`, `certificates.gap/group`."""

    field: str
    part: str  # of the field; empty: the field has none
    group: str  # empty: the field is of the whole matching


def save_matching(path: str | os.PathLike[str], matching: Matching) -> None:
    """Write a matching, or a batch of them, to one safetensors file.

    Args:
        path: of a file that is not there yet.
        matching: concrete arrays, with any batch axes.

    Raises:
        FileExistsError: the file is already there; matchings are never overwritten silently.
    """
    if os.path.exists(path):
        raise FileExistsError(f"{os.fspath(path)} already exists")
    tensors = {}
    for name, value in _named_arrays(matching).items():
        tensors[name] = np.array(value, order="C")
    save_file(tensors, path, metadata={"format": _FORMAT, "version": _VERSION})


def load_matching(path: str | os.PathLike[str]) -> Matching:
    """Read a matching that `save_matching` wrote.

    Raises:
        ValueError: the file is no matching, of another version, or damaged.
    """
    where = os.fspath(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{where} is not a readable safetensors file: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{where} is no saved matching: its format is {metadata.get('format')!r}")
    if metadata.get("version") != _VERSION:
        raise ValueError(
            f"{where} is a matching of version {metadata.get('version')}, "
            f"this lmcjax reads version {_VERSION}: match the networks again"
        )

    contents = _Contents()
    for key, tensor in tensors.items():
        name = _read_name(key)
        if name is None:
            raise ValueError(f"{where} is no saved matching: it holds a tensor {key!r}")
        contents.add(name, jnp.asarray(tensor))
    return contents.matching(where)


class _Contents:
    """The arrays of a file, by field."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {field: {} for field in _BY_GROUP}
        self.parts: dict[str, dict[str, Array]] = {field: {} for field in _PARTS}
        self.certificates: dict[str, dict[str, Array]] = {}

    def add(self, name: _Name, array: Array) -> None:
        """Put an array where its name says."""
        if name.field == "certificates":
            self.certificates.setdefault(name.group, {})[name.part] = array
        elif name.part:
            self.parts[name.field][name.part] = array
        elif name.group:
            self.fields[name.field][name.group] = array
        else:
            self.fields[name.field] = array

    def matching(self, where: str) -> Matching:
        """The matching, once all arrays are there.

        Raises:
            ValueError: some are missing.
        """
        fields = dict(self.fields)
        fields["alignments"] = fields["alignments"] or None
        for field, kind in _PARTS.items():
            if self.parts[field]:
                fields[field] = _whole(kind, self.parts[field], field, where)
        if self.certificates:
            proofs = {}
            for group, values in self.certificates.items():
                name = f"certificates/{group}"
                proofs[group] = _whole(AssignmentCertificate, values, name, where)
            fields["certificates"] = proofs
        required = [name for name in Matching._fields if name not in Matching._field_defaults]
        missing = [name for name in required if name not in fields]
        if missing:
            raise ValueError(f"{where} is no saved matching: it lacks {missing}")
        return Matching(**fields)


def _named_arrays(matching: Matching) -> dict[str, Array]:
    """Every array by its name in the file."""
    named: dict[str, Array] = {}
    for field in (*_BY_GROUP, "iterations", "converged", "finite"):
        value = getattr(matching, field)
        if isinstance(value, dict):
            for group, array in value.items():
                named[f"{field}/{group}"] = array
        elif value is not None:
            named[field] = value
    for field in _PARTS:
        part = getattr(matching, field)
        if part is not None:
            for name, array in part._asdict().items():
                named[f"{field}.{name}"] = array
    for group, certificate in (matching.certificates or {}).items():
        for name, array in certificate._asdict().items():
            named[f"certificates.{name}/{group}"] = array
    return named


def _read_name(key: str) -> _Name | None:
    """What a name in the file says; None: nothing that a matching has."""
    before, slash, group = key.partition("/")
    field, dot, part = before.partition(".")
    if field == "certificates":
        known = bool(group) and part in AssignmentCertificate._fields
    elif field in _PARTS:
        known = not slash and part in _PARTS[field]._fields
    elif field in _BY_GROUP:
        known = bool(group) and not dot
    else:
        known = key in ("iterations", "converged", "finite")
    return _Name(field, part, group) if known else None


def _whole(kind: Any, values: Mapping[str, Array], name: str, where: str) -> Any:
    """A NamedTuple of all its fields.

    Raises:
        ValueError: one is missing.
    """
    missing = [field for field in kind._fields if field not in values]
    if missing:
        raise ValueError(f"{where} is no saved matching: {name} lacks {missing}")
    return kind(**values)
