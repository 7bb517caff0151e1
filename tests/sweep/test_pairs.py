"""What a sweep measures on one pair of networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmcjax
from lmcjax.matching import SIMILARITIES, Term, approximate_dimensions
from lmcjax.sweep._pairs import compare_pair

pytestmark = pytest.mark.usefixtures("quick_compilation")


@dataclasses.dataclass(frozen=True, eq=False)
class Constant(lmcjax.Similarity):
    """All neurons are alike; it needs no moments, and has no `self_similarity`."""

    def terms(self, pair, group):
        (size,) = dict(pair.spec.shapes)[group]
        return [Term(frozenset(), lambda alignments: jnp.ones((size, size)))]


@pytest.mark.usefixtures("unchecked")
def test_without_an_approximate_dimension_it_is_nan(monkeypatch):
    """Also of a similarity that is none of the library's; the others keep theirs."""
    monkeypatch.setitem(SIMILARITIES, "constant", Constant)
    network = lmcjax.FlaxNetwork(lmcjax.MLP((5, 5), 4), (6,))
    spec = lmcjax.mlp_spec(2)
    a, b = (network.init(jax.random.key(i)) for i in range(2))
    data = (jnp.linspace(-1, 1, 18).reshape(3, 6), jnp.arange(3))
    names = ("weights", "constant")
    compared = compare_pair(network, spec, names, 3, None, a, b, data, data)
    by_weights = approximate_dimensions(spec, a, similarity=lmcjax.Weights())
    of_weights, of_constant = compared.approximate_dimension
    np.testing.assert_allclose(of_weights, [by_weights[group] for group in spec.groups], rtol=1e-6)
    assert np.isnan(of_constant).all()
    assert (compared.similarity_reached[1] == 5).all()
