"""What two runs must have in common to be the same sweep."""

import hashlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from lmcjax.data import Dataset
from lmcjax.sweep._files import FORMAT
from lmcjax.sweep._grid import Sweep

# The packages whose version may change a result
_PACKAGES = ("lmcjax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")


def identity(sweep: Sweep, dataset: Dataset) -> dict[str, Any]:
    """Describe a sweep, its data and the versions it is computed with, as JSON holds values."""
    return {
        "format": FORMAT,
        "sweep": sweep.asdict(),
        "data": {
            "name": dataset.name,
            "source": dataset.source,
            "train_samples": len(dataset.train.labels),
            "test_samples": len(dataset.test.labels),
            "input_shape": list(dataset.input_shape),
            "num_classes": dataset.num_classes,
            "fingerprint": fingerprint(dataset),
        },
        "versions": {package: importlib.metadata.version(package) for package in _PACKAGES},
        "x64": bool(jnp.result_type(float) == jnp.float64),
    }


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of everything in a data set but its name."""
    digest = hashlib.sha256()
    for array in (*dataset.train, *dataset.test, np.asarray(dataset.num_classes)):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def differences(here: Mapping[str, Any], stored: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List where two nested dicts differ, one text for each place."""
    texts = []
    for name in sorted(here.keys() | stored.keys()):
        value_here = here.get(name)
        value_there = stored.get(name)
        if isinstance(value_here, Mapping) and isinstance(value_there, Mapping):
            texts += differences(value_here, value_there, f"{prefix}{name}.")
        elif value_here != value_there:
            texts.append(f"{prefix}{name}: {value_there!r} there, {value_here!r} here")
    return texts
