"""The command line: `lmcjax figure2`, `sweep`, `status`, `plot`, `match`, `explain`, `claims`."""

from lmcjax.cli._figure2 import Figure2 as Figure2
from lmcjax.cli._main import main as main
from lmcjax.cli._plot import Plot as Plot
from lmcjax.cli._sweep import Status as Status
from lmcjax.cli._sweep import SweepCommand as SweepCommand
