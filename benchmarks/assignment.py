"""Batches of linear assignment problems: a SciPy loop and lmcjax's two backends."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import tyro
from rich.console import Console
from rich.live import Live
from rich.table import Table

import lmcjax
from _report import Timing, machine_line, num_cores, ratio, time_alternately, write_result

BATCHES = ((64, 256), (128, 64), (256, 16), (512, 8))  # n, count
RANK = 8
TITLE = "Batches of linear assignment problems"
COLUMNS = (
    "similarity",
    "n",
    "count",
    "mean objective",
    "SciPy loop (ms)",
    "lmcjax (ms)",
    "device (ms)",
    "SciPy loop / lmcjax",
    "goal",
    "reached",
    "device / lmcjax",
    "compile lmcjax (s)",
    "compile device (s)",
)
NOTE = f"""
A batch of `count` float32 matrices `[n, n]` to maximise, of independent normal entries (`random`)
or of rank {RANK} (`low rank`, `x @ y.T`, as the similarities of neurons are). *SciPy loop*:
`linear_sum_assignment` in a Python loop over a NumPy array, on one core. *lmcjax*:
`jax.jit(jax.vmap(...))` of `lmcjax.linear_assignment`, `backend="scipy"`, from a JAX array to a JAX
array, copies included. *device*: the same with `backend="device"`, our shortest augmenting paths.
Times are medians over {{repetitions}} repetitions in turns after a warm-up call (device: one
repetition, its ratio one of medians); the other ratio is the median of the ratios of neighbouring
calls. Above 1, lmcjax is faster. For every matrix the objectives of the three agree to 1e-4, or the
benchmark fails. The goals suppose that the cores are free: a busy machine misses them.
"""


class Measurement(NamedTuple):
    """One batch."""

    objective: float  # mean over the batch
    loop: Timing
    lmcjax: Timing
    device: Timing | None  # None: skipped
    device_estimate: float  # seconds


def make_batch(kind: str, n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "random":
        return rng.standard_normal((count, n, n), dtype=np.float32)
    x, y = rng.standard_normal((2, count, n, RANK), dtype=np.float32)
    return x @ y.swapaxes(1, 2)


def loop(similarity: np.ndarray) -> np.ndarray:
    return np.stack(
        [scipy.optimize.linear_sum_assignment(matrix, maximize=True)[1] for matrix in similarity]
    )


def jitted(backend: lmcjax.transport.AssignmentBackend) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(
        jax.vmap(lambda matrix: lmcjax.linear_assignment(matrix, maximize=True, backend=backend))
    )


def objectives(similarity: np.ndarray, permutations: Any) -> np.ndarray:
    indices = np.asarray(permutations)[..., None]
    return np.take_along_axis(similarity.astype(np.float64), indices, axis=2).sum(axis=(1, 2))


def check(name: str, similarity: np.ndarray, permutations: Any, expected: np.ndarray) -> None:
    if (np.sort(permutations) != np.arange(similarity.shape[1])).any():
        raise AssertionError(f"{name} returned something that is no permutation")
    if not np.allclose(objectives(similarity, permutations), expected, rtol=1e-4, atol=0):
        raise AssertionError(f"{name} has other objectives than SciPy")


def measure(similarity: np.ndarray, repetitions: int, device_limit: float) -> Measurement:
    matrices = jax.block_until_ready(jnp.asarray(similarity))
    on_host = jitted("scipy")
    on_device = jitted("device")
    contenders = {"loop": lambda: loop(similarity), "lmcjax": lambda: on_host(matrices)}
    timings = time_alternately(contenders, repetitions)
    expected = objectives(similarity, loop(similarity))
    check("lmcjax", similarity, on_host(matrices), expected)

    one = time_alternately({"device": lambda: on_device(matrices[:1])}, 1)["device"]
    estimate = one.first + 3 * len(similarity) * one.median  # warm-up, repetition, check
    device = None
    if estimate <= device_limit:
        device = time_alternately({"device": lambda: on_device(matrices)}, 1)["device"]
        check("device", similarity, on_device(matrices), expected)
    return Measurement(
        objective=float(expected.mean()),
        loop=timings["loop"],
        lmcjax=timings["lmcjax"],
        device=device,
        device_estimate=estimate,
    )


def row(kind: str, n: int, count: int, result: Measurement) -> list[str | int]:
    goal = 1.4 if n >= 128 and num_cores() > 1 else 1.0
    speed_up = ratio(result.loop, result.lmcjax)
    if result.device is None:
        device = f"skipped: about {result.device_estimate:.0f} s"
        device_ratio = ""
        device_compilation = ""
    else:
        device = f"{1e3 * result.device.median:.0f}"
        device_ratio = f"{result.device.median / result.lmcjax.median:.1f}"
        device_compilation = f"{result.device.compilation:.2f}"
    return [
        kind,
        n,
        count,
        f"{result.objective:.2f}",
        f"{1e3 * result.loop.median:.1f}",
        f"{1e3 * result.lmcjax.median:.1f}",
        device,
        f"{speed_up:.2f}",
        f"{goal:.1f}",
        "yes" if speed_up >= goal else "no",
        device_ratio,
        f"{result.lmcjax.compilation:.2f}",
        device_compilation,
    ]


def main(
    repetitions: int = 21,
    device_limit: float = 60.0,
    seed: int = 0,
    batches: tuple[tuple[int, int], ...] = BATCHES,
) -> None:
    """Measure, print a table, write `benchmarks/results/assignment.json`.

    Args:
        repetitions: of the SciPy loop and of lmcjax, in turns.
        device_limit: seconds; a batch that would take the device backend longer is skipped there.
        seed: of the matrices.
        batches: n and count of each.
    """
    console = Console()
    if not console.is_terminal:
        console.width = 150  # a file has room for the table
    console.print(machine_line())
    rng = np.random.default_rng(seed)
    table = Table(*COLUMNS, title=TITLE)
    rows = []
    with Live(table, console=console, auto_refresh=False) as live:
        for kind in ("random", "low rank"):
            for n, count in batches:
                result = measure(make_batch(kind, n, count, rng), repetitions, device_limit)
                rows.append(row(kind, n, count, result))
                table.add_row(*map(str, rows[-1]))
                live.refresh()
    path = write_result(
        "assignment",
        title=TITLE,
        note=NOTE.format(repetitions=repetitions),
        columns=COLUMNS,
        rows=rows,
    )
    console.print(f"\nwrote {path.name}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
