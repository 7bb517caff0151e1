"""Transport applied to networks: one file per algorithm, one signature, one result type."""

from lmcjax.matching._annealing import match_annealing as match_annealing
from lmcjax.matching._frank_wolfe import match_frank_wolfe as match_frank_wolfe
from lmcjax.matching._layerwise import match_layerwise as match_layerwise
from lmcjax.matching._matching import Matching as Matching
from lmcjax.matching._objectives import Objective as Objective
from lmcjax.matching._objectives import covariance_distance as covariance_distance
from lmcjax.matching._objectives import midpoint_loss as midpoint_loss
from lmcjax.matching._objectives import random_point_loss as random_point_loss
from lmcjax.matching._objectives import weight_distance as weight_distance
from lmcjax.matching._similarity import Similarity as Similarity
from lmcjax.matching._similarity import approximate_dimensions as approximate_dimensions
from lmcjax.matching._similarity import layer_similarity as layer_similarity
from lmcjax.matching._sinkhorn import SoftAlignments as SoftAlignments
from lmcjax.matching._sinkhorn import match_sinkhorn as match_sinkhorn
from lmcjax.matching._sinkhorn import soft_alignments as soft_alignments
from lmcjax.matching._soft import match_soft as match_soft
from lmcjax.matching._straight_through import match_straight_through as match_straight_through
from lmcjax.matching._weight_objective import weight_inner_product as weight_inner_product
from lmcjax.matching._weight_objective import weight_similarity as weight_similarity
from lmcjax.matching._weights import match_weights as match_weights
