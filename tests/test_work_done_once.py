"""A comparison reads the program, the spec and the leaves' names at its public doors only."""

import sys

import jax
import jax.numpy as jnp
import pytest

import lmcjax
from lmcjax.matching import SIMILARITIES
from lmcjax.sweep import compare_pair
from lmcjax.symmetry import _discover, _leaves

NUM_SAMPLES = 2000  # two batches of the default size


@pytest.fixture
def count_calls(monkeypatch):
    """`count_calls(function)`: a list that grows by an entry at each call, wherever it is made."""

    def count(function):
        calls = []

        def counted(*args, **kwargs):
            calls.append(function.__name__)
            return function(*args, **kwargs)

        # a module that imported the function by name has a reference of its own
        for name, module in list(sys.modules.items()):
            if name.startswith("lmcjax") and vars(module).get(function.__name__) is function:
                monkeypatch.setattr(module, function.__name__, counted)
        return calls

    return count


@pytest.fixture
def count_binds(monkeypatch):
    calls = []
    bind = lmcjax.PermutationSpec.bind

    def counted(spec, params):
        calls.append("bind")
        return bind(spec, params)

    monkeypatch.setattr(lmcjax.PermutationSpec, "bind", counted)
    return calls


def trace_comparison(num_hidden_layers, num_samples):
    """Trace one comparison of two networks, without compiling it."""
    network = lmcjax.FlaxNetwork(lmcjax.MLP((8,) * num_hidden_layers, 4), (6,))
    params = jax.eval_shape(network.init, jax.random.key(0))
    inputs = jax.ShapeDtypeStruct((num_samples, 6), jnp.float32)
    labels = jax.ShapeDtypeStruct((num_samples,), jnp.int32)

    def compare(params_a, params_b, inputs, labels):
        spec = lmcjax.discover(network.apply, params_a, inputs)
        moments = lmcjax.activation_moments(network.apply, spec, params_a, params_b, inputs)
        similarity = lmcjax.Covariance(moments)
        matching = lmcjax.match_layerwise(spec, params_a, params_b, similarity=similarity)
        aligned = lmcjax.permute(spec, matching.permutations, params_b)
        data = (inputs, labels)
        loss = lmcjax.batched_loss(network.apply, lmcjax.cross_entropy_and_accuracy, data)
        return lmcjax.linear_barrier(loss, params_a, aligned)

    jax.jit(compare).trace(params, params, inputs, labels)


@pytest.mark.parametrize(
    ("num_samples", "num_interpretations"),
    [
        (NUM_SAMPLES, 3),  # by discover; for the first sample, the origin of the sums; for a batch
        (NUM_SAMPLES + 7, 4),  # and for a short last batch
    ],
)
def test_the_program_is_interpreted_once_for_each_shape(
    count_calls, num_samples, num_interpretations
):
    calls = count_calls(_discover.interpret)
    trace_comparison(2, num_samples)
    assert len(calls) == num_interpretations


def test_the_spec_is_bound_once_at_each_door(count_binds):
    """By `activation_moments`, `match_layerwise` and `permute`; `discover` binds as it reads."""
    trace_comparison(2, NUM_SAMPLES)
    assert len(count_binds) == 3


def test_leaves_are_named_at_the_doors_only(count_calls):
    """However deep the network is and however many batches there are."""
    calls = count_calls(_leaves.named_leaves)
    trace_comparison(1, NUM_SAMPLES)
    of_a_shallow_network = len(calls)
    assert of_a_shallow_network <= 18
    calls.clear()
    trace_comparison(3, NUM_SAMPLES + 7)
    assert len(calls) == of_a_shallow_network


def trace_pair_of_a_sweep(num_hidden_layers):
    """Trace what a sweep computes of one pair, by all similarities; the spec is there already."""
    network = lmcjax.FlaxNetwork(lmcjax.MLP((8,) * num_hidden_layers, 4), (6,))
    params = jax.eval_shape(network.init, jax.random.key(0))
    spec = lmcjax.mlp_spec(num_hidden_layers)
    data = (
        jax.ShapeDtypeStruct((NUM_SAMPLES, 6), jnp.float32),
        jax.ShapeDtypeStruct((NUM_SAMPLES,), jnp.int32),
    )

    def compare(params_a, params_b, train, test):
        return compare_pair(
            network, spec, tuple(SIMILARITIES), 5, None, params_a, params_b, train, test
        )

    jax.jit(compare).trace(params, params, data, data)


def test_a_pair_of_a_sweep_is_interpreted_for_its_first_sample_and_for_a_batch(count_calls):
    """Twice, since the origin of the sums is the first sample's, run alone: in a batch its last
    digits would be others."""
    calls = count_calls(_discover.interpret)
    trace_pair_of_a_sweep(2)
    assert len(calls) == 2


def test_a_pair_of_a_sweep_is_bound_once(count_binds):
    trace_pair_of_a_sweep(2)
    assert len(count_binds) == 1


@pytest.mark.parametrize("num_hidden_layers", [1, 3])
def test_a_pair_of_a_sweep_is_named_at_the_door_and_on_the_line(count_calls, num_hidden_layers):
    """By `make_pair`, which checks, binds and names; and once for all points of the line."""
    calls = count_calls(_leaves.named_leaves)
    trace_pair_of_a_sweep(num_hidden_layers)
    assert len(calls) <= 10
