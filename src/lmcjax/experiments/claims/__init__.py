"""Every claim of the paper and its summary, put to the test: one experiment per file."""

from lmcjax.experiments.claims._claim import Claim as Claim
from lmcjax.experiments.claims._claim import Estimate as Estimate
from lmcjax.experiments.claims._claim import Limits as Limits
from lmcjax.experiments.claims._claim import Verdict as Verdict
from lmcjax.experiments.claims._claim import verdict as verdict
from lmcjax.experiments.claims._experiment import Experiment as Experiment
from lmcjax.experiments.claims._experiment import Size as Size
from lmcjax.experiments.claims._page import EXPERIMENTS as EXPERIMENTS
from lmcjax.experiments.claims._page import run_experiments as run_experiments
from lmcjax.experiments.claims._page import write_page as write_page
