"""What every framework has to keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmcjax
from lmcjax.symmetry import named_leaves


@pytest.fixture(scope="session")
def shuffled():
    """`shuffled(apply, params, inputs)`: other parameters of the same function, once discovery has
    found groups and every one of them has kept the outputs; and the spec.
    """

    def shuffle(apply, params, inputs, num_groups):
        spec = lmcjax.discover(apply, params, inputs)
        assert len(spec.groups) == num_groups
        assert spec.unknown == ()
        assert lmcjax.verify(apply, spec, params, inputs).jointly_holds
        permutations = lmcjax.random_permutations(jax.random.key(1), spec, params)
        other = lmcjax.permute(spec, permutations, params)
        before = named_leaves(params)
        assert any((leaf != before[name]).any() for name, leaf in named_leaves(other).items())
        np.testing.assert_allclose(
            apply(other, inputs), jax.jit(apply)(params, inputs), rtol=1e-4, atol=1e-5
        )
        return other, spec

    return shuffle


@pytest.fixture(scope="session")
def generic(generic_like):
    """`generic(params)`: no special values; what is not of floating point stays."""

    def make(params):
        def of_leaf(leaf):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                return leaf
            return generic_like(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))

        return jax.tree.map(of_leaf, params)

    return make
