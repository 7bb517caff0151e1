"""What the benchmarks share: the machine in a line, fair timing, and the result file that
`make_docs.py` reads.
"""

import datetime
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


class Timing(NamedTuple):
    """The wall time of one contender."""

    first: float  # seconds of the first call: compilation and one run
    repeated: tuple[
        float, ...
    ]  # seconds of the calls after it; entry `i` ran next to entry `i` of the other contenders

    @property
    def median(self) -> float:
        """Seconds of a call once compiled."""
        return statistics.median(self.repeated)

    @property
    def compilation(self) -> float:
        """Seconds that the first call took longer than the median of the others."""
        return max(self.first - self.median, 0.0)


def time_alternately(
    contenders: Mapping[str, Callable[[], Any]], repetitions: int
) -> dict[str, Timing]:
    """Time several callables in this process, in turns, so that a slow spell of the machine hits
    all of them.

    Each is called once beforehand to warm up. The order turns round after every repetition. The
    clock stops when every array of the result is there.
    """
    first = {name: _seconds(contender) for name, contender in contenders.items()}
    repeated: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for _ in range(repetitions):
        for name in order:
            repeated[name].append(_seconds(contenders[name]))
        order.reverse()
    return {name: Timing(first[name], tuple(repeated[name])) for name in contenders}


def _seconds(contender: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(contender())
    return time.perf_counter() - start


def ratio(slower: Timing, faster: Timing) -> float:
    """How many times longer `slower` takes: the median over repetitions of the ratio of
    neighbouring calls.
    """
    return statistics.median(a / b for a, b in zip(slower.repeated, faster.repeated, strict=True))


def num_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_line() -> str:
    """Processor, cores, versions, and JAX's devices."""
    devices = jax.devices()
    cores = num_cores()
    return (
        f"{_processor()}, {cores} core{'s' * (cores != 1)}; "
        f"Python {platform.python_version()}, JAX {jax.__version__}; "
        f"{len(devices)} {devices[0].device_kind} device{'s' * (len(devices) != 1)}"
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write_result(
    name: str,
    *,
    title: str,
    note: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | int | float]],
) -> Path:
    """Write a table, with the command that is running, the machine and the date, to
    `benchmarks/results/<name>.json`.

    Args:
        name: of the file.
        title: heading of its section in the docs.
        note: Markdown: what is measured, how to read it.
        columns: with units.
        rows: one cell per column, formatted as they are to appear.
    """
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"every row needs {len(columns)} cells, one per column")
    result = {
        "title": title,
        "command": _command(),
        "note": note,
        "machine": machine_line(),
        "date": datetime.date.today().isoformat(),
        "columns": list(columns),
        "rows": [list(row) for row in rows],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _command() -> str:
    script = Path(sys.argv[0]).resolve()
    return shlex.join(["python", script.relative_to(ROOT).as_posix(), *sys.argv[1:]])
