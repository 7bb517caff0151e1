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


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds; None is unknown."""
    if seconds is None:
        return "unknown"
    return str(datetime.timedelta(seconds=round(seconds)))


@contextlib.contextmanager
def show_progress() -> Iterator[Callable[["SweepProgress"], None]]:
    """Show networks done, losses so far and time left; yields the function to tell them to."""
    from rich.console import Console

    shown = _bar() if Console().is_terminal else _lines()
    with shown as on_progress:
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
    """Show how many of a number of steps are done; yields the function that counts one.

    It may be called from any thread. On a terminal there is a bar, in a log a line every half
    minute.
    """
    from rich.console import Console
    from rich.progress import Progress

    if Console().is_terminal:
        with Progress() as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
    else:
        print(f"{what}, {total} steps", flush=True)
        yield _StepLines(total).count


class _Clock:
    """Time spent, and time left as the share of the work that was done since the start tells."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.first_share: float | None = None

    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    def left(self, share: float) -> float | None:
        """Seconds, or None where it can't be said yet.

        Args:
            share: of all the work, that is done by now.
        """
        if self.first_share is None:
            # what an earlier run has done took none of this one's time
            self.first_share = share
        if share > self.first_share:
            return self.spent() * (1 - share) / (share - self.first_share)
        return 0.0 if share >= 1 else None


class _StepLines:
    """Lines in a log that count steps."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.clock = _Clock()
        self.last_line = time.monotonic()

    def count(self) -> None:
        """Count a step, and print a line if the last one is old."""
        self.done = min(self.done + 1, self.total)
        left = self.clock.left(self.done / self.total)
        if time.monotonic() - self.last_line < _LINE_EVERY:
            return
        self.last_line = time.monotonic()
        spent = duration(self.clock.spent())
        print(f"{spent} {self.done}/{self.total} steps, {duration(left)} left", flush=True)


@contextlib.contextmanager
def _bar() -> Iterator[Callable[["SweepProgress"], None]]:
    """The progress of a sweep as a bar."""
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
    """The progress of a sweep as lines: one when networks are done, or when the last is old."""
    clock = _Clock()
    last_line = -math.inf
    networks_done = -1

    def on_progress(progress: "SweepProgress") -> None:
        nonlocal last_line, networks_done
        left = clock.left(progress.share)
        is_recent = time.monotonic() - last_line < _LINE_EVERY
        if progress.networks_done == networks_done and is_recent:
            return
        last_line = time.monotonic()
        networks_done = progress.networks_done
        print(
            f"{duration(clock.spent())} {networks_done}/{progress.num_networks} networks, "
            f"{progress.share:.0%}, {duration(left)} left; {describe(progress)}",
            flush=True,
        )

    yield on_progress
