"""Matchings that maximise the inner product of all weights."""

from lmcjax.matching.inner_product._coordinate_descent import (
    match_coordinate_descent as match_coordinate_descent,
)
from lmcjax.matching.inner_product._frank_wolfe import match_frank_wolfe as match_frank_wolfe
from lmcjax.matching.inner_product._weight_inner_product import (
    compare_weights as compare_weights,
)
from lmcjax.matching.inner_product._weight_inner_product import is_linear as is_linear
from lmcjax.matching.inner_product._weight_inner_product import (
    weight_inner_product as weight_inner_product,
)
from lmcjax.matching.inner_product._weight_inner_product import (
    weight_similarity as weight_similarity,
)
