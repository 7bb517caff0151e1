"""Stopping a sweep when a signal comes."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class SweepInterrupted(KeyboardInterrupt):
    """A signal came; everything finished is stored, and the sweep can go on from there."""

    def __init__(self, number: int, folder: Path) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}; what is finished is stored in {folder}")


@contextlib.contextmanager
def stop_on_signals(folder: Path) -> Iterator[list[int]]:
    """Yield a list to which SIGINT and SIGTERM append their number; a second one interrupts."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        # Python runs handlers in the main thread only, and lets no other set them
        yield received
        return

    def handle(number: int, frame: Any) -> None:
        if received:
            raise SweepInterrupted(number, folder)
        received.append(number)

    handlers_before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        handlers_before[number] = signal.signal(number, handle)
    try:
        yield received
    finally:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)
