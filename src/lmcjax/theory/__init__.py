"""The paper's theory as numbers: rates, bounds on widths and matchings, and how errors pass through layers."""

from lmcjax.theory._lower_bound import MatchingBound as MatchingBound
from lmcjax.theory._lower_bound import gaussian_matching_lower_bound as gaussian_matching_lower_bound
from lmcjax.theory._lower_bound import matching_lower_bound as matching_lower_bound
from lmcjax.theory._propagation import PathDeviation as PathDeviation
from lmcjax.theory._propagation import Propagation as Propagation
from lmcjax.theory._propagation import path_deviation as path_deviation
from lmcjax.theory._propagation import propagate as propagate
