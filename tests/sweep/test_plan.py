"""Groups and batches: everything once, little waste, the least estimated time."""

import itertools
import json

import jax
import numpy as np
import pytest

import lmcjax
from lmcjax.sweep import Programs, Sweep, make_plan
from lmcjax.sweep import _plan as planning
from lmcjax.sweep._plan import plan_from_dict

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
    networks = [tuple(n) for batch in range(len(plan.batches)) for n in plan.networks(sweep, batch)]
    assert sorted(networks) == list(itertools.product(range(len(sweep.cells)), range(6)))
    units = [unit for batch in range(len(plan.batches)) for unit in plan.units(sweep, batch)]
    pairs = [(u[0].cell, a.seed, b.seed) for u in units for a, b in itertools.combinations(u, 2)]
    assert sorted(pairs) == sorted(
        (cell, a, b) for cell in range(len(sweep.cells)) for a, b in sweep.pairs
    )
    assert sum(group.num_networks for group in plan.groups) == sweep.num_networks
    assert plan_from_dict(json.loads(json.dumps(plan.asdict()))) == plan
    assert plan == make_plan(Programs(sweep, dataset), jax.local_devices())


@pytest.mark.parametrize(
    ("compilation", "step"), [(1.5, 2e-4), (0.0, 0.0), (100.0, 0.0), (0.05, 1e-3)]
)
def test_groups_take_the_least_time_that_little_waste_allows(
    dataset, monkeypatch, compilation, step
):
    """Against every way to cut the widths."""
    monkeypatch.setitem(planning._COMPILATION, "cpu", compilation)
    monkeypatch.setitem(planning._STEP, "cpu", step)
    widths = (8, 16, 20, 40, 64)
    programs, devices = Programs(Sweep(range(8), widths, epochs=3), dataset), jax.local_devices()
    best = np.inf
    for cuts in itertools.chain.from_iterable(
        itertools.combinations(range(1, 5), k) for k in range(5)
    ):
        groups = [widths[a:b] for a, b in itertools.pairwise((0, *cuts, 5))]
        if all(planning._waste(programs, group, 3) <= 0.5 for group in groups):
            best = min(
                best, sum(planning._seconds(programs, group, 3, devices) for group in groups)
            )
    chosen = make_plan(programs, devices).groups
    assert sum(
        planning._seconds(programs, group.widths, 3, devices) for group in chosen
    ) == pytest.approx(best)
    assert all(group.waste <= 0.5 for group in chosen)
    if compilation == 100.0:
        assert len(chosen) < 5
    if compilation == step == 0.0:
        assert len(chosen) == 5


def test_waste_is_the_share_of_arithmetic_on_padding(dataset):
    programs = Programs(Sweep(range(2), (8, 16)), dataset)
    own, wide = (programs.operations(width, 3) for width in (8, 16))
    products = 2 * (64 * 16 + 2 * 16**2 + 160)
    assert products <= wide <= 1.2 * products  # XLA counts the elementwise operations as well
    assert planning._waste(programs, (8, 16), 3) == pytest.approx((wide - own) / (2 * wide))


def test_batches_follow_memory(dataset, monkeypatch):
    sweep = Sweep(range(10), 8, 1, (0.1, 0.2, 0.3))
    monkeypatch.setattr(planning, "networks_per_call", lambda *_: 8)
    plan = make_plan(Programs(sweep, dataset), jax.local_devices())
    assert [len(plan.networks(sweep, batch)) for batch in range(len(plan.batches))] == [8, 8, 8, 6]
    whole = Sweep(
        range(10), 8, 1, (0.1, 0.2, 0.3), pairing="all"
    )  # a cell of 10 does not fit into one call
    plan = make_plan(Programs(whole, dataset), jax.local_devices())
    assert [
        (len(plan.networks(whole, i)), batch.calls) for i, batch in enumerate(plan.batches)
    ] == [(10, 2)] * 3
    assert plan.per_call(whole, plan.batches[0], 2) == 6


def test_more_calls_for_a_batch_and_those_after_it(dataset):
    sweep = Sweep(range(40), 8, 1, (0.1, 0.2))
    plan = make_plan(Programs(sweep, dataset), jax.local_devices())
    assert len(plan.batches) > 2
    assert [b.calls for b in plan.with_calls(1, 2).batches] == [1, *[2] * (len(plan.batches) - 1)]


def test_unpaddable_models_get_a_program_per_width_and_the_reason(dataset):
    sweep = Sweep(range(2), (8, 12), 1, epochs=1, model="transformer")
    programs = Programs(sweep, dataset)
    assert [g.widths for g in make_plan(programs, jax.local_devices()).groups] == [(8,), (12,)]
    assert any("transformer: neurons of zeros change" in refusal for refusal in programs.refusals)


def test_a_batch_larger_than_the_data(dataset):
    with pytest.raises(
        ValueError, match="batch size 5000 is larger than the training set of 1442 samples"
    ):
        Programs(Sweep(range(2), batch_size=5000), dataset)
