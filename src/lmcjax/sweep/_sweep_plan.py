"""The plan of a sweep: groups of networks that share a program, batches that are stored together.

How the plan is chosen stands in `_planning`.
"""

import functools
from typing import Any, NamedTuple, TypeAlias

from lmcjax.sweep._grid import Sweep
from lmcjax.sweep._network_programs import Padding


class PlannedNetwork(NamedTuple):
    """One training run of a sweep."""

    cell: int  # position in `sweep.cells`
    seed: int  # position in `sweep.seeds`


Unit: TypeAlias = tuple[PlannedNetwork, ...]
"""Networks of one cell that are paired with each other and with no others: two of them, or, where
all are paired with all, the whole cell. A unit is never cut."""


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
    """The whole sweep, fixed before anything is computed.

    Only `calls` may rise later, where memory falls short.
    """

    groups: tuple[Group, ...]
    batches: tuple[Batch, ...]

    def asdict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        return {
            "groups": [group._asdict() for group in self.groups],
            "batches": [batch._asdict() for batch in self.batches],
        }

    def with_calls(self, number: int, calls: int) -> "Plan":
        """Cut a batch, and those of its group that come after it, into more calls."""
        batches = list(self.batches)
        for later in range(number, len(batches)):
            batch = batches[later]
            if batch.group == batches[number].group:
                batches[later] = batch._replace(calls=max(calls, batch.calls))
        return self._replace(batches=tuple(batches))

    def units(self, sweep: Sweep, number: int) -> list[Unit]:
        """The units of a batch, narrow ones first."""
        batch = self.batches[number]
        start, stop = batch.units
        return list(units_of_group(sweep, self.groups[batch.group])[start:stop])

    def networks(self, sweep: Sweep, number: int) -> list[PlannedNetwork]:
        """The networks of a batch, narrow ones first."""
        return [network for unit in self.units(sweep, number) for network in unit]

    def largest_batch(self, sweep: Sweep, group: int) -> int:
        """Count the networks in the largest batch of a group."""
        most_units = 0
        for batch in self.batches:
            if batch.group == group:
                start, stop = batch.units
                most_units = max(most_units, stop - start)
        # All units of a group have the same size
        unit = units_of_group(sweep, self.groups[group])[0]
        return len(unit) * most_units

    def per_call(self, sweep: Sweep, batch: Batch, num_devices: int) -> int:
        """Count the networks in a compiled call of a batch: a multiple of the devices.

        It follows from the group's largest batch, so that all batches of a group that are cut
        alike share a compiled program.
        """
        per_call = ceil_div(self.largest_batch(sweep, batch.group), batch.calls)
        return ceil_div(per_call, num_devices) * num_devices


def ceil_div(numerator: int, denominator: int) -> int:
    """The smallest integer that is not below a quotient."""
    return -(-numerator // denominator)


def plan_from_dict(values: dict[str, Any]) -> Plan:
    """Make a plan from what `Plan.asdict` gave."""
    # JSON knows no tuples
    groups = [Group(**{**group, "widths": tuple(group["widths"])}) for group in values["groups"]]
    batches = [Batch(**{**batch, "units": tuple(batch["units"])}) for batch in values["batches"]]
    return Plan(tuple(groups), tuple(batches))


def check_plan(plan: Plan, sweep: Sweep) -> None:
    """Check that the batches of a plan hold each network of a sweep once.

    Raises:
        ValueError: they do not.
    """
    for number, group in enumerate(plan.groups):
        planned_units: list[int] = []
        for batch in plan.batches:
            if batch.group == number:
                planned_units += range(*batch.units)
        num_units = len(units_of_group(sweep, group))
        if planned_units != list(range(num_units)):
            raise ValueError(f"the batches of group {number} do not cover it once")
    num_networks = 0
    for number in range(len(plan.batches)):
        num_networks += len(plan.networks(sweep, number))
    if num_networks != sweep.num_networks:
        raise ValueError(f"its batches do not hold the sweep's {sweep.num_networks} networks")


@functools.lru_cache(maxsize=64)
def units_of_group(sweep: Sweep, group: Group) -> tuple[Unit, ...]:
    """The units of a group, cell after cell, narrow ones first."""
    numbered_cells = []
    for number, cell in enumerate(sweep.cells):
        same_depth = cell.num_hidden_layers == group.num_hidden_layers
        same_optimizer = cell.optimizer == group.optimizer
        if same_depth and same_optimizer and cell.width in group.widths:
            numbered_cells.append((cell.width, number))
    seeds_of_units: tuple[tuple[int, ...], ...] = sweep.pairs
    if sweep.pairing == "all":
        seeds_of_units = (tuple(range(len(sweep.seeds))),)
    units = []
    for _, number in sorted(numbered_cells):
        for seeds in seeds_of_units:
            units.append(tuple(PlannedNetwork(number, seed) for seed in seeds))
    return tuple(units)
