"""The mean-field network against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax.experiments.claims.mean_field import mean_field
from lmcjax.symmetry import discover
from lmcjax.training import TrainConfig, init_state, train_steps

pytestmark = pytest.mark.usefixtures("quick_compilation")


def network(width: int):
    return mean_field(width=width, num_hidden_layers=1, input_shape=(2, 2, 1), num_classes=3)


def test_the_mean_field_network_is_an_average_of_neurons(rng):
    net, x = network(6), rng.uniform(size=(5, 2, 2, 1)).astype(np.float32)
    stored = net.init(jax.random.key(0))
    w, b, a = (
        np.asarray(leaf) * 6**0.5
        for leaf in (*stored["Dense_0"].values(), *stored["Dense_1"].values())
    )
    w, b = (w, b) if w.ndim == 2 else (b, w)
    expected = np.mean(
        [np.tanh(x.reshape(5, 4) @ w[:, i] + b[i])[:, None] * a[i] for i in range(6)], axis=0
    )
    np.testing.assert_allclose(net.apply(stored, x), expected, atol=1e-6)
    assert discover(net.apply, stored, x).groups == ("Dense_0",)
    wider = network(9).init(jax.random.key(0))
    np.testing.assert_allclose(wider["Dense_1"]["kernel"][:6] * 3, a, rtol=1e-6)
    with pytest.raises(ValueError, match="has 1 hidden layer, not 2"):
        mean_field(width=6, num_hidden_layers=2, input_shape=(4,), num_classes=3)


def test_neurons_move_by_the_rate_whatever_the_width(rng):
    """Twice the neurons, each twice there: the same function, and the same step of every neuron."""
    x, y = rng.uniform(size=(8, 4)).astype(np.float32), np.arange(8, dtype=np.int32) % 3
    narrow = network(3).init(jax.random.key(1))
    double = {
        "Dense_0": {
            "kernel": jnp.tile(narrow["Dense_0"]["kernel"], 2),
            "bias": jnp.tile(narrow["Dense_0"]["bias"], 2),
        },
        "Dense_1": {"kernel": jnp.tile(narrow["Dense_1"]["kernel"], (2, 1))},
    }
    double = jax.tree.map(lambda leaf: leaf / 2**0.5, double)

    def after(net, params):
        config = TrainConfig(
            0.5, net, num_steps=5, batch_size=8, optimizer="sgd_plain", warmup_steps=0
        )
        state, _ = train_steps(init_state(config, jax.random.key(0), params), (x, y), 5)
        return state.params

    moved, moved_double = after(network(3), narrow), after(network(6), double)
    np.testing.assert_allclose(
        moved_double["Dense_0"]["kernel"][:, :3] * 2**0.5, moved["Dense_0"]["kernel"], rtol=1e-4
    )
    assert np.abs(moved["Dense_0"]["kernel"] - narrow["Dense_0"]["kernel"]).max() > 1e-3
