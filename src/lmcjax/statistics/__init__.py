"""What a layer sees: moments of activations, and how many dimensions they fill."""

from lmcjax.statistics._activations import ActivationMoments as ActivationMoments
from lmcjax.statistics._activations import activation_moments as activation_moments
from lmcjax.statistics._activations import bound_activation_moments as bound_activation_moments
from lmcjax.statistics._dimension import approximate_dimension as approximate_dimension
from lmcjax.statistics._group_moments import ActivationSource as ActivationSource
from lmcjax.statistics._group_moments import activation_sources as activation_sources
from lmcjax.statistics._group_moments import bound_group_moments as bound_group_moments
from lmcjax.statistics._group_moments import group_moments as group_moments
from lmcjax.statistics._independence import IndependenceTest as IndependenceTest
from lmcjax.statistics._independence import independence_test as independence_test
from lmcjax.statistics._independence import neuron_coordinates as neuron_coordinates
from lmcjax.statistics._moments import Moments as Moments
from lmcjax.statistics._moments import cross_correlation as cross_correlation
from lmcjax.statistics._moments import cross_covariance as cross_covariance
from lmcjax.statistics._moments import merge_moments as merge_moments
from lmcjax.statistics._moments import over_batch as over_batch
from lmcjax.statistics._moments import sample_moments as sample_moments
from lmcjax.statistics._moments import second_moment as second_moment
from lmcjax.statistics._moments import stream_moments as stream_moments
