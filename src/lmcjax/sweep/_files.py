"""Files that are there whole or not at all, and that know whether they have been damaged."""

import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save


def write_whole(path: Path, contents: bytes) -> None:
    """Write a file so that it is there whole or not at all, whenever the machine stops.

    Raises:
        OSError: it can't be written (a full disk, an unwritable folder); names the file.
    """
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    with naming(path):
        try:
            with open(unfinished, "wb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Store arrays, and what JSON can hold, with a checksum; errors as of `write_whole`."""
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    text = json.dumps(about)
    write_whole(path, save(arrays, {"about": text, "checksum": _checksum(arrays, text)}))


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `write_arrays` has stored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated or damaged; names it.
    """
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: truncated or damaged: {error}") from error
    if metadata.get("checksum") != _checksum(arrays, metadata.get("about", "")):
        raise ValueError(
            f"{path}: damaged: its contents do not have the checksum that it was stored with"
        )
    return arrays, json.loads(metadata["about"])


def _checksum(arrays: Mapping[str, np.ndarray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the operating system name the file that they are about."""
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write: {error.strerror}", str(error.filename or path)
        ) from error
