"""What every step of a run needs to know."""

from typing import NamedTuple

import jax

from lmcjax.sweep._folder import SweepFolder
from lmcjax.sweep._network_programs import Programs
from lmcjax.sweep._reporting import ProgressReporter


class RunContext(NamedTuple):
    """A sweep, where it is stored and computed, and to whom it reports."""

    programs: Programs
    folder: SweepFolder
    devices: tuple[jax.Device, ...]
    checkpoint_seconds: float  # between two checkpoints of a training call
    reporter: ProgressReporter
