"""One run, and many: the same network whatever ran beside it."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lmcjax
from lmcjax.models import MLP, FlaxNetwork
from lmcjax.training import (
    TrainConfig,
    bytes_per_network,
    init_state,
    learning_rate_schedule,
    memory_budget,
    networks_per_call,
    train_in_calls,
    train_networks,
    train_steps,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

NETWORK = FlaxNetwork(MLP((12, 10), 3), (6,))
KEY = jax.random.key(0)
train = jax.jit(
    lmcjax.train
)  # compiled once per configuration: the learning rate is no part of the program


def make_data(num_samples: int = 130, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, num_samples).astype(np.int32)
    inputs = np.eye(3, 6)[labels] + 0.3 * rng.normal(size=(num_samples, 6))
    return inputs.astype(dtype), labels


def config(rate: object = 0.05, **options: object) -> TrainConfig:
    return TrainConfig(rate, NETWORK, **{"num_steps": 26, "batch_size": 10, **options})


def many(count: int) -> tuple[TrainConfig, jax.Array]:
    rates = jnp.asarray(np.logspace(-3, -1, count))
    return config(rates), jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(count))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_learns(optimizer):
    result = train(config(optimizer=optimizer, num_steps=130), KEY, make_data())
    assert result.finite
    assert result.losses[-13:].mean() < 0.3 * result.losses[:13].mean()


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_flagged(label):
    """In the step whose batch it is in, and for the run."""
    inputs, labels = make_data()
    labels[50] = label
    result = train(config(num_steps=13), KEY, (inputs, labels))  # one epoch: every sample once
    assert np.isnan(result.losses).sum() == 1
    assert not result.finite


@pytest.mark.parametrize(("name", "momentum"), [("sgd", 0.9), ("sgd_plain", 0.0)])
def test_agrees_with_a_plain_loop(name, momentum):
    """Optax step by step, in Python, over the same shuffles."""
    data, setup = make_data(), config(num_steps=26, optimizer=name)
    state = init_state(setup, KEY)
    optimizer = optax.sgd(learning_rate_schedule(setup), momentum=momentum)
    params, opt_state, losses = state.params, optimizer.init(state.params), []

    @jax.jit
    def step(params, opt_state, x, y):
        def loss_fn(p):
            log_probabilities = jax.nn.log_softmax(NETWORK.apply(p, x))
            return -jnp.take_along_axis(log_probabilities, y[:, None], axis=1).mean()

        loss, gradient = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    for epoch in range(2):
        order = np.argsort(
            jax.random.bits(jax.random.fold_in(state.key, epoch), (130,)), kind="stable"
        )
        for batch in order.reshape(13, 10):
            params, opt_state, loss = step(params, opt_state, data[0][batch], data[1][batch])
            losses.append(loss)
    result = train(setup, KEY, data)
    np.testing.assert_allclose(result.losses, losses, rtol=1e-4)


@pytest.mark.parametrize("pieces", [(13, 13), (5, 21), (1, 12, 13)])
def test_steps_cut_anywhere_are_the_same_run(pieces):
    data = make_data()
    state, losses = init_state(config(), KEY), []
    for piece in pieces:
        state, new = jax.jit(train_steps, static_argnums=2)(state, data, piece)
        losses.append(new)
    whole = train(config(), KEY, data)
    np.testing.assert_allclose(np.concatenate(losses), whole.losses, rtol=1e-5)
    chex.assert_trees_all_close(state.params, whole.params, rtol=1e-4, atol=1e-6)
    assert state.step == 26


def test_each_epoch_visits_every_sample_once():
    data = (
        np.arange(130.0, dtype=np.float32)[:, None] * np.ones((1, 6), np.float32),
        np.zeros(130, np.int32),
    )
    seen = []
    probe = dataclasses.replace(config(), loss=lambda outputs, labels: outputs.sum() * 0)

    class Recorder:
        def init(self, key):
            return {"w": jnp.zeros(())}

        def apply(self, params, inputs):
            jax.debug.callback(lambda x: seen.append(np.asarray(x[:, 0])), inputs, ordered=True)
            return inputs * params["w"]

    state, _ = train_steps(
        init_state(dataclasses.replace(probe, network=Recorder()), KEY), data, 26
    )
    jax.effects_barrier()
    epochs = np.concatenate(seen).reshape(2, 130)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(130), (2, 1)))
    assert (epochs[0] != epochs[1]).any()
    assert state.finite


def test_schedule_is_the_papers():
    setup = config(0.1, num_steps=110, warmup_steps=10)
    schedule = learning_rate_schedule(setup)
    assert np.isclose(schedule(0), 1e-6)
    assert np.isclose(schedule(5), (1e-6 + 0.1) / 2)
    assert np.isclose(schedule(10), 0.1)
    assert np.isclose(schedule(60), 0.05)
    assert np.isclose(schedule(110), 0, atol=1e-9)
    reference = optax.warmup_cosine_decay_schedule(1e-6, 0.1, 10, 110)
    steps = np.arange(111)
    np.testing.assert_allclose(
        jax.vmap(schedule)(steps), jax.vmap(reference)(steps), rtol=1e-5, atol=1e-9
    )


def test_same_seed_same_bits():
    configs, keys = many(3)
    first, second = (train_networks(configs, keys, make_data()) for _ in range(2))
    chex.assert_trees_all_equal(first, second)


@pytest.mark.parametrize("networks_per_batch", [None, 5])
@pytest.mark.slow
def test_alone_or_among_48(networks_per_batch):
    """Same initial bits; losses within 1e-5 after one epoch."""
    configs, keys = many(48)
    data = make_data()
    among = train_networks(configs, keys, data, networks_per_batch=networks_per_batch)
    assert among.losses.shape == (48, 26)
    states = jax.jit(jax.vmap(init_state))(configs, keys)
    for i in (0, 7, 47):
        single = dataclasses.replace(configs, learning_rate=configs.learning_rate[i])
        alone = train(single, keys[i], data)
        chex.assert_trees_all_equal(
            init_state(single, keys[i]).params, jax.tree.map(lambda leaf: leaf[i], states.params)
        )
        np.testing.assert_allclose(among.losses[i, :13], alone.losses[:13], atol=1e-5)


@pytest.mark.slow
def test_alone_or_among_48_in_x64():
    """Losses within 1e-9 over the whole run."""
    with jax.enable_x64(True):
        configs, keys = many(48)
        data = make_data(dtype=np.float64)
        among = train_networks(configs, keys, data)
        batched = jax.jit(jax.vmap(train, in_axes=(0, 0, None)))(configs, keys, data)
        assert among.losses.dtype == jnp.float64
        np.testing.assert_allclose(batched.losses, among.losses, atol=1e-9)
        for i in (0, 30, 47):
            single = dataclasses.replace(configs, learning_rate=configs.learning_rate[i])
            np.testing.assert_allclose(
                among.losses[i], train(single, keys[i], data).losses, atol=1e-9
            )


def test_a_diverging_run_spoils_no_other():
    configs, keys = many(5)
    broken = dataclasses.replace(configs, learning_rate=configs.learning_rate.at[2].set(1e30))
    data = make_data()
    healthy, result = train_networks(configs, keys, data), train_networks(broken, keys, data)
    np.testing.assert_array_equal(result.finite, [True, True, False, True, True])
    others = np.array([0, 1, 3, 4])
    chex.assert_trees_all_equal(
        jax.tree.map(lambda leaf: leaf[others], result.params),
        jax.tree.map(lambda leaf: leaf[others], healthy.params),
    )


@pytest.mark.slow
def test_progress_counts_every_network_step():
    configs, keys = many(5)
    calls = []
    train_networks(
        configs,
        keys,
        make_data(),
        networks_per_batch=2,
        on_progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[-1] == (5 * 26, 5 * 26)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_networks_per_call_follows_memory(monkeypatch):
    """On a CPU, at most 8 per device; at least one, whatever the memory."""
    devices, data = jax.local_devices(), make_data()
    per_network = bytes_per_network(config(), data, devices[0])
    state = jax.eval_shape(init_state, config(), KEY)
    held = sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state.params, state.opt_state))
    )
    assert per_network == 2 * held + 8 * 130
    assert memory_budget(devices) > 10**6
    for budget, expected in ((0, 1), (10 * per_network, 5), (10**9 * per_network, 8)):
        monkeypatch.setattr(
            "lmcjax.training._memory.memory_budget", lambda devices, budget=budget: budget
        )
        assert networks_per_call(config(), data, devices) == expected * len(devices)


@pytest.mark.slow
def test_a_mask_keeps_zeros_and_nothing_else():
    """Whatever the optimizer; what the mask lets through is trained as without it."""
    data, setup = make_data(), config(num_steps=26, optimizer="adamw")
    mask = jax.tree.map(
        lambda leaf: jnp.arange(leaf.size).reshape(leaf.shape) % 3 > 0,
        init_state(setup, KEY).params,
    )
    params = jax.tree.map(
        lambda leaf, m: jnp.where(m, leaf, 0), init_state(setup, KEY).params, mask
    )
    state = init_state(dataclasses.replace(setup, gradient_mask=mask), KEY, params)
    state, _ = train_steps(state, data, 26)
    assert jax.tree.all(
        jax.tree.map(lambda leaf, m: bool((leaf[~m] == 0).all()), state.params, mask)
    )
    assert all(
        (leaf[m] != old[m]).mean() > 0.8
        for leaf, old, m in zip(*map(jax.tree.leaves, (state.params, params, mask)), strict=True)
    )
    everything = jax.tree.map(jnp.ones_like, mask)
    plain = train(setup, KEY, data)
    masked, masked_losses = train_steps(
        init_state(dataclasses.replace(setup, gradient_mask=everything), KEY), data, 26
    )
    np.testing.assert_allclose(masked_losses, plain.losses, rtol=1e-5)
    chex.assert_trees_all_close(masked.params, plain.params, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_calls_end_to_end_are_one_run():
    configs, keys = many(4)
    start = jax.jit(jax.vmap(init_state))(configs, keys)
    data = tuple(map(jnp.asarray, make_data()))
    parts = [losses for _, losses in train_in_calls(start, data, 26, steps_per_call=10)]
    assert [part.shape[1] for part in parts] == [10, 10, 6]
    np.testing.assert_allclose(
        jnp.concatenate(parts, 1), train_networks(configs, keys, make_data()).losses, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lion"}, "optimizer 'lion' is not one of"),
        ({"num_steps": 0}, "num_steps is at least 1, not 0"),
        ({"batch_size": 0}, "batch_size is at least 1, not 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_configuration(options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ((np.zeros((0, 6)), np.zeros(0, int)), {}, "the data set is empty"),
        ((np.zeros((20, 6)), np.zeros(19, int)), {}, "20 inputs but 19 labels"),
        (
            (np.zeros((20, 6)), np.zeros(20, int)),
            {"batch_size": 21},
            "batch size 21 is larger than the data set of 20",
        ),
    ],
)
def test_bad_data(data, options, message):
    with pytest.raises(ValueError, match=message):
        train(config(**options), KEY, data)
    with pytest.raises(ValueError, match=message):
        train_networks(config(jnp.ones(1), **options), KEY[None], data)


def test_keys_and_rates_differ_in_number():
    with pytest.raises(ValueError, match=r"learning rates \(3,\) and keys \(2,\)"):
        train_networks(config(jnp.ones(3)), jax.random.split(KEY, 2), make_data())
    with pytest.raises(ValueError, match="networks_per_batch is at least 1, not 0"):
        train_networks(*many(2), make_data(), networks_per_batch=0)
