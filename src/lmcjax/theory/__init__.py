"""The paper's theory as numbers: rates, widths, bounds on matchings, and errors through layers."""

from lmcjax.theory._lower_bound import MatchingBound as MatchingBound
from lmcjax.theory._lower_bound import (
    gaussian_matching_lower_bound as gaussian_matching_lower_bound,
)
from lmcjax.theory._lower_bound import matching_lower_bound as matching_lower_bound
from lmcjax.theory._propagation import PathDeviation as PathDeviation
from lmcjax.theory._propagation import Propagation as Propagation
from lmcjax.theory._propagation import path_deviation as path_deviation
from lmcjax.theory._propagation import propagate as propagate
from lmcjax.theory._rates import Distribution as Distribution
from lmcjax.theory._rates import ExponentFit as ExponentFit
from lmcjax.theory._rates import RateCalibration as RateCalibration
from lmcjax.theory._rates import WassersteinRate as WassersteinRate
from lmcjax.theory._rates import calibrate_wasserstein_rate as calibrate_wasserstein_rate
from lmcjax.theory._rates import empirical_wasserstein_rate as empirical_wasserstein_rate
from lmcjax.theory._rates import fit_exponent as fit_exponent
from lmcjax.theory._width import LowDimensionalWidth as LowDimensionalWidth
from lmcjax.theory._width import TwoLayerWidth as TwoLayerWidth
from lmcjax.theory._width import WidthTower as WidthTower
from lmcjax.theory._width import low_dimensional_width as low_dimensional_width
from lmcjax.theory._width import two_layer_width as two_layer_width
from lmcjax.theory._width import width_upper_bound as width_upper_bound
