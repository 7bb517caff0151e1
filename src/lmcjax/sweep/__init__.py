"""Grids of networks, trained, matched and measured, that outlast a crash and outgrow a device."""

from lmcjax.sweep._config import Cell as Cell
from lmcjax.sweep._config import Sweep as Sweep
from lmcjax.sweep._config import parse_learning_rates as parse_learning_rates
from lmcjax.sweep._config import read_sweep as read_sweep
from lmcjax.sweep._config import sweep_from_table as sweep_from_table
from lmcjax.sweep._folder import SweepFolder as SweepFolder
from lmcjax.sweep._networks import load_networks as load_networks
from lmcjax.sweep._pairs import Compared as Compared
from lmcjax.sweep._pairs import compare_pair as compare_pair
from lmcjax.sweep._plan import Plan as Plan
from lmcjax.sweep._plan import make_plan as make_plan
from lmcjax.sweep._programs import Programs as Programs
from lmcjax.sweep._progress import SweepInterrupted as SweepInterrupted
from lmcjax.sweep._progress import SweepProgress as SweepProgress
from lmcjax.sweep._results import merge as merge
from lmcjax.sweep._run import run_sweep as run_sweep
