"""Which networks of a sweep train together: groups that share a program, batches that are stored
together.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from lmcjax.sweep._config import Sweep
from lmcjax.sweep._programs import Padding, Programs
from lmcjax.training import bytes_per_network, networks_per_call

_MOST_WASTE = 0.5  # of a group's arithmetic
# What the choice of groups stands on, in seconds: measured on 2 cores of a server CPU; guesses for
# accelerators, where a step takes a while however little there is to do, and wide batches are what
# makes them fast.
_COMPILATION = {"cpu": 1.5, "other": 10.0}
_STEP = {
    "cpu": 2e-4,
    "other": 1e-3,
}  # of one network on a CPU, where they take turns; of all together elsewhere
_RATE = {"cpu": 6e10, "other": 2e13}  # operations per second and device


class Network(NamedTuple):
    """One training run of a sweep."""

    cell: int  # position in `sweep.cells`
    seed: int  # position in `sweep.seeds`


class Group(NamedTuple):
    """Networks that train in one compiled program, that of their largest width."""

    num_hidden_layers: int
    optimizer: str
    widths: tuple[int, ...]  # rising
    padding: Padding
    num_networks: int
    waste: float  # share of the arithmetic that is spent on padding
    bytes_per_network: int


class Batch(NamedTuple):
    """Networks that are trained, matched, measured and stored together."""

    group: int
    units: tuple[int, int]  # first, and one after the last, of the group's units
    calls: int  # compiled calls that each stage is cut into
    operations: float  # floating-point operations, padding included


class Plan(NamedTuple):
    """The whole sweep, fixed before anything is computed; only `calls` may rise later, where memory
    falls short.
    """

    groups: tuple[Group, ...]
    batches: tuple[Batch, ...]

    def asdict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        return {
            "groups": [g._asdict() for g in self.groups],
            "batches": [b._asdict() for b in self.batches],
        }

    def with_calls(self, batch: int, calls: int) -> "Plan":
        """The plan with a batch, and those of its group that come after it, cut into more calls."""
        group = self.batches[batch].group
        batches = (
            b._replace(calls=max(calls, b.calls)) if i >= batch and b.group == group else b
            for i, b in enumerate(self.batches)
        )
        return self._replace(batches=tuple(batches))

    def units(self, sweep: Sweep, batch: int) -> list[tuple[Network, ...]]:
        """The units of a batch: networks that are paired with each other and no others."""
        group, (start, stop), *_ = self.batches[batch]
        return list(_units(sweep, self.groups[group])[start:stop])

    def networks(self, sweep: Sweep, batch: int) -> list[Network]:
        """The networks of a batch, narrow ones first."""
        return [network for unit in self.units(sweep, batch) for network in unit]

    def largest_batch(self, sweep: Sweep, group: int) -> int:
        """Networks in the largest batch of a group."""
        size = len(_units(sweep, self.groups[group])[0])
        return size * max(stop - start for g, (start, stop), *_ in self.batches if g == group)

    def per_call(self, sweep: Sweep, batch: Batch, num_devices: int) -> int:
        """Networks per compiled call, a multiple of the devices: the same for all batches of a
        group cut alike.
        """
        per_call = -(-self.largest_batch(sweep, batch.group) // batch.calls)
        return -(-per_call // num_devices) * num_devices


def plan_from_dict(values: dict[str, Any]) -> Plan:
    """What `Plan.asdict` gave."""
    groups = (Group(**{**group, "widths": tuple(group["widths"])}) for group in values["groups"])
    batches = (Batch(**{**batch, "units": tuple(batch["units"])}) for batch in values["batches"])
    return Plan(tuple(groups), tuple(batches))


def check_plan(plan: Plan, sweep: Sweep) -> None:
    """Check that the batches of a plan are the sweep, each network once.

    Raises:
        ValueError: they are not.
    """
    for number, group in enumerate(plan.groups):
        ends = [batch.units for batch in plan.batches if batch.group == number]
        units = [unit for start, stop in ends for unit in range(start, stop)]
        if units != list(range(len(_units(sweep, group)))):
            raise ValueError(f"the batches of group {number} do not cover it once")
    if (
        sum(len(plan.networks(sweep, batch)) for batch in range(len(plan.batches)))
        != sweep.num_networks
    ):
        raise ValueError(f"its batches do not hold the sweep's {sweep.num_networks} networks")


@functools.lru_cache(maxsize=64)
def _units(sweep: Sweep, group: Group) -> tuple[tuple[Network, ...], ...]:
    """Pairs of a cell, or whole cells where all are paired with all, cell after cell, narrow ones
    first.
    """
    cells = [
        (cell.width, number)
        for number, cell in enumerate(sweep.cells)
        if (cell.num_hidden_layers, cell.optimizer) == (group.num_hidden_layers, group.optimizer)
        and cell.width in group.widths
    ]
    clusters = [tuple(range(len(sweep.seeds)))] if sweep.pairing == "all" else sweep.pairs
    return tuple(
        tuple(Network(cell, seed) for seed in cluster)
        for _, cell in sorted(cells)
        for cluster in clusters
    )


def make_plan(programs: Programs, devices: Sequence[jax.Device]) -> Plan:
    """Groups by estimated time, batches by memory. Depends on the sweep, the data's shapes and the
    devices alone.

    Widths share a program where compiling another one, or (on an accelerator) the turns of many
    small calls, would cost more than the padding, and where that wastes at most half of the group's
    arithmetic; see `Programs.padding` for what can be padded.
    """
    groups: list[Group] = []
    for depth in programs.sweep.num_hidden_layers:
        partition = _partition(programs, depth, devices)
        for optimizer, (widths, padding) in itertools.product(programs.sweep.optimizers, partition):
            groups.append(_group(programs, depth, optimizer, widths, padding, devices))
    batches = [
        batch
        for number, group in enumerate(groups)
        for batch in _batches(programs, number, group, devices)
    ]
    return Plan(tuple(groups), tuple(batches))


def _group(
    programs: Programs,
    depth: int,
    optimizer: str,
    widths: tuple[int, ...],
    padding: Padding,
    devices: Sequence[jax.Device],
) -> Group:
    config = programs.train_config(widths[-1], depth, optimizer)
    memory = bytes_per_network(config, programs.dataset.train, devices[0])
    networks, waste = _num_networks(programs, widths), _waste(programs, widths, depth)
    return Group(depth, optimizer, widths, padding, networks, waste, memory)


def _num_networks(programs: Programs, widths: Sequence[int]) -> int:
    """Of these widths, with one depth and optimizer."""
    return len(widths) * len(programs.sweep.learning_rates) * len(programs.sweep.seeds)


def _batches(
    programs: Programs, number: int, group: Group, devices: Sequence[jax.Device]
) -> Iterator[Batch]:
    """Batches of nearly equal size."""
    config = programs.train_config(group.widths[-1], group.num_hidden_layers, group.optimizer)
    most = networks_per_call(config, programs.dataset.train, devices)
    units = _units(programs.sweep, group)
    size = len(units[0])
    per_batch = max(1, most // size)
    per_batch = -(-len(units) // -(-len(units) // per_batch))
    for start in range(0, len(units), per_batch):
        stop = min(start + per_batch, len(units))
        work = _operations(programs, group, units[start:stop])
        yield Batch(number, (start, stop), max(1, -(-size * per_batch // most)), work)


def _operations(programs: Programs, group: Group, units: Sequence[tuple[Network, ...]]) -> float:
    """Of training in the shape of the largest width, and of comparing in each one's own."""
    depth, cells = group.num_hidden_layers, programs.sweep.cells
    training = programs.sweep.epochs * programs.training_work(group.widths[-1], depth)
    return sum(
        len(unit) * training
        + math.comb(len(unit), 2) * programs.comparing_work(cells[unit[0].cell].width, depth)
        for unit in units
    )


