"""Reading IDX files, the format of MNIST and Fashion-MNIST."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_START = b"\x1f\x8b"


def read_idx(path: str | Path) -> np.ndarray:
    """Read one array from an IDX file, gzipped or not.

    An IDX file has two zero bytes, a type code, the number of axes, the length of each axis as a
    big-endian integer of four bytes, and the entries.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, truncated, has extra bytes or is no IDX file; says what was
            expected.

    Source: the format's description at the end of LeCun, Cortes and Burges, "The MNIST database".
    """
    path = Path(path)
    content = _read_plain(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _DTYPES:
        raise ValueError(
            f"{path}: not an IDX file: expected two zero bytes and a type code, "
            f"found {content[:4].hex()!r}"
        )
    dtype = np.dtype(_DTYPES[content[2]])
    ndim = content[3]
    start = 4 + 4 * ndim
    if len(content) < start:
        raise ValueError(
            f"{path}: truncated in its header: {len(content)} bytes, expected at least {start}"
        )
    shape = struct.unpack(f">{ndim}I", content[4:start])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise ValueError(
            f"{path}: holds {len(content)} bytes, expected {expected} "
            f"for {dtype.name} of shape {shape}"
        )
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def find_idx(folder: Path, stem: str) -> Path:
    """The file `stem` of a folder, gzipped or not, with a dash or a dot before `idx`.

    Some mirrors have the dot.

    Raises:
        FileNotFoundError: none of these; says which names were looked for.
    """
    with_dot = stem.replace("-idx", ".idx")
    names = [stem, f"{stem}.gz", with_dot, f"{with_dot}.gz"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder}: expected one of the files {names}")


def _read_plain(path: Path) -> bytes:
    """The bytes of a file, decompressed if it is gzipped.

    Raises:
        ValueError: the compression is damaged.
    """
    content = path.read_bytes()
    if not content.startswith(_GZIP_START):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged gzip file: {error}") from error
