"""Choosing the plan of a sweep: which widths share a program, and how large batches are."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax

from lmcjax.sweep._network_programs import Padding, Programs
from lmcjax.sweep._sweep_plan import Batch, Group, Plan, Unit, ceil_div, units_of_group
from lmcjax.training import bytes_per_network, networks_per_call

_MOST_WASTE = 0.5  # of a group's arithmetic


class TimeModel(NamedTuple):
    """What the time of training is estimated from."""

    compilation: float  # seconds per program
    step: float  # seconds that a training step takes, however little there is to do
    rate: float  # floating-point operations per second and device
    in_turns: bool  # whether the networks on a device take turns, each with its own steps


# Measured on 2 cores of a server CPU
ON_A_CPU = TimeModel(compilation=1.5, step=2e-4, rate=6e10, in_turns=True)
# Guessed: wide batches are what makes accelerators fast
ON_AN_ACCELERATOR = TimeModel(compilation=10.0, step=1e-3, rate=2e13, in_turns=False)


class SharedWidths(NamedTuple):
    """Widths whose networks train in one program."""

    widths: tuple[int, ...]  # rising
    padding: Padding


class _Cut(NamedTuple):
    """The narrowest widths of a sweep, cut into groups."""

    seconds: float  # estimated, for all groups
    groups: tuple[SharedWidths, ...]


def make_plan(programs: Programs, devices: Sequence[jax.Device]) -> Plan:
    """Plan a sweep: groups by estimated time, batches by memory.

    The plan depends on the sweep, the shapes of the data and the devices alone. Widths share a
    program where compiling another one, or (on an accelerator) the turns of many small calls, would
    cost more than the padding, and where that wastes at most half of the group's arithmetic. See
    `Programs.padding` for what can be padded.
    """
    groups: list[Group] = []
    for depth in programs.sweep.num_hidden_layers:
        cut = _cheapest_cut(programs, depth, devices)
        for optimizer in programs.sweep.optimizers:
            for shared in cut:
                groups.append(_make_group(programs, depth, optimizer, shared, devices))
    batches: list[Batch] = []
    for number, group in enumerate(groups):
        batches += _batches_of_group(programs, number, group, devices)
    return Plan(tuple(groups), tuple(batches))


def _make_group(
    programs: Programs,
    depth: int,
    optimizer: str,
    shared: SharedWidths,
    devices: Sequence[jax.Device],
) -> Group:
    config = programs.train_config(shared.widths[-1], depth, optimizer)
    return Group(
        num_hidden_layers=depth,
        optimizer=optimizer,
        widths=shared.widths,
        padding=shared.padding,
        num_networks=_num_networks(programs, shared.widths),
        waste=padding_waste(programs, shared.widths, depth),
        bytes_per_network=bytes_per_network(config, programs.dataset.train, devices[0]),
    )


def _num_networks(programs: Programs, widths: Sequence[int]) -> int:
    """Count the networks of these widths that have one depth and optimizer."""
    sweep = programs.sweep
    return len(widths) * len(sweep.learning_rates) * len(sweep.seeds)


def _batches_of_group(
    programs: Programs, number: int, group: Group, devices: Sequence[jax.Device]
) -> Iterator[Batch]:
    """Cut a group into batches of nearly equal size."""
    config = programs.train_config(group.widths[-1], group.num_hidden_layers, group.optimizer)
    most_networks = networks_per_call(config, programs.dataset.train, devices)
    units = units_of_group(programs.sweep, group)
    unit_size = len(units[0])
    most_units = max(1, most_networks // unit_size)
    num_batches = ceil_div(len(units), most_units)
    units_per_batch = ceil_div(len(units), num_batches)
    # More than one where not even a single unit fits into a call
    calls = max(1, ceil_div(unit_size * units_per_batch, most_networks))
    for start in range(0, len(units), units_per_batch):
        stop = min(start + units_per_batch, len(units))
        operations = _operations(programs, group, units[start:stop])
        yield Batch(number, (start, stop), calls, operations)


def _operations(programs: Programs, group: Group, units: Sequence[Unit]) -> float:
    """Count the floating-point operations of training and comparing units."""
    depth = group.num_hidden_layers
    # Networks train in the shape of the largest width, and are compared in their own
    per_epoch = programs.training_work(group.widths[-1], depth)
    per_network = programs.sweep.epochs * per_epoch
    operations = 0.0
    for unit in units:
        cell = programs.sweep.cells[unit[0].cell]
        num_pairs = math.comb(len(unit), 2)
        comparing = num_pairs * programs.comparing_work(cell.width, depth)
        operations += len(unit) * per_network + comparing
    return operations


def padding_waste(programs: Programs, widths: Sequence[int], depth: int) -> float:
    """The share of arithmetic that is spent on padding if these widths, rising, share a program."""
    operations = [programs.operations(width, depth) for width in widths]
    return 1 - sum(operations) / (len(widths) * operations[-1])


def training_seconds(
    programs: Programs, widths: Sequence[int], depth: int, devices: Sequence[jax.Device]
) -> float:
    """Estimate the time to compile a program for these widths and to train their networks."""
    model = ON_A_CPU if devices[0].platform == "cpu" else ON_AN_ACCELERATOR
    per_epoch = programs.training_work(widths[-1], depth)
    arithmetic = per_epoch / programs.steps_per_epoch / model.rate
    per_device = _num_networks(programs, widths) / len(devices)
    overhead = model.step * (per_device if model.in_turns else 1)
    return model.compilation + programs.num_steps * (per_device * arithmetic + overhead)


def _cheapest_cut(
    programs: Programs, depth: int, devices: Sequence[jax.Device]
) -> tuple[SharedWidths, ...]:
    """Cut the widths, rising, into groups such that the estimated time is least."""
    widths = tuple(sorted(programs.sweep.widths))
    # By dynamic programming: the i-th cut is the cheapest one of the i narrowest widths
    cuts = [_Cut(0.0, ())]
    for stop in range(1, len(widths) + 1):
        candidates = []  # what the last group of such a cut may start with, and what it takes
        for start in range(stop):
            last_group = widths[start:stop]
            if padding_waste(programs, last_group, depth) <= _MOST_WASTE:
                seconds = cuts[start].seconds
                seconds += training_seconds(programs, last_group, depth, devices)
                candidates.append((seconds, start))
        # Cheap ones first, since trying whether widths can be padded takes a compilation
        for seconds, start in sorted(candidates):
            last_group = widths[start:stop]
            padding = _padding_or_none(programs, last_group, depth)
            if padding is not None:
                groups = (*cuts[start].groups, SharedWidths(last_group, padding))
                cuts.append(_Cut(seconds, groups))
                break
    return cuts[-1].groups


def _padding_or_none(programs: Programs, widths: Sequence[int], depth: int) -> Padding | None:
    """What these widths need to share a program, tried on the narrowest; None: they cannot."""
    try:
        return programs.padding(widths[0], widths[-1], depth)
    except ValueError as refusal:
        reason = str(refusal)
        if reason not in programs.refusals:
            programs.refusals.append(reason)
        return None
