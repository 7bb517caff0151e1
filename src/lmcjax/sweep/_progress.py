"""How far a sweep is, and stopping it when a signal comes."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np


class SweepProgress(NamedTuple):
    """How far a sweep is."""

    networks_done: int  # trained, matched, measured and stored
    num_networks: int
    share: float  # of the sweep's arithmetic, with what is under way; 0 to 1
    stage: str  # of the batch under way: "train" or "compare"; "wait" for other processes
    training_loss: (
        float  # nats, mean over the batch's networks in their last epoch; nan before the first
    )
    barrier: float  # nats, mean test barrier without matching of the last batch that was finished here; nan before


OnProgress: TypeAlias = Callable[[SweepProgress], None]


class SweepInterrupted(KeyboardInterrupt):
    """A signal came; everything finished is stored, and the sweep can go on from there."""

    def __init__(self, number: int, folder: Path) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}; what is finished is stored in {folder}")


class Progress:
    """What one process knows of the sweep, in networks and in arithmetic; says so, and stops where
    a signal came.
    """

    def __init__(
        self, num_networks: int, work: float, folder: Path, stop: list[int], on_progress: OnProgress
    ) -> None:
        self._num_networks, self._work, self._folder = num_networks, work, folder
        self._stop, self._on_progress = stop, on_progress
        self._networks_done, self._work_done = 0, 0.0
        self.stage, self.under_way = "train", 0.0  # arithmetic of the batch under way
        self.training_loss, self.barrier = np.nan, np.nan

    def finish(self, networks: int, work: float) -> None:
        """Another batch is stored."""
        self._networks_done += networks
        self._work_done += work

    def report(self) -> None:
        """Say how far we are."""
        share = min(1.0, (self._work_done + self.under_way) / self._work)
        networks = (self._networks_done, self._num_networks)
        self._on_progress(
            SweepProgress(
                *networks, share, self.stage, float(self.training_loss), float(self.barrier)
            )
        )

    @property
    def stopped(self) -> bool:
        """Whether a signal came."""
        return bool(self._stop)

    def check_signals(self) -> None:
        """Stop here if a signal came."""
        if self._stop:
            raise SweepInterrupted(self._stop[0], self._folder)


@contextlib.contextmanager
def stop_on_signals(folder: Path) -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM put themselves on; a second one interrupts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: Any) -> None:
        if received:
            raise SweepInterrupted(number, folder)
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
