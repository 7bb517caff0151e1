"""Reports on how far a sweep is."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from lmcjax.sweep._signals import SweepInterrupted


class SweepProgress(NamedTuple):
    """How far a sweep is."""

    networks_done: int  # trained, matched, measured and stored
    num_networks: int
    share: float  # of the sweep's arithmetic, with what is under way; 0 to 1
    stage: str  # of the batch under way: "train" or "compare"; "wait" for other processes
    # Nats, mean over the batch's networks in their last epoch; nan before the first
    training_loss: float
    # Nats, mean test barrier without matching of the last batch finished here; nan before
    barrier: float


OnProgress: TypeAlias = Callable[[SweepProgress], None]


class ProgressReporter:
    """What one process knows of the progress; it reports, and stops where a signal came.

    Args:
        num_networks: networks of the sweep.
        operations: floating-point operations of the sweep.
        folder: its folder, for the message of an interrupt.
        signals: signals that came, see `stop_on_signals`.
        on_progress: gets the reports.

    Attributes:
        stage: what is being done, see `SweepProgress`.
        operations_under_way: done of the batch that is not finished yet.
        training_loss: see `SweepProgress`.
        barrier: see `SweepProgress`.
    """

    def __init__(
        self,
        num_networks: int,
        operations: float,
        folder: Path,
        signals: list[int],
        on_progress: OnProgress,
    ) -> None:
        self._num_networks = num_networks
        self._operations = operations
        self._folder = folder
        self._signals = signals
        self._on_progress = on_progress
        self._networks_done = 0
        self._operations_done = 0.0
        self.stage = "train"
        self.operations_under_way = 0.0
        self.training_loss = np.nan
        self.barrier = np.nan

    def finish(self, num_networks: int, operations: float) -> None:
        """Count a batch that is stored."""
        self._networks_done += num_networks
        self._operations_done += operations

    def report(self) -> None:
        """Report how far the sweep is."""
        done = self._operations_done + self.operations_under_way
        progress = SweepProgress(
            networks_done=self._networks_done,
            num_networks=self._num_networks,
            share=min(1.0, done / self._operations),
            stage=self.stage,
            training_loss=float(self.training_loss),
            barrier=float(self.barrier),
        )
        self._on_progress(progress)

    @property
    def signalled(self) -> bool:
        """Whether a signal came."""
        return bool(self._signals)

    def stop_if_signalled(self) -> None:
        """Stop here if a signal came.

        Raises:
            SweepInterrupted: one came.
        """
        if self._signals:
            raise SweepInterrupted(self._signals[0], self._folder)