def _waste(programs: Programs, widths: Sequence[int], depth: int) -> float:
    operations = [programs.operations(width, depth) for width in widths]
    return 1 - sum(operations) / (len(widths) * operations[-1])


def _partition(
    programs: Programs, depth: int, devices: Sequence[jax.Device]
) -> list[tuple[tuple[int, ...], Padding]]:
    """The widths, rising, cut into groups such that the estimated time is least."""
    widths = sorted(programs.sweep.widths)
    best: list[tuple[float, list[tuple[tuple[int, ...], Padding]]]] = [
        (0.0, [])
    ]  # of the first i widths
    for stop in range(1, len(widths) + 1):
        choices = []
        for start in range(stop):
            group = tuple(widths[start:stop])
            if _waste(programs, group, depth) > _MOST_WASTE:
                continue
            seconds, groups = best[start]
            seconds += _seconds(programs, group, depth, devices)
            choices.append((seconds, start, groups))
        for seconds, start, groups in sorted(choices, key=lambda choice: choice[:2]):
            padding = _padding(programs, widths[start:stop], depth)
            if padding is not None:
                best.append((seconds, [*groups, (tuple(widths[start:stop]), padding)]))
                break
    return best[-1][1]


def _padding(programs: Programs, widths: Sequence[int], depth: int) -> Padding | None:
    """What the widths of a group need to share a program, tried on the narrowest; None: they can't."""
    try:
        return programs.padding(widths[0], widths[-1], depth)
    except ValueError as refusal:
        if str(refusal) not in programs.refusals:
            programs.refusals.append(str(refusal))
        return None


def _seconds(
    programs: Programs, widths: Sequence[int], depth: int, devices: Sequence[jax.Device]
) -> float:
    """An estimate of what it takes to compile a group's program and to train its networks."""
    platform = "cpu" if devices[0].platform == "cpu" else "other"
    arithmetic = (
        programs.training_work(widths[-1], depth) / programs.steps_per_epoch / _RATE[platform]
    )
    turns = _num_networks(programs, widths) / len(devices)
    overhead = _STEP[platform] * (turns if platform == "cpu" else 1)
    return _COMPILATION[platform] + programs.num_steps * (turns * arithmetic + overhead)
