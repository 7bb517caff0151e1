"""Locks on a sweep's folder: who computes in it, and who is at which batch.

All of them are locks of the operating system (`flock`): they end with the process that holds them,
however it ends.
"""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lmcjax.sweep._files import errors_name

_PATIENCE = 1.0  # seconds to wait for those who only look who computes
_RETRY = 0.05  # seconds between two attempts

FOLDER_LOCK = "lock"
CHANGE_LOCK = "changing.lock"


class FolderLocks:
    """The locks of one sweep's folder."""

    def __init__(self, path: Path) -> None:
        self._folder = path
        self._path = path / FOLDER_LOCK

    @contextlib.contextmanager
    def hold(self, *, shared: bool = False) -> Iterator[None]:
        """Be the only one who computes in the folder, or one of those who share it.

        Raises:
            BlockingIOError: someone else computes here; says who.
        """
        with errors_name(self._path):
            self._folder.mkdir(parents=True, exist_ok=True)
            file = open(self._path, "ab+", buffering=0)  # noqa: SIM115 - closed below
        with file:
            self._acquire(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            with errors_name(self._path):
                # Those who share leave no name; that of one who is gone would mislead
                file.truncate(0)
                if not shared:
                    file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield

    def _acquire(self, file: IO[bytes], kind: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                # `holder` takes the lock for a moment, too
                if time.monotonic() < deadline:
                    time.sleep(_RETRY)
                    continue
                file.seek(0)
                who = file.read().decode().strip() or "another process"
                raise BlockingIOError(
                    errno.EWOULDBLOCK, f"{who} is computing here", str(self._folder)
                ) from None

    def holder(self) -> str | None:
        """Say who computes in the folder; None: nobody."""
        try:
            # NFS locks exclusively only what is open for writing
            with open(self._path, "r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return self._path.read_text().strip() or "several processes"
        return None

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """Change the folder's description or plan: one process at a time, for a moment."""
        path = self._folder / CHANGE_LOCK
        with errors_name(self._folder):
            file = open(path, "a")  # noqa: SIM115 - closed below
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


@contextlib.contextmanager
def claim(batch_file: Path) -> Iterator[bool]:
    """Claim a batch, by its file, among the processes that share a folder.

    Yields:
        Whether this process is to compute it: it is not finished, and nobody else is at it.
    """
    with open(batch_file.with_suffix(".lock"), "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield not batch_file.is_file()
