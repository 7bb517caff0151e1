"""Sweeps on many devices and in several processes: the same numbers, and nothing is sent.

JAX counts its devices once, so whatever needs another number of them than the other tests runs in a
process of its own.
"""

import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lmcjax import cli

EIGHT_DEVICES = """
    import jax

    jax.config.update("jax_num_cpu_devices", 8)

    import jax.numpy as jnp
    from lmcjax.data import load_dataset
    from lmcjax.sweep import Programs, Sweep, SweepFolder, make_plan, run_sweep

    digits, eight = load_dataset("digits"), tuple(jax.local_devices())
    assert len(eight) == 8
"""


def on_eight_devices(program: str, *arguments: str | Path, seconds: float = 300) -> list[str]:
    """Lines that a program printed; an error, or too long a time, fails the test."""
    code = textwrap.dedent(EIGHT_DEVICES) + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


# Eight devices, one process

TWICE = """
    import sys
    from lmcjax.training import _memory

    jax.config.update("jax_disable_most_optimizations", True)

    # networks per device and call: few are enough for several batches
    _memory._MOST_PER_CPU_DEVICE = 2
    grid = dict(widths=(6, 8, 40), num_hidden_layers=1, learning_rates=0.1, epochs=2, num_points=3)
    sweep = Sweep(seeds=range(10), matchings="activations", keep_permutations=True, **grid)
    for name, devices in {"eight": eight, "one": eight[:1]}.items():
        run_sweep(sweep, digits, f"{sys.argv[1]}/{name}", devices=devices)
        plan = SweepFolder(f"{sys.argv[1]}/{name}").plan()
        widths = [group.widths for group in plan.groups]
        sizes = [len(plan.networks(sweep, batch)) for batch in range(len(plan.batches))]
        print(widths, sizes)
"""


@pytest.mark.slow
def test_eight_devices_give_the_bits_of_one(tmp_path):
    """Batches of other sizes, calls that are filled up, fewer pairs than devices: the same bits.

    In one process. XLA's thread pool on a CPU has a thread per core, or per device if these are
    more, and cuts large products (here: second moments of 40 neurons over 1,442 images) into sums
    accordingly: processes with pools of different sizes differ in the last bit of similarities;
    with `PJRT_NPROC` set alike for both they agree.
    """
    of_eight, of_one = on_eight_devices(TWICE, tmp_path)
    assert of_eight == "[(6, 8), (40,)] [10, 10, 10]"  # no multiples of 8
    assert of_one == f"[(6, 8), (40,)] {[2] * 15}"
    eight = xr.load_dataset(tmp_path / "eight" / "results.nc", engine="h5netcdf")
    one = xr.load_dataset(tmp_path / "one" / "results.nc", engine="h5netcdf")
    losses = eight["training_loss"]
    # No network was trained twice
    assert np.unique(losses).size == losses.size == 3 * 10 * 2
    xr.testing.assert_identical(eight.drop_attrs(), one.drop_attrs())


# What is sent between devices

