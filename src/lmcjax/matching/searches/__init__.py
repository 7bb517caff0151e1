"""Matchings that search for a small loss, of any kind."""

from lmcjax.matching.searches._annealing import match_annealing as match_annealing
from lmcjax.matching.searches._losses import PairLoss as PairLoss
from lmcjax.matching.searches._losses import covariance_distance as covariance_distance
from lmcjax.matching.searches._losses import midpoint_loss as midpoint_loss
from lmcjax.matching.searches._losses import random_point_loss as random_point_loss
from lmcjax.matching.searches._losses import weight_distance as weight_distance
from lmcjax.matching.searches._sinkhorn import match_sinkhorn as match_sinkhorn
from lmcjax.matching.searches._soft_alignments import SoftAlignments as SoftAlignments
from lmcjax.matching.searches._soft_alignments import soft_alignments as soft_alignments
from lmcjax.matching.searches._straight_through import (
    match_straight_through as match_straight_through,
)
