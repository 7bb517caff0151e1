"""The state of a training on disk, for going on where it was stopped."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import jax
from jaxtyping import PyTree

from lmcjax.sweep._files import errors_name, read_arrays, write_arrays

_log = logging.getLogger("lmcjax")


class Checkpoints:
    """The state of a call's training on disk: the newest is kept, and is there whole or not at all.

    Args:
        path: the file that holds it.
        seconds: between two checkpoints.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self.seconds = seconds
        self._last = time.monotonic()
        self.any = self.path.is_file()  # whether there is one

    def due(self) -> bool:
        """Whether the last one is long ago."""
        return time.monotonic() - self._last >= self.seconds

    def save(self, epoch: int, state: PyTree) -> None:
        """Keep the state after an epoch, in place of the one before.

        Raises:
            OSError: it can't be written; names the file.
        """
        with errors_name(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        leaves = jax.tree.leaves(jax.device_get(state))
        arrays = {str(i): leaf for i, leaf in enumerate(leaves)}
        write_arrays(self.path, arrays, {"epoch": epoch})
        self._last = time.monotonic()
        self.any = True

    def restore(self, state_after: Callable[[int], PyTree]) -> PyTree | None:
        """Read the newest state.

        Args:
            state_after: gives, for a number of epochs, some state of the right structure and
                shapes.

        Returns:
            The state; None if there is none, or none that fits: that one is deleted.
        """
        if not self.any:
            return None
        try:
            return self._read(state_after)
        except ValueError as error:
            _log.warning("%s; trained anew", error)
            self.path.unlink()
            return None

    def _read(self, state_after: Callable[[int], PyTree]) -> PyTree:
        arrays, about = read_arrays(self.path)
        expected, structure = jax.tree.flatten(state_after(about["epoch"]))
        leaves = [arrays[str(i)] for i in range(len(arrays))]
        shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]
        if shapes != [(leaf.shape, leaf.dtype) for leaf in expected]:
            # Such as that of calls of another size, planned on other devices
            raise ValueError(f"{self.path}: holds another training's state")
        return jax.tree.unflatten(structure, leaves)