PROGRAMS = """
    import functools
    import re
    from jax.sharding import PartitionSpec as P
    from lmcjax.batching import network_map, replicate, shard
    from lmcjax.sweep._batch_training import TrainingCall, initial_states
    from lmcjax.sweep._pairs import compiled_comparison
    from lmcjax.training._train_networks import compiled_programs

    def collectives(compiled):
        names = (
            "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
            "|collective-broadcast|send|recv"
        )
        # An operation's name, as the text has it before its operands; on some platforms in two
        # parts, -start and -done
        pattern = rf"\\b({names})(?:-start|-done)?\\("
        return sorted(set(re.findall(pattern, compiled.as_text())))

    options = dict(widths=(6, 8), num_hidden_layers=1, optimizers="adam", num_points=2)
    sweep = Sweep(seeds=range(8), **options)
    programs = Programs(sweep, digits)
    (group,) = make_plan(programs, eight).groups
    assert group.widths == (6, 8)
    cells = [sweep.cells[i % 2] for i in range(16)]
    call = TrainingCall(group, cells, range(16), eight)
    states = shard(initial_states(programs, call), eight)
    train, test = (replicate(tuple(samples), eight) for samples in (digits.train, digits.test))
    advance = compiled_programs(eight).advance
    training = advance.lower(states, train, programs.steps_per_epoch).compile()

    def check_sharding(tree, shardings):
        for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True):
            assert sharding.spec == P("networks"), sharding
            assert sharding.device_set == set(eight)
            assert sharding.shard_shape(leaf.shape) == (2, *leaf.shape[1:]), sharding

    (of_states, of_data), _ = training.input_shardings
    an_epoch = functools.partial(advance, num_steps=programs.steps_per_epoch)
    after, losses = jax.eval_shape(an_epoch, states, train)
    check_sharding(states, of_states)
    check_sharding((after, losses), training.output_shardings)
    assert all(sharding.is_fully_replicated for sharding in jax.tree.leaves(of_data))
    print("training", collectives(training))

    own = programs.program(8, 1)
    compare = compiled_comparison(
        own.network, own.spec, own.spec, ("weights",), 2, None, eight
    )
    sides = [jax.tree.map(lambda leaf, s=s: leaf[s:s + 8], states.params) for s in (0, 8)]
    print("comparison", collectives(compare.lower(*shard(sides, eight), train, test).compile()))

    mean = jax.jit(network_map(lambda x: x - jax.lax.pmean(x, "networks"), devices=eight))
    print("pmean", collectives(mean.lower(jnp.ones((8, 8))).compile()))
    ring = [(i, (i + 1) % 8) for i in range(8)]
    others = {
        "all_gather": lambda x: jax.lax.all_gather(x, "networks"),
        "all_to_all": lambda x: jax.lax.all_to_all(x, "networks", 1, 1),
        "ppermute": lambda x: jax.lax.ppermute(x, "networks", ring),
        "psum_scatter": lambda x: jax.lax.psum_scatter(x.T, "networks"),
    }
    for name, fn in others.items():
        mapped = jax.shard_map(
            fn,
            mesh=jax.sharding.Mesh(eight, ("networks",)),
            in_specs=P("networks"),
            out_specs=P("networks"),
            check_vma=False,
        )
        print(name, collectives(jax.jit(mapped).lower(jnp.ones((8, 8))).compile()))
"""


def test_nothing_is_sent_between_devices():
    """Read from the optimized programs; others show that reading finds what is sent."""
    found = dict(line.split(" ", 1) for line in on_eight_devices(PROGRAMS))
    assert found == {
        "training": "[]",
        "comparison": "[]",
        "pmean": "['all-reduce']",
        "all_gather": "['all-gather']",
        "all_to_all": "['all-to-all']",
        "ppermute": "['collective-permute']",
        "psum_scatter": "['reduce-scatter']",
    }


# Several processes

CONFIG = """
dataset = "digits"
seeds = 128
widths = [6]
num_hidden_layers = 1
learning_rates = [0.1]
epochs = 10
batch_size = 50
num_points = 2
matchings = ["weights"]
"""  # on two cores 8 batches of 16
LMCJAX = """
import os, sys

os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # the same batches on every machine
from lmcjax import cli

cli.main()
"""


def batches_finished(run: Any) -> int:
    """How many batches a process has said it finished itself; waiting for others, it says so."""
    pattern = r" ([1-9]\d*)/128 networks.*matching and measuring"
    return len(set(re.findall(pattern, run.out.read_text())))


@pytest.fixture
def start(start: Callable[..., Any]) -> Callable[..., Any]:
    """`start(log, *arguments)` of `lmcjax` on two cores."""
    return lambda log, *arguments: start(log, sys.executable, "-c", LMCJAX, *arguments)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture
def start_two(start) -> Callable[..., list[Any]]:
    """`start_two(log, *arguments)`: two processes of one job."""

    def started(log: Path, *arguments: str | Path) -> list[Any]:
        coordinator = f"localhost:{free_port()}"
        job = ["--distributed", "--coordinator", coordinator, "--num-processes", 2]
        runs = []
        for process in range(2):
            own_log = log.with_name(f"{log.name}{process}")
            runs.append(start(own_log, *arguments, *job, "--process-id", process))
        return runs

    return started


