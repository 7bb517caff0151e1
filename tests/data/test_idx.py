"""IDX files: every way in which one can be wrong names the file and what was expected."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from lmcjax.data import load_dataset, read_idx


def idx_bytes(array: np.ndarray) -> bytes:
    codes = {np.uint8: 0x08, np.int8: 0x09, np.int32: 0x0C, np.float32: 0x0D}
    kind = bytes([0, 0, codes[array.dtype.type], array.ndim])
    lengths = struct.pack(f">{array.ndim}I", *array.shape)
    entries = array.astype(array.dtype.newbyteorder(">")).tobytes()
    return kind + lengths + entries


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 5, 4), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, images: np.ndarray) -> Path:
    labels = (np.arange(12) % 3).astype(np.uint8)
    for prefix, count in (("train", 12), ("t10k", 6)):
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(images[:count]))
        compressed = gzip.compress(idx_bytes(labels[:count]))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(compressed)
    return tmp_path


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_round_trip(tmp_path, dtype, pack):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    (tmp_path / "a").write_bytes(pack(idx_bytes(array)))
    read = read_idx(tmp_path / "a")
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, array)


def test_folder_of_plain_and_gzipped_files(folder, images):
    dataset = load_dataset(folder)
    assert dataset.num_classes == 3
    assert dataset.train.inputs.shape == (12, 5, 4, 1)
    np.testing.assert_array_equal(dataset.train.inputs[..., 0], (images / 255).astype(np.float32))
    np.testing.assert_array_equal(dataset.test.labels, [0, 1, 2, 0, 1, 2])


def test_truncated(folder):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-7])
    message = r"train-images-idx3-ubyte: holds 249 bytes, expected 256 for uint8"
    with pytest.raises(ValueError, match=message):
        load_dataset(folder)


def test_extra_bytes(folder):
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="holds 257 bytes, expected 256"):
        load_dataset(folder)


def test_truncated_header(tmp_path):
    (tmp_path / "a").write_bytes(b"\0\0\x08\x03\0\0")
    with pytest.raises(ValueError, match="truncated in its header: 6 bytes, expected at least 16"):
        read_idx(tmp_path / "a")


def test_damaged_gzip(folder):
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz: damaged gzip file"):
        load_dataset(folder)


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\0\0\x07\x01\0\0\0\1\0"])
def test_not_an_idx_file(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="a: not an IDX file"):
        read_idx(tmp_path / "a")


def test_images_and_labels_differ_in_number(folder):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(idx_bytes(np.zeros(11, np.uint8)))
    with pytest.raises(ValueError, match="12 images but 11 labels"):
        load_dataset(folder)


def test_labels_in_place_of_images(folder):
    (folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros(12, np.uint8)))
    message = r"train-images-idx3-ubyte: expected images \[n, h, w\] of uint8, found uint8"
    with pytest.raises(ValueError, match=message):
        load_dataset(folder)


def test_images_in_place_of_labels(folder, images):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(idx_bytes(images))
    with pytest.raises(ValueError, match=r"expected integer labels \[n\]"):
        load_dataset(folder)


@pytest.mark.parametrize("dtype", [np.int8, np.int32])
@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_negative_labels(folder, name, dtype):
    labels = np.zeros(12 if name.startswith("train") else 6, dtype)
    labels[[2, 4]] = -7, -1
    (folder / name).write_bytes(idx_bytes(labels))
    message = rf"{name}: the label of sample 2 is -7, expected 0 or more"
    with pytest.raises(ValueError, match=message):
        load_dataset(folder)


def test_labels_of_the_test_set_alone_count_as_classes(folder):
    """The number of classes is one more than the largest label of both sets."""
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx_bytes(np.full(6, 8, np.int8)))
    assert load_dataset(folder).num_classes == 9


def test_train_and_test_of_different_shapes(folder):
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((6, 5, 5), np.uint8)))
    message = r"training images are \(5, 4, 1\), test images \(5, 5, 1\)"
    with pytest.raises(ValueError, match=message):
        load_dataset(folder)


def test_no_images(folder):
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((0, 5, 4), np.uint8)))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx_bytes(np.zeros(0, np.uint8)))
    with pytest.raises(ValueError, match="no images"):
        load_dataset(folder)


def test_missing_file(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    message = r"expected one of the files .*t10k-labels-idx1-ubyte"
    with pytest.raises(FileNotFoundError, match=message):
        load_dataset(folder)


def test_unknown_name_or_missing_folder():
    message = "unknown data set 'no-such-thing': expected mnist5k"
    with pytest.raises(FileNotFoundError, match=message):
        load_dataset("no-such-thing")
