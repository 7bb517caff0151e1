"""The same function over many networks: as a loop would do it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax.batching import map_in_chunks, network_map


def affine(params, inputs):
    return {"y": inputs @ params["w"] + params["b"], "norm": jnp.sum(params["w"] ** 2)}


def make(count):
    rng = np.random.default_rng(0)
    params = {
        "w": rng.normal(size=(count, 3, 2)).astype(np.float32),
        "b": rng.normal(size=(count, 2)).astype(np.float32),
    }
    return params, rng.normal(size=(5, 3)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("num_devices", [1, 2])
def test_equals_a_loop(count, num_devices):
    params, inputs = make(count)
    mapped = jax.jit(
        network_map(affine, in_axes=(0, None), devices=jax.local_devices()[:num_devices])
    )
    single = [affine(jax.tree.map(lambda leaf: leaf[i], params), inputs) for i in range(count)]
    chex.assert_trees_all_close(
        mapped(params, inputs), jax.tree.map(lambda *parts: np.stack(parts), *single), rtol=1e-6
    )


def test_uses_the_devices_that_it_was_given():
    params, inputs = make(4)
    result = jax.jit(network_map(affine, in_axes=(0, None)))(params, inputs)
    assert result["y"].sharding.device_set == set(jax.local_devices())


def test_random_keys_are_mapped_too():
    keys = jax.random.split(jax.random.key(0), 3)
    np.testing.assert_array_equal(
        jax.jit(network_map(jax.random.normal))(keys), jax.vmap(jax.random.normal)(keys)
    )


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 10])
def test_chunks_are_invisible(chunk):
    params, inputs = make(7)
    calls = []
    mapped = jax.jit(network_map(affine, in_axes=(0, None)))
    result = map_in_chunks(
        mapped,
        chunk,
        (params,),
        (inputs,),
        on_progress=lambda done, total: calls.append((done, total)),
    )
    chex.assert_trees_all_close(
        result, jax.vmap(affine, in_axes=(0, None))(params, inputs), rtol=1e-6
    )
    assert calls[-1] == (7, 7)
    assert len(calls) == -(-7 // chunk)


@pytest.mark.parametrize(
    ("in_axes", "message"),
    [
        ((0, 1), "in_axes are 0 or None"),
        ((None, None), "in_axes are 0 or None"),
        ((0,), "1 entries"),
    ],
)
def test_unfit_axes(in_axes, message):
    with pytest.raises(ValueError, match=message):
        network_map(affine, in_axes=in_axes)(*make(2))


def test_unequal_numbers_of_networks():
    with pytest.raises(ValueError, match=r"one common, positive number of networks, not \[2, 3\]"):
        network_map(lambda a, b: a + b)(jnp.ones(2), jnp.ones(3))
