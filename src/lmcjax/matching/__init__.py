"""Transport applied to networks: one file per algorithm, one signature, one result type."""

from lmcjax.matching._frank_wolfe import match_frank_wolfe as match_frank_wolfe
from lmcjax.matching._layerwise import match_layerwise as match_layerwise
from lmcjax.matching._matching import Matching as Matching
from lmcjax.matching._objective import weight_inner_product as weight_inner_product
from lmcjax.matching._objective import weight_similarity as weight_similarity
from lmcjax.matching._similarity import Similarity as Similarity
from lmcjax.matching._similarity import approximate_dimensions as approximate_dimensions
from lmcjax.matching._similarity import layer_similarity as layer_similarity
from lmcjax.matching._weights import match_weights as match_weights
