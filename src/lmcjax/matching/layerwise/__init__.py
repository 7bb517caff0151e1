"""Matchings that go through the layers, each by one transport problem."""

from lmcjax.matching.layerwise._exact import match_layerwise as match_layerwise
from lmcjax.matching.layerwise._exact import match_pair as match_pair
from lmcjax.matching.layerwise._soft import match_soft as match_soft
