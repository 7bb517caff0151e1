import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmcjax

pytestmark = pytest.mark.usefixtures("quick_compilation")


def plain(x):
    return hk.nets.MLP([4, 5, 2])(x)


def with_norm(x, is_training):
    x = hk.BatchNorm(True, True, 0.9)(hk.Linear(4)(x), is_training)
    if is_training:
        x = hk.dropout(hk.next_rng_key(), 0.5, x)
    return hk.Linear(2)(jax.nn.relu(x))


@pytest.fixture
def inputs():
    return jax.random.normal(jax.random.key(2), (5, 3))


@pytest.mark.parametrize("without_key", [False, True])
def test_there_and_back(without_key, inputs, shuffled, generic):
    transformed = hk.transform(plain)
    if without_key:
        transformed = hk.without_apply_rng(transformed)
    own = generic(transformed.init(jax.random.key(0), inputs))
    apply, params = lmcjax.from_haiku(transformed, own)
    other, _ = shuffled(apply, params, inputs, num_groups=2)
    restored, state = lmcjax.to_haiku(other)
    assert state is None
    key = () if without_key else (None,)
    np.testing.assert_allclose(
        transformed.apply(restored, *key, inputs), apply(params, inputs), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("without_key", [False, True])
def test_statistics_are_parameters(without_key, inputs, shuffled):
    transformed = hk.transform_with_state(with_norm)
    own, state = transformed.init(jax.random.key(0), inputs, is_training=True)
    for step in range(3):  # statistics that differ from neuron to neuron
        _, state = transformed.apply(own, state, jax.random.key(step), inputs, is_training=True)
    if without_key:
        transformed = hk.without_apply_rng(transformed)
    apply, params = lmcjax.from_haiku(transformed, own, state, is_training=False)
    key = () if without_key else (None,)
    expected, _ = transformed.apply(own, state, *key, inputs, is_training=False)
    np.testing.assert_array_equal(apply(params, inputs), expected)

    other, spec = shuffled(apply, params, inputs, num_groups=1)
    assert set(spec.dead) <= {  # counters
        "state/batch_norm/~/mean_ema/counter",
        "state/batch_norm/~/var_ema/counter",
    }
    restored, restored_state = lmcjax.to_haiku(other)
    outputs, _ = transformed.apply(restored, restored_state, *key, inputs, is_training=False)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_a_permuted_network_trains_on_as_before(inputs):
    """The sums behind moving averages are permuted along, though evaluation does not read them."""

    def network(x, is_training):
        x = hk.BatchNorm(True, True, 0.9)(hk.Linear(4)(x), is_training)
        return hk.Linear(2)(jax.nn.relu(x))

    transformed = hk.without_apply_rng(hk.transform_with_state(network))
    own, state = transformed.init(jax.random.key(0), inputs, is_training=True)
    _, state = transformed.apply(own, state, inputs, is_training=True)
    apply, params = lmcjax.from_haiku(transformed, own, state, is_training=False)
    spec = lmcjax.discover(apply, params, inputs)
    order = {group: jnp.array([2, 0, 3, 1]) for group in spec.groups}
    other, other_state = lmcjax.to_haiku(lmcjax.permute(spec, order, params))
    _, state = transformed.apply(own, state, inputs + 1, is_training=True)
    _, other_state = transformed.apply(other, other_state, inputs + 1, is_training=True)
    for name in ("average", "hidden"):
        expected = state["batch_norm/~/mean_ema"][name][:, jnp.array([2, 0, 3, 1])]
        np.testing.assert_allclose(
            other_state["batch_norm/~/mean_ema"][name], expected, rtol=1e-5, atol=1e-6
        )


def test_what_is_missing_is_said(inputs):
    with pytest.raises(ValueError, match="needs a state"):
        lmcjax.from_haiku(hk.transform_with_state(with_norm), {})
    with pytest.raises(ValueError, match="has no state"):
        lmcjax.from_haiku(hk.transform(plain), {}, {})
    with pytest.raises(ValueError, match="not a function"):
        lmcjax.from_haiku(plain, {})
