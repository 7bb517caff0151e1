"""A sweep over widths against a compiled call per width, against one network at a time."""

import dataclasses
import functools
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import rich
import tyro
from rich.live import Live
from rich.table import Table

import lmcjax
from _report import machine_line, ratio, time_alternately, write_result
from lmcjax.sweep import Group, Plan, Programs, Sweep, make_plan, train_group
from training import machine_rate, make_loop, operations

WIDTHS = (32, 64, 128, 256, 512)
RATES = (0.001, 0.01, 0.1)
BATCH_SIZE = 100
Contender = Literal["one at a time", "call per width", "padded together", "as planned for 1 epoch"]
CONTENDERS: tuple[Contender, ...] = (
    "one at a time",
    "call per width",
    "padded together",
    "as planned for 1 epoch",
)
COLUMNS = (
    "widths",
    "contender",
    "epochs",
    "programs",
    "cold (s)",
    "compilations",
    "peak memory (MB)",
    "warm (s)",
    "one at a time / this, warm",
    "goal",
    "20 epochs, cold (s)",
    "share of the machine's matrix-product rate",
    "chosen for 1 epoch",
    "for 20 epochs",
)
NOTE = """
Training alone, of MLPs with three hidden layers on mnist5k (4,000 images), batches of 100, SGD with
momentum, 3 rates x {seeds} seeds per width; *all widths* are {widths}, *the narrow ones* the first
three. *One at a time*: a Python loop over one jitted training step per width, with donated buffers
and the same shuffles. *Call per width*: a compiled program for each width, networks of one width
sharded over a device per core. *Padded together*: widths share a program, padded to the widest, as
far as padding wastes at most half of the arithmetic. The losses of all networks in the first epoch
agree to 1e-5, or the benchmark fails. Cold: in a fresh process, from the loaded data to the last
loss, compilations included (those longer than 0.1 s are counted), and that process's peak memory.
Warm: in one process, in turns; medians, and medians of ratios of neighbouring runs. *20 epochs,
cold* is computed: the cold epochs and warm ones for the rest. The last two columns say which way a
sweep of so many epochs plans here; *as planned for 1 epoch* has a row of its own where that is
neither of the other two.
"""


def make_sweep(widths: tuple[int, ...], seeds: int, epochs: int = 1) -> Sweep:
    return Sweep(range(seeds), widths, 3, RATES, batch_size=BATCH_SIZE, epochs=epochs)


def groups(sweep: Sweep, programs: Programs, contender: Contender) -> list[Group]:
    """What trains in one program."""
    if contender == "as planned for 1 epoch":
        return list(plan_for(sweep, 1, programs.dataset).groups)
    cut = [(width,) for width in sweep.widths]
    if contender == "padded together":  # the fewest programs that waste at most half
        cut = [()]
        for width in sweep.widths:
            costs = [programs.operations(w, 3) for w in (*cut[-1], width)]
            if 1 - sum(costs) / (len(costs) * costs[-1]) > 0.5:
                cut.append(())
            cut[-1] = (*cut[-1], width)
    networks = len(RATES) * len(sweep.seeds)
    return [
        Group(3, "sgd", c, programs.padding(c[0], c[-1], 3), networks * len(c), 0.0, 0) for c in cut
    ]


def make_trainer(
    sweep: Sweep, dataset: lmcjax.Dataset, contender: Contender
) -> tuple[Callable[[], np.ndarray], int]:
    """All networks' mean losses by epoch, cell by cell, and the number of training programs."""
    if contender == "one at a time":
        data = jax.tree.map(jnp.asarray, tuple(dataset.train))
        rates = jnp.asarray(np.repeat(RATES, len(sweep.seeds)), jnp.float32)
        keys = jax.vmap(jax.random.key)(jnp.asarray(list(sweep.seeds) * len(RATES), jnp.uint32))
        steps = len(dataset.train.labels) // BATCH_SIZE
        loops = []
        for width in sweep.widths:
            network = lmcjax.FlaxNetwork(lmcjax.MLP((width,) * 3, 10), dataset.input_shape)
            config = lmcjax.TrainConfig(
                rates, network, num_steps=sweep.epochs * steps, batch_size=BATCH_SIZE
            )
            loops.append(make_loop(config, keys, data, sweep.epochs))
        by_epoch = (len(rates), sweep.epochs, steps)
        return lambda: np.concatenate(
            [np.reshape(loop(), by_epoch).mean(2) for loop in loops]
        ), len(sweep.widths)
    programs, devices = Programs(sweep, dataset), jax.local_devices()
    chosen = groups(sweep, programs, contender)

    def train() -> np.ndarray:
        losses = {}
        for group in chosen:
            trained = train_group(programs, group, networks_per_call=8 * len(devices))
            cells = [cell for cell in sweep.cells if cell.width in group.widths]
            networks = itertools.product(cells, sweep.seeds)
            losses |= dict(zip(networks, trained.losses, strict=True))
        return np.array(
            [losses[network] for network in itertools.product(sweep.cells, sweep.seeds)]
        )

    return train, len(chosen)


