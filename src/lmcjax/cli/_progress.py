"""Progress of long work: a bar on a terminal, plain lines in a log."""

import contextlib
import datetime
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmcjax.sweep import SweepProgress

_LINE_EVERY = 30.0  # seconds, in a log
_STAGES = {
    "train": "training",
    "compare": "matching and measuring",
    "wait": "waiting for other processes",
}


def describe(progress: "SweepProgress") -> str:
    """What is being done, and the losses so far."""
    parts = [_STAGES[progress.stage]]
    if not math.isnan(progress.training_loss):
        parts.append(f"training loss {progress.training_loss:.3g}")
    if not math.isnan(progress.barrier):
        parts.append(f"barrier {progress.barrier:.3g} nats unmatched")
    return ", ".join(parts)


@contextlib.contextmanager
def show_progress() -> Iterator[Callable[["SweepProgress"], None]]:
    """Networks done, losses so far, time left."""
    from rich.console import Console

    console = Console()
    with _bar() if console.is_terminal else _lines() as on_progress:
        yield on_progress


@contextlib.contextmanager
def show_stage(what: str) -> Iterator[None]:
    """Say what is being done: with a spinner on a terminal, once in a log."""
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        print(what, flush=True)
        yield


@contextlib.contextmanager
def show_steps(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Yields what counts one step, from any thread: a bar on a terminal, a line every half minute
    in a log.
    """
    from rich.console import Console
    from rich.progress import Progress

    if Console().is_terminal:
        with Progress() as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
        return
    clock, done, last = _Clock(), 0, time.monotonic()
    print(f"{what}, {total} steps", flush=True)

    def step() -> None:
        nonlocal done, last
        done = min(done + 1, total)
        left = clock.left(done / total)
        if time.monotonic() - last >= _LINE_EVERY:
            last = time.monotonic()
            print(
                f"{duration(last - clock.start)} {done}/{total} steps, {duration(left)} left",
                flush=True,
            )

    yield step


class _Clock:
    """Time left, from the share that was done since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.first: float | None = None

    def left(self, share: float) -> float | None:
        """Seconds, or None where it can't be said yet."""
        self.first = share if self.first is None else self.first
        if share <= self.first:
            return 0.0 if share >= 1 else None
        return (time.monotonic() - self.start) * (1 - share) / (share - self.first)


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds."""
    return "unknown" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))


@contextlib.contextmanager
def _bar() -> Iterator[Callable[["SweepProgress"], None]]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[networks]} networks"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]} left; {task.description}"),
    )
    clock = _Clock()
    with Progress(*columns) as bar:
        task = bar.add_task("starting", total=1.0, networks="0", left="unknown")

        def on_progress(progress: "SweepProgress") -> None:
            bar.update(
                task,
                completed=progress.share,
                description=describe(progress),
                networks=f"{progress.networks_done}/{progress.num_networks}",
                left=duration(clock.left(progress.share)),
            )

        yield on_progress


@contextlib.contextmanager
def _lines() -> Iterator[Callable[["SweepProgress"], None]]:
    clock = _Clock()
    last, done = -math.inf, -1

    def on_progress(progress: "SweepProgress") -> None:
        nonlocal last, done
        left = clock.left(progress.share)
        if progress.networks_done == done and time.monotonic() - last < _LINE_EVERY:
            return
        last, done = time.monotonic(), progress.networks_done
        print(
            f"{duration(last - clock.start)} {done}/{progress.num_networks} networks, {progress.share:.0%}, "
            f"{duration(left)} left; {describe(progress)}",
            flush=True,
        )

    yield on_progress
