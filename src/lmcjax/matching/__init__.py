"""Transport applied to networks: families of algorithms, one signature, one result type.

- `layerwise`: one transport problem per layer, exact or soft.
- `inner_product`: all weights at once, by coordinate descent or over the Birkhoff polytope.
- `searches`: any loss, by gradients through Sinkhorn, straight through, or by annealing.
"""

from lmcjax.matching._dimensions import approximate_dimensions as approximate_dimensions
from lmcjax.matching._dimensions import dimensions_of_pair as dimensions_of_pair
from lmcjax.matching._matching import Matching as Matching
from lmcjax.matching._matching import Search as Search
from lmcjax.matching._matching import TotalSimilarity as TotalSimilarity
from lmcjax.matching._matching_file import load_matching as load_matching
from lmcjax.matching._matching_file import save_matching as save_matching
from lmcjax.matching._pair import Pair as Pair
from lmcjax.matching._pair import make_pair as make_pair
from lmcjax.matching._similarities import SIMILARITIES as SIMILARITIES
from lmcjax.matching._similarities import Activations as Activations
from lmcjax.matching._similarities import ActivationSimilarity as ActivationSimilarity
from lmcjax.matching._similarities import Correlation as Correlation
from lmcjax.matching._similarities import Covariance as Covariance
from lmcjax.matching._similarities import KernelMetric as KernelMetric
from lmcjax.matching._similarities import SimilarityName as SimilarityName
from lmcjax.matching._similarities import Weights as Weights
from lmcjax.matching._similarities import similarity_from_name as similarity_from_name
from lmcjax.matching._similarity import KernelSimilarity as KernelSimilarity
from lmcjax.matching._similarity import Similarity as Similarity
from lmcjax.matching._similarity import Term as Term
from lmcjax.matching._similarity import layer_similarity as layer_similarity
from lmcjax.matching.inner_product import match_coordinate_descent as match_coordinate_descent
from lmcjax.matching.inner_product import match_frank_wolfe as match_frank_wolfe
from lmcjax.matching.inner_product import weight_inner_product as weight_inner_product
from lmcjax.matching.inner_product import weight_similarity as weight_similarity
from lmcjax.matching.layerwise import match_layerwise as match_layerwise
from lmcjax.matching.layerwise import match_pair as match_pair
from lmcjax.matching.layerwise import match_soft as match_soft
from lmcjax.matching.searches import PairLoss as PairLoss
from lmcjax.matching.searches import SoftAlignments as SoftAlignments
from lmcjax.matching.searches import covariance_distance as covariance_distance
from lmcjax.matching.searches import match_annealing as match_annealing
from lmcjax.matching.searches import match_sinkhorn as match_sinkhorn
from lmcjax.matching.searches import match_straight_through as match_straight_through
from lmcjax.matching.searches import midpoint_loss as midpoint_loss
from lmcjax.matching.searches import random_point_loss as random_point_loss
from lmcjax.matching.searches import soft_alignments as soft_alignments
from lmcjax.matching.searches import weight_distance as weight_distance