def ends(processes: list[Any], seconds: float = 240) -> list[int]:
    """Exit codes; a hang fails the test."""
    end = time.monotonic() + seconds
    return [process.process.wait(max(0.1, end - time.monotonic())) for process in processes]


def errors(processes: list[Any]) -> str:
    return "\n".join(process.err.read_text()[-2000:] for process in processes)


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def alone(config, tmp_path, start) -> xr.Dataset:
    """The results of one process."""
    process = start(tmp_path / "alone", "sweep", config, "--out", tmp_path / "alone")
    assert ends([process]) == [0], errors([process])
    assert batches_finished(process) == 8
    return xr.load_dataset(tmp_path / "alone" / "results.nc", engine="h5netcdf")


@pytest.mark.slow
def test_two_processes_share_a_sweep(config, tmp_path, alone, start_two, same_results):
    two = start_two(tmp_path / "two", "sweep", config, "--out", tmp_path / "two")
    assert ends(two) == [0, 0], errors(two)
    assert [batches_finished(process) for process in two] == [4, 4]
    assert same_results(xr.load_dataset(tmp_path / "two" / "results.nc", engine="h5netcdf"), alone)


@pytest.mark.slow
def test_two_processes_outlast_a_kill(config, tmp_path, alone, start_two, same_results):
    again = ("sweep", config, "--out", tmp_path / "killed", "--checkpoint-minutes", "0.00001")
    killed = start_two(tmp_path / "killed", *again)
    end = time.monotonic() + 240
    batches = tmp_path / "killed" / "batches"
    checkpoints = tmp_path / "killed" / "checkpoints"

    def both_have_begun() -> bool:
        # Process 1 has the odd batches
        of_process_1 = list(checkpoints.glob("0000[1357]/*"))
        return bool(list(batches.glob("*.safetensors")) and of_process_1)

    while not both_have_begun():
        assert {process.process.poll() for process in killed} == {None}, errors(killed)
        assert time.monotonic() < end
        time.sleep(0.01)
    for process in killed:
        process.process.send_signal(signal.SIGKILL)
    assert ends(killed) == [-signal.SIGKILL] * 2
    times = {path: path.stat().st_mtime_ns for path in batches.glob("*.safetensors")}
    assert 0 < len(times) < 8
    revived = start_two(tmp_path / "revived", *again)
    assert ends(revived) == [0, 0], errors(revived)
    assert sum(batches_finished(process) for process in revived) == 8 - len(times)
    assert {path: path.stat().st_mtime_ns for path in times} == times  # not computed again
    results = xr.load_dataset(tmp_path / "killed" / "results.nc", engine="h5netcdf")
    assert same_results(results, alone)


OF_TWO = ["--num-processes", "2", "--process-id", "0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coordinator", "localhost:1"], "belong to --distributed"),
        (["--num-processes", "2"], "belong to --distributed"),
        (["--process-id", "0"], "belong to --distributed"),
        (["--join", "--distributed"], "leave out --distributed"),
        (["--distributed", "--coordinator", "localhost", *OF_TWO], "HOST:PORT"),
    ],
)
def test_mistakes_are_one_line(arguments, message, config, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", str(config), "--out", str(tmp_path / "out"), *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("lmcjax: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_one_process_refuses_ends_both(config, tmp_path, start_two):
    """Process 0 looks at the folder: the other one does not wait for it in vain."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    processes = start_two(tmp_path / "log", "sweep", config, "--out", tmp_path / "out")
    assert ends(processes, 60) == [2, 2], errors(processes)
    for process in processes:
        lines = []
        for line in process.err.read_text().splitlines():
            if line.startswith("lmcjax: error: "):
                lines.append(line)
        assert len(lines) == 1
        assert "not the folder of a sweep, it holds ['thesis.tex']" in lines[0]
        assert "Traceback" not in process.err.read_text()
    assert "process 0 could not begin" in processes[1].err.read_text()
