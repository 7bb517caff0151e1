"""Checkpoints: safetensors files whose keys are the parameters' paths, in the files' own dtypes."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lmcjax.models import Network
from lmcjax.symmetry import Permutations, PermutationSpec, named_leaves, permute_leaf, rebuild

# The names that a file gives to its dtypes. Complex numbers are missing since no matching compares
# them, and dtypes of 4 and 6 bits since several of their entries share a byte.
_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "F8_E4M3FNUZ": np.dtype(jnp.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(jnp.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(jnp.float8_e8m0fnu),
    "BF16": np.dtype(jnp.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}


class Checkpoint(NamedTuple):
    """What a safetensors file holds."""

    leaves: dict[str, np.ndarray]  # by the parameters' paths, in the file's dtypes
    metadata: dict[str, str]


def read_checkpoint(path: Path) -> Checkpoint:
    """The contents of a safetensors file; 64-bit leaves stay 64-bit leaves.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no safetensors file, or a leaf has a dtype that is not supported.
    """
    from safetensors import SafetensorError, deserialize, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        entries = deserialize(path.read_bytes())
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: no safetensors file, or truncated: {error}") from error
    leaves = {}
    for name, entry in sorted(entries):
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            supported = ", ".join(_DTYPES)
            raise ValueError(f"{path}: {name!r} has dtype {entry['dtype']}, not one of {supported}")
        leaves[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
    return Checkpoint(leaves, metadata)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a safetensors file that `read_checkpoint` reads back bit for bit."""
    from safetensors.numpy import save_file

    contiguous = {name: np.array(leaf, order="C") for name, leaf in checkpoint.leaves.items()}
    save_file(contiguous, str(path), metadata=checkpoint.metadata)


def permute_checkpoint(
    spec: PermutationSpec, permutations: Permutations, leaves: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """`permute` for arrays of every dtype: whole entries are moved, and no bit of them changes.

    Args:
        spec: bound to the leaves.
        permutations: that fit the spec.
        leaves: by name.
    """
    moved = {}
    for name, axes in spec.leaves:
        leaf = leaves[name]
        # JAX would narrow 64 bits to 32, but not bytes. The bytes of an entry lie along a last
        # axis of their own, on which nothing acts.
        entries = leaf[..., np.newaxis].view(np.uint8)
        permuted = np.asarray(permute_leaf((*axes, None), permutations, entries))
        moved[name] = permuted.view(leaf.dtype)[..., 0]
    return moved


def in_float32(leaves: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """What checkpoints without a program are compared in, whatever their own dtypes are."""
    return {name: jnp.asarray(leaf.astype(jnp.float32)) for name, leaf in leaves.items()}


def params_by_path(leaves: Mapping[str, np.ndarray], key: Array) -> PyTree:
    """The leaves as nested dicts: `"Dense_0/kernel"` becomes `{"Dense_0": {"kernel": ...}}`.

    Args:
        leaves: by path; not changed.
        key: not used. It makes an `init(key)` of this function.

    Raises:
        ValueError: a path is the beginning of another one; names it.
    """
    params: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *outer, last = path.split("/")
        inner = params
        for name in outer:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{path!r}: {name!r} is a leaf itself")
        if last in inner:
            raise ValueError(f"{path!r} is a leaf, and has leaves")
        inner[last] = jnp.asarray(leaf)
    return params


def without_ties(
    path: Path, leaves: Mapping[str, np.ndarray], ties: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """The leaves, each under one name only.

    Args:
        path: of the file that they come from, for messages.
        leaves: by name. Of tied leaves the file has all names or, as safetensors' `save_model`
            writes it, one.
        ties: for a name that is not kept, the name that is.

    Raises:
        ValueError: two leaves that must be one are different; names both.
    """
    kept: dict[str, np.ndarray] = {}
    for name, leaf in leaves.items():
        kept_name = ties.get(name, name)
        twin = kept.setdefault(kept_name, leaf)
        if twin.tobytes() != leaf.tobytes():
            raise ValueError(f"{path}: {name!r} differs from {kept_name!r}, to which it is tied")
    return kept


def with_ties(
    leaves: Mapping[str, np.ndarray], names: Iterable[str], ties: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """The leaves under all the names of a file: what `without_ties` has taken away, put back."""
    return {name: leaves[ties.get(name, name)] for name in names}


def params_of_network(path: Path, leaves: Mapping[str, np.ndarray], network: Network) -> PyTree:
    """The leaves in the structure and the dtypes of the network's parameters.

    Args:
        path: of the file that they come from, for messages.
        leaves: by name.
        network: whose `init` gives the structure, the shapes and the dtypes.

    Raises:
        ValueError: names or shapes are not those of the network, or a leaf has fractions where
            the network has integers; names the first.
    """
    expected_params = jax.eval_shape(network.init, jax.random.key(0))
    expected = named_leaves(expected_params)
    _check_names(path, leaves, expected)
    converted = {}
    for name, like in expected.items():
        leaf = leaves[name]
        if leaf.shape != like.shape:
            raise ValueError(
                f"{path}: {name!r} has shape {leaf.shape}, the network's has {like.shape}"
            )
        has_fractions = jnp.issubdtype(leaf.dtype, jnp.floating)
        if has_fractions and not jnp.issubdtype(like.dtype, jnp.inexact):
            raise ValueError(
                f"{path}: {name!r} has dtype {leaf.dtype}, the network's has {like.dtype}"
            )
        converted[name] = jnp.asarray(leaf.astype(like.dtype))
    return rebuild(expected_params, converted)


def _check_names(path: Path, leaves: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a file that lacks a leaf of the network, or has one more."""
    missing = [name for name in expected if name not in leaves]
    if missing:
        raise ValueError(
            f"{path}: lacks {missing[0]!r}, which the network has; the file has {sorted(leaves)}"
        )
    foreign = sorted(leaves.keys() - expected.keys())
    if foreign:
        raise ValueError(
            f"{path}: has {foreign[0]!r}, which the network lacks; "
            f"the network has {sorted(expected)}"
        )


def distance(leaves_a: Mapping[str, np.ndarray], leaves_b: Mapping[str, np.ndarray]) -> float:
    """The Euclidean distance of all leaves together, in float64."""
    total = 0.0
    for name, leaf in leaves_a.items():
        difference = leaf.astype(float) - leaves_b[name].astype(float)
        total += float((difference**2).sum())
    return math.sqrt(total)
