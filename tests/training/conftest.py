"""What the tests of training share: a small network, its data, and configurations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax.models import MLP, FlaxNetwork
from lmcjax.training import TrainConfig


@pytest.fixture(scope="session")
def make_data() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """`make_data()`: 130 inputs of six features, and their labels, one of three classes."""

    def make(dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 130).astype(np.int32)
        inputs = np.eye(3, 6)[labels] + 0.3 * rng.normal(size=(130, 6))
        return inputs.astype(dtype), labels

    return make


@pytest.fixture(scope="session")
def config() -> Callable[..., TrainConfig]:
    """`config(rate, **options)`: a run of two epochs, unless the options say otherwise."""
    network = FlaxNetwork(MLP((12, 10), 3), (6,))

    def make(rate: object = 0.05, **options: object) -> TrainConfig:
        return TrainConfig(rate, network, **{"num_steps": 26, "batch_size": 10, **options})

    return make


@pytest.fixture(scope="session")
def many(config: Callable[..., TrainConfig]) -> Callable[[int], tuple[TrainConfig, jax.Array]]:
    """`many(count)`: the configurations of so many runs, and a key for each."""

    def make(count: int) -> tuple[TrainConfig, jax.Array]:
        rates = jnp.asarray(np.logspace(-3, -1, count))
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(count))
        return config(rates), keys

    return make
