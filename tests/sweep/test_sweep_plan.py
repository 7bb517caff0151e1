"""A plan: every network once, and more calls where memory falls short."""

import itertools
import json

import jax
import pytest

import lmcjax
from lmcjax.sweep import Programs, Sweep, make_plan
from lmcjax.sweep._sweep_plan import plan_from_dict

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def dataset() -> lmcjax.Dataset:
    return lmcjax.load_dataset("digits")


@pytest.mark.parametrize("pairing", ["disjoint", "all"])
@pytest.mark.slow
def test_every_network_is_in_one_batch_and_every_pair_in_one_unit(dataset, pairing):
    sweep = Sweep(
        range(6), (4, 6, 30), (1, 2), (0.1, 0.2), ("sgd", "adam"), pairing=pairing, epochs=1
    )
    plan = make_plan(Programs(sweep, dataset), jax.local_devices())
    networks = []
    pairs = []
    for batch in range(len(plan.batches)):
        networks += [tuple(network) for network in plan.networks(sweep, batch)]
        for unit in plan.units(sweep, batch):
            for a, b in itertools.combinations(unit, 2):
                assert a.cell == b.cell
                pairs.append((a.cell, a.seed, b.seed))
    cells = range(len(sweep.cells))
    assert sorted(networks) == list(itertools.product(cells, range(6)))
    expected_pairs = [(cell, *pair) for cell, pair in itertools.product(cells, sweep.pairs)]
    assert sorted(pairs) == sorted(expected_pairs)
    assert sum(group.num_networks for group in plan.groups) == sweep.num_networks
    assert plan_from_dict(json.loads(json.dumps(plan.asdict()))) == plan
    assert plan == make_plan(Programs(sweep, dataset), jax.local_devices())


def test_more_calls_for_a_batch_and_those_after_it(dataset):
    sweep = Sweep(range(40), 8, 1, (0.1, 0.2))
    plan = make_plan(Programs(sweep, dataset), jax.local_devices())
    assert len(plan.batches) > 2
    calls = [batch.calls for batch in plan.with_calls(1, 2).batches]
    assert calls == [1, *[2] * (len(plan.batches) - 1)]
