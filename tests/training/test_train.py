"""One run: what it learns, its schedule and its epochs, against plain loops."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lmcjax
from lmcjax.training import init_state, learning_rate_schedule, train_steps

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
train = jax.jit(lmcjax.train)  # compiled once per configuration: the rate is traced


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_learns(optimizer, make_data, config):
    result = train(config(optimizer=optimizer, num_steps=130), KEY, make_data())
    assert result.finite
    assert result.losses[-13:].mean() < 0.3 * result.losses[:13].mean()


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_flagged(label, make_data, config):
    """In the step whose batch it is in, and for the run."""
    inputs, labels = make_data()
    labels[50] = label
    result = train(config(num_steps=13), KEY, (inputs, labels))  # one epoch: every sample once
    assert np.isnan(result.losses).sum() == 1
    assert not result.finite


@pytest.mark.parametrize(("name", "momentum"), [("sgd", 0.9), ("sgd_plain", 0.0)])
def test_agrees_with_a_plain_loop(name, momentum, make_data, config):
    """Optax step by step, in Python, over the same shuffles."""
    data, setup = make_data(), config(num_steps=26, optimizer=name)
    state = init_state(setup, KEY)
    optimizer = optax.sgd(learning_rate_schedule(setup), momentum=momentum)
    params, opt_state, losses = state.params, optimizer.init(state.params), []

    @jax.jit
    def step(params, opt_state, x, y):
        def loss_fn(p):
            log_probabilities = jax.nn.log_softmax(setup.network.apply(p, x))
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


@pytest.mark.parametrize("pieces", [(13, 13), (5, 21), (21, 5)])
def test_steps_cut_anywhere_are_the_same_run(pieces, make_data, config):
    data = make_data()
    state, losses = init_state(config(), KEY), []
    for piece in pieces:
        state, new = jax.jit(train_steps, static_argnums=2)(state, data, piece)
        losses.append(new)
    whole = train(config(), KEY, data)
    np.testing.assert_allclose(np.concatenate(losses), whole.losses, rtol=1e-5)
    chex.assert_trees_all_close(state.params, whole.params, rtol=1e-4, atol=1e-6)
    assert state.step == 26


def test_each_epoch_visits_every_sample_once(config):
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


def test_schedule_is_the_papers(config):
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


@pytest.mark.slow
def test_a_mask_keeps_zeros_and_nothing_else(make_data, config):
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lion"}, "optimizer 'lion' is not one of"),
        ({"num_steps": 0}, "num_steps is at least 1, not 0"),
        ({"batch_size": 0}, "batch_size is at least 1, not 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_configuration(options, message, config):
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
def test_bad_data(data, options, message, config):
    with pytest.raises(ValueError, match=message):
        train(config(**options), KEY, data)
