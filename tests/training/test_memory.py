"""How many networks a call holds, against counts made by hand."""

import jax

from lmcjax.training import bytes_per_network, init_state, memory_budget, networks_per_call


def test_networks_per_call_follows_memory(monkeypatch, make_data, config):
    """On a CPU, at most 8 per device; at least one, whatever the memory."""
    devices, data = jax.local_devices(), make_data()
    per_network = bytes_per_network(config(), data, devices[0])
    state = jax.eval_shape(init_state, config(), jax.random.key(0))
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
