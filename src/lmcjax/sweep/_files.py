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

FORMAT = 2
"""The number of the format of every file in a sweep's folder; it rises when any of them changes."""


def check_format(path: Path, found: Any) -> None:
    """Check the number that a file holds; None: it holds none, as files did before format 2.

    Raises:
        ValueError: the file is of another format; names it.
    """
    if found == FORMAT:
        return
    stored = "no format number" if found is None else f"format {found!r}"
    raise ValueError(
        f"{path}: written by another version of lmcjax: it has {stored}, and this version reads "
        f"format {FORMAT} only; compute the sweep again in a new folder"
    )


def write_whole(path: Path, contents: bytes) -> None:
    """Write a file so that it is there whole or not at all, whenever the machine stops.

    Raises:
        OSError: it can't be written (a full disk, an unwritable folder); names the file.
    """
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    with errors_name(path):
        try:
            with open(unfinished, "wb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            _sync_folder(path.parent)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def _sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk: a renamed file may else be lost with the power."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Store arrays and what is said about them (plain values), with a checksum.

    Raises:
        OSError: as `write_whole`.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    text = json.dumps({"format": FORMAT, **about})
    metadata = {"about": text, "checksum": _checksum(contiguous, text)}
    write_whole(path, save(contiguous, metadata=metadata))


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays that `write_arrays` stored, and what was said about them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, damaged or of another format; names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    arrays: dict[str, np.ndarray] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                arrays[name] = file.get_tensor(name)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: truncated or damaged: {error}") from error
    text = metadata.get("about", "")
    if metadata.get("checksum") != _checksum(arrays, text):
        raise ValueError(
            f"{path}: damaged: its contents do not have the checksum that it was stored with"
        )
    about = json.loads(text)
    # Only now: a wrong number in a damaged file says nothing about its format
    check_format(path, about.get("format"))
    return arrays, about


def _checksum(arrays: Mapping[str, np.ndarray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


@contextlib.contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Make errors of the operating system name the file that they are about."""
    try:
        yield
    except BlockingIOError:
        # A lock that is held elsewhere is no failure to write
        raise
    except OSError as error:
        raise type(error)(
            error.errno, f"cannot write: {error.strerror}", str(error.filename or path)
        ) from error
