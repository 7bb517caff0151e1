"""Many runs: each is the same whatever ran beside it."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmcjax
from lmcjax.training import init_state, train_in_calls, train_networks

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
train = jax.jit(lmcjax.train)  # compiled once per configuration: the rate is traced


def test_same_seed_same_bits(make_data, many):
    configs, keys = many(5)  # as many as below, so that both share a program
    first, second = (train_networks(configs, keys, make_data()) for _ in range(2))
    chex.assert_trees_all_equal(first, second)


@pytest.mark.parametrize("networks_per_batch", [None, 5])
@pytest.mark.slow
def test_alone_or_among_48(networks_per_batch, make_data, many):
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
def test_alone_or_among_48_in_x64(make_data, many):
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


def test_a_diverging_run_spoils_no_other(make_data, many):
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
def test_progress_counts_every_network_step(make_data, many):
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


@pytest.mark.slow
def test_calls_end_to_end_are_one_run(make_data, many):
    configs, keys = many(4)
    start = jax.jit(jax.vmap(init_state))(configs, keys)
    data = tuple(map(jnp.asarray, make_data()))
    parts = [losses for _, losses in train_in_calls(start, data, 26, steps_per_call=10)]
    assert [part.shape[1] for part in parts] == [10, 10, 6]
    np.testing.assert_allclose(
        jnp.concatenate(parts, 1), train_networks(configs, keys, make_data()).losses, rtol=1e-5
    )


def test_keys_and_rates_differ_in_number(make_data, config, many):
    with pytest.raises(ValueError, match=r"learning rates \(3,\) and keys \(2,\)"):
        train_networks(config(jnp.ones(3)), jax.random.split(KEY, 2), make_data())
    with pytest.raises(ValueError, match="networks_per_batch is at least 1, not 0"):
        train_networks(*many(2), make_data(), networks_per_batch=0)


def test_unfit_data(config, make_data):
    with pytest.raises(ValueError, match="batch size 131 is larger than the data set of 130"):
        train_networks(config(jnp.ones(1), batch_size=131), KEY[None], make_data())
