"""The data sets that come without a download."""

import numpy as np
import pytest

from lmcjax.data import Samples, load_dataset, stratified_split


@pytest.mark.parametrize(
    ("name", "train", "test", "shape"),
    [("mnist5k", 4000, 1000, (28, 28, 1)), ("digits", 1442, 355, (8, 8, 1))],
)
@pytest.mark.slow
def test_sizes_and_ranges(name, train, test, shape):
    dataset = load_dataset(name)
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (train, test)
    assert dataset.input_shape == shape
    assert dataset.train.inputs.dtype == np.float32
    assert dataset.train.inputs.min() == 0
    assert dataset.train.inputs.max() == 1
    assert set(dataset.test.labels) == set(range(10))


@pytest.mark.slow
def test_mnist5k_is_stratified_and_always_the_same():
    first, second = load_dataset("mnist5k"), load_dataset("mnist5k")
    np.testing.assert_array_equal(np.bincount(first.train.labels), np.full(10, 400))
    np.testing.assert_array_equal(np.bincount(first.test.labels), np.full(10, 100))
    np.testing.assert_array_equal(first.test.inputs, second.test.inputs)


def test_split_is_a_partition_that_keeps_pairs_together():
    labels = np.random.default_rng(0).integers(0, 3, 100)
    inputs = np.arange(100.0).reshape(100, 1, 1, 1)
    train, test = stratified_split(Samples(inputs, labels))
    together = np.concatenate([train.inputs, test.inputs]).ravel().astype(int)
    np.testing.assert_array_equal(np.sort(together), np.arange(100))
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), labels[together])
    np.testing.assert_array_equal(np.bincount(test.labels), np.bincount(labels) // 5)