def cold(widths: str, seeds: int, epochs: int, contender: Contender) -> None:
    """Everything in this fresh process; prints what it took as JSON."""
    lmcjax.use_all_cores()
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: (
            compilations.append(seconds) if "backend_compile" in event else None
        )
    )
    dataset = lmcjax.load_dataset("mnist5k")
    start = time.perf_counter()
    train, _ = make_trainer(
        make_sweep(tuple(map(int, widths.split(","))), seeds, epochs), dataset, contender
    )
    train()
    taken = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps([taken, sum(seconds > 0.1 for seconds in compilations), peak]))


def measure_cold(sweep: Sweep, contender: Contender) -> tuple[float, int, float]:
    widths, seeds, epochs = (
        ",".join(map(str, sweep.widths)),
        str(len(sweep.seeds)),
        str(sweep.epochs),
    )
    command = [
        sys.executable,
        __file__,
        "cold",
        "--widths",
        widths,
        "--seeds",
        seeds,
        "--epochs",
        epochs,
    ]
    done = subprocess.run(
        [*command, "--contender", contender], capture_output=True, text=True, check=True
    )
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def plan_for(sweep: Sweep, epochs: int, dataset: lmcjax.Dataset) -> Plan:
    return make_plan(
        Programs(dataclasses.replace(sweep, epochs=epochs), dataset), jax.local_devices()
    )


def main(repetitions: int = 3, widths: tuple[int, ...] = WIDTHS, seeds: int = 16) -> None:
    """Measure, print a table, write `benchmarks/results/sweep.json`.

    Args:
        repetitions: of every contender, in turns.
        widths: of the hidden layers, from the narrowest.
        seeds: networks for every width and rate.
    """
    lmcjax.use_all_cores()
    rich.print(machine_line())
    dataset = lmcjax.load_dataset("mnist5k")
    peak = machine_rate()
    table, rows = Table(*COLUMNS, title=f"machine {peak / 1e9:.0f} Gflop/s"), []
    with Live(table, auto_refresh=False) as live:
        for case, some_widths, epochs, goal in (
            ("all widths", widths, 1, 1.3),
            ("the narrow ones", widths[:3], 3, 2.5),
        ):
            sweep = make_sweep(some_widths, seeds, epochs)
            programs = Programs(sweep, dataset)
            cuts = {
                c: [group.widths for group in groups(sweep, programs, c)] for c in CONTENDERS[1:]
            }
            contenders = [
                c
                for c in CONTENDERS
                if c not in cuts or c == next(d for d in cuts if cuts[d] == cuts[c])
            ]
            trainers = {c: make_trainer(sweep, dataset, c) for c in contenders}
            losses: dict[str, np.ndarray] = {}

            def keep(name: str, trainers: dict = trainers, losses: dict = losses) -> None:
                losses[name] = trainers[name][0]()

            timings = time_alternately(
                {c: functools.partial(keep, c) for c in contenders}, repetitions
            )
            for name in contenders:
                if (
                    not (
                        difference := np.abs(losses[name][:, 0] - losses[CONTENDERS[0]][:, 0]).max()
                    )
                    <= 1e-5
                ):
                    raise AssertionError(f"{name}: losses differ by {difference}")
            steps = len(dataset.train.labels) // BATCH_SIZE
            work = sum(
                operations(width, BATCH_SIZE, epochs * steps) * len(RATES) * seeds
                for width in some_widths
            )
            plans = [
                [group.widths for group in plan_for(sweep, length, dataset).groups]
                for length in (1, 20)
            ]
            for name, (_, count) in trainers.items():
                first, compilations, memory = measure_cold(sweep, name)
                speed_up = ratio(timings["one at a time"], timings[name])
                warm = timings[name].median
                rows.append(
                    [
                        case,
                        name,
                        epochs,
                        count,
                        f"{first:.1f}",
                        compilations,
                        f"{memory:.0f}",
                        f"{warm:.2f}",
                        f"{speed_up:.2f}",
                        f"{goal}" if goal and name != "one at a time" else "",
                        f"{first + (20 / epochs - 1) * warm:.0f}",
                        f"{work / warm / peak:.0%}",
                        *("yes" if plan == cuts.get(name) else "" for plan in plans),
                    ]
                )
                table.add_row(*map(str, rows[-1]))
                live.refresh()
    eight = make_trainer(make_sweep((64,), 16), dataset, "call per width")[0]
    few = make_trainer(make_sweep((64,), 2), dataset, "call per width")[0]
    growth = time_alternately({"48": eight, "6": few}, 7)
    cost = growth["48"].median / 48 / (growth["6"].median / 6)
    note = NOTE.format(seeds=seeds, widths=", ".join(map(str, widths))) + (
        f"\nThe machine's rate was {peak / 1e9:.0f} Gflop/s. With 8 times as many networks of "
        "width 64 (48 instead of 6, a call per width) the cost per network is "
        f"{cost:.2f} times as high (goal: at most 1.1).\n"
    )
    path = write_result("sweep", title="Widths of a sweep", note=note, columns=COLUMNS, rows=rows)
    rich.print(f"growth {cost:.2f}; wrote {path.name}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["cold"]:
        tyro.cli(cold, args=sys.argv[2:])
    else:
        tyro.cli(main, description=__doc__)
