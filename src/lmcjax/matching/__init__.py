"""Transport applied to networks: one file per algorithm, one signature, one result type."""

from lmcjax.matching._layerwise import match_layerwise as match_layerwise
from lmcjax.matching._matching import Matching as Matching
from lmcjax.matching._similarity import Similarity as Similarity
from lmcjax.matching._similarity import approximate_dimensions as approximate_dimensions
from lmcjax.matching._similarity import layer_similarity as layer_similarity
