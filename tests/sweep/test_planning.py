"""How a plan is chosen: little waste, the least estimated time, batches that fit the memory."""

import itertools

import jax
import numpy as np
import pytest

import lmcjax
from lmcjax.sweep import Programs, Sweep, _planning, make_plan
from lmcjax.sweep._planning import padding_waste, training_seconds

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def dataset() -> lmcjax.Dataset:
    return lmcjax.load_dataset("digits")


@pytest.mark.parametrize(
    ("compilation", "step"), [(1.5, 2e-4), (0.0, 0.0), (100.0, 0.0), (0.05, 1e-3)]
)
def test_groups_take_the_least_time_that_little_waste_allows(
    dataset, monkeypatch, compilation, step
):
    """Against every way to cut the widths."""
    model = _planning.ON_A_CPU._replace(compilation=compilation, step=step)
    monkeypatch.setattr(_planning, "ON_A_CPU", model)
    widths = (8, 16, 20, 40, 64)
    programs = Programs(Sweep(range(8), widths, epochs=3), dataset)
    devices = jax.local_devices()

    def seconds_of(groups: list[tuple[int, ...]]) -> float:
        return sum(training_seconds(programs, group, 3, devices) for group in groups)

    best = np.inf
    for num_cuts in range(5):
        for cuts in itertools.combinations(range(1, 5), num_cuts):
            ends = itertools.pairwise((0, *cuts, 5))
            groups = [widths[start:stop] for start, stop in ends]
            if all(padding_waste(programs, group, 3) <= 0.5 for group in groups):
                best = min(best, seconds_of(groups))
    chosen = make_plan(programs, devices).groups
    assert seconds_of([group.widths for group in chosen]) == pytest.approx(best)
    assert all(group.waste <= 0.5 for group in chosen)
    if compilation == 100.0:
        assert len(chosen) < 5
    if compilation == step == 0.0:
        assert len(chosen) == 5


def test_waste_is_the_share_of_arithmetic_on_padding(dataset):
    programs = Programs(Sweep(range(2), (8, 16)), dataset)
    own = programs.operations(8, 3)
    wide = programs.operations(16, 3)
    products = 2 * (64 * 16 + 2 * 16**2 + 160)
    assert products <= wide <= 1.2 * products  # XLA counts the elementwise operations as well
    assert padding_waste(programs, (8, 16), 3) == pytest.approx((wide - own) / (2 * wide))


def test_batches_follow_memory(dataset, monkeypatch):
    sweep = Sweep(range(10), 8, 1, (0.1, 0.2, 0.3))
    monkeypatch.setattr(_planning, "networks_per_call", lambda *_: 8)
    plan = make_plan(Programs(sweep, dataset), jax.local_devices())
    sizes = [len(plan.networks(sweep, batch)) for batch in range(len(plan.batches))]
    assert sizes == [8, 8, 8, 6]
    # A cell of 10 does not fit into one call
    whole = Sweep(range(10), 8, 1, (0.1, 0.2, 0.3), pairing="all")
    plan = make_plan(Programs(whole, dataset), jax.local_devices())
    sizes = [len(plan.networks(whole, batch)) for batch in range(len(plan.batches))]
    assert sizes == [10, 10, 10]
    assert [batch.calls for batch in plan.batches] == [2, 2, 2]
    assert plan.per_call(whole, plan.batches[0], 2) == 6


@pytest.mark.slow
def test_unpaddable_models_get_a_program_per_width_and_the_reason(dataset):
    sweep = Sweep(range(2), (8, 12), 1, epochs=1, model="transformer")
    programs = Programs(sweep, dataset)
    assert [g.widths for g in make_plan(programs, jax.local_devices()).groups] == [(8,), (12,)]
    assert any("transformer: neurons of zeros change" in refusal for refusal in programs.refusals)
