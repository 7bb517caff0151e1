"""Grids of networks, trained, matched and measured, that outlast a crash and outgrow a device."""

from lmcjax.sweep._batch_results import merge as merge
from lmcjax.sweep._batch_training import Trained as Trained
from lmcjax.sweep._batch_training import train_group as train_group
from lmcjax.sweep._folder import SweepFolder as SweepFolder
from lmcjax.sweep._grid import Cell as Cell
from lmcjax.sweep._grid import Sweep as Sweep
from lmcjax.sweep._grid import parse_learning_rates as parse_learning_rates
from lmcjax.sweep._kept_networks import load_networks as load_networks
from lmcjax.sweep._network_programs import Programs as Programs
from lmcjax.sweep._pairs import Compared as Compared
from lmcjax.sweep._pairs import compare_pair as compare_pair
from lmcjax.sweep._planning import make_plan as make_plan
from lmcjax.sweep._reporting import SweepProgress as SweepProgress
from lmcjax.sweep._run import run_sweep as run_sweep
from lmcjax.sweep._signals import SweepInterrupted as SweepInterrupted
from lmcjax.sweep._sweep_plan import Group as Group
from lmcjax.sweep._sweep_plan import Plan as Plan
from lmcjax.sweep._toml import read_sweep as read_sweep
from lmcjax.sweep._toml import sweep_from_table as sweep_from_table
