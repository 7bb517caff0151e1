"""Batches of linear assignment problems: lmcjax's SciPy backend against a SciPy loop and against optax."""

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
    "optax (ms)",
    "SciPy loop / lmcjax",
    "goal",
    "reached",
    "optax / lmcjax",
    "compile lmcjax (s)",
    "compile optax (s)",
)
NOTE = f"""
A batch of `count` float32 matrices `[n, n]` to maximise, of independent normal entries (`random`) or of rank {RANK}
(`low rank`, `x @ y.T`, as the similarities of neurons are). *SciPy loop*: `linear_sum_assignment` in a Python loop over
a NumPy array, on one core. *lmcjax*: `jax.jit(jax.vmap(...))` of `lmcjax.linear_assignment`, `backend="scipy"`, from a
JAX array to a JAX array, copies included. *optax*: the same with `backend="optax"`. Times are medians over
{{repetitions}} repetitions in turns after a warm-up call (optax: one repetition, its ratio one of medians); the other
ratio is the median of the ratios of neighbouring calls. Above 1, lmcjax is faster. For every matrix the objectives of
the three agree to 1e-4, or the benchmark fails. The goals suppose that the cores are free: a busy machine misses them.
"""


class Measurement(NamedTuple):
    """One batch."""

    objective: float  # mean over the batch
    loop: Timing
    lmcjax: Timing
    optax: Timing | None  # None: skipped
    optax_estimate: float  # seconds


def make_batch(kind: str, n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "random":
        return rng.standard_normal((count, n, n), dtype=np.float32)
    x, y = rng.standard_normal((2, count, n, RANK), dtype=np.float32)
    return x @ y.swapaxes(1, 2)


def loop(similarity: np.ndarray) -> np.ndarray:
    return np.stack([scipy.optimize.linear_sum_assignment(matrix, maximize=True)[1] for matrix in similarity])


def jitted(backend: lmcjax.transport.AssignmentBackend) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(jax.vmap(lambda matrix: lmcjax.linear_assignment(matrix, maximize=True, backend=backend)))


def objectives(similarity: np.ndarray, permutations: Any) -> np.ndarray:
    indices = np.asarray(permutations)[..., None]
    return np.take_along_axis(similarity.astype(np.float64), indices, axis=2).sum(axis=(1, 2))


def check(name: str, similarity: np.ndarray, permutations: Any, expected: np.ndarray) -> None:
    if (np.sort(permutations) != np.arange(similarity.shape[1])).any():
        raise AssertionError(f"{name} returned something that is no permutation")
    if not np.allclose(objectives(similarity, permutations), expected, rtol=1e-4, atol=0):
        raise AssertionError(f"{name} has other objectives than SciPy")


def measure(similarity: np.ndarray, repetitions: int, optax_limit: float) -> Measurement:
    on_device = jax.block_until_ready(jnp.asarray(similarity))
    host, device = jitted("scipy"), jitted("optax")
    timings = time_alternately({"loop": lambda: loop(similarity), "lmcjax": lambda: host(on_device)}, repetitions)
    expected = objectives(similarity, loop(similarity))
    check("lmcjax", similarity, host(on_device), expected)

    one = time_alternately({"optax": lambda: device(on_device[:1])}, 1)["optax"]
    estimate = one.first + 3 * len(similarity) * one.median  # warm-up, repetition, check
    optax = None
    if estimate <= optax_limit:
        optax = time_alternately({"optax": lambda: device(on_device)}, 1)["optax"]
        check("optax", similarity, device(on_device), expected)
    return Measurement(float(expected.mean()), timings["loop"], timings["lmcjax"], optax, estimate)


def row(kind: str, n: int, count: int, result: Measurement) -> list[str | int]:
    goal = 1.4 if n >= 128 and num_cores() > 1 else 1.0
    speed_up = ratio(result.loop, result.lmcjax)
    if result.optax is None:
        optax, optax_ratio, optax_compilation = f"skipped: about {result.optax_estimate:.0f} s", "", ""
    else:
        optax, optax_compilation = f"{1e3 * result.optax.median:.0f}", f"{result.optax.compilation:.2f}"
        optax_ratio = f"{result.optax.median / result.lmcjax.median:.1f}"
    return [
        kind,
        n,
        count,
        f"{result.objective:.2f}",
        f"{1e3 * result.loop.median:.1f}",
        f"{1e3 * result.lmcjax.median:.1f}",
        optax,
        f"{speed_up:.2f}",
        f"{goal:.1f}",
        "yes" if speed_up >= goal else "no",
        optax_ratio,
        f"{result.lmcjax.compilation:.2f}",
        optax_compilation,
    ]


def main(
    repetitions: int = 21,
    optax_limit: float = 60.0,
    seed: int = 0,
    batches: tuple[tuple[int, int], ...] = BATCHES,
) -> None:
    """Measure, print a table, write `benchmarks/results/assignment.json`.

    Args:
        repetitions: of the SciPy loop and of lmcjax, in turns.
        optax_limit: skip optax for a batch that would take it more seconds than this in all.
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
                result = measure(make_batch(kind, n, count, rng), repetitions, optax_limit)
                rows.append(row(kind, n, count, result))
                table.add_row(*map(str, rows[-1]))
                live.refresh()
    path = write_result(
        "assignment", title=TITLE, note=NOTE.format(repetitions=repetitions), columns=COLUMNS, rows=rows
    )
    console.print(f"\nwrote {path.name}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
