import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lmcjax
from lmcjax.symmetry import named_leaves

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Network(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.List([nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)])

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x))).mean((1, 2))
        return self.last[1](self.dropout(nnx.relu(self.last[0](x))))


@pytest.fixture
def inputs():
    return jax.random.normal(jax.random.key(2), (3, 6, 6, 1))


def test_there_and_back(inputs, shuffled, generic):
    model = lmcjax.to_nnx(Network(nnx.Rngs(0)), generic(lmcjax.from_nnx(Network(nnx.Rngs(0)))[1]))
    apply, params = lmcjax.from_nnx(model)
    assert {"first/kernel", "norm/mean", "norm/var", "last/1/bias"} < set(named_leaves(params))
    other, spec = shuffled(apply, params, inputs, num_groups=2)
    written = {name for group in spec.groups for name in written_leaves(spec, group)}
    assert {"norm/mean", "norm/var", "norm/scale"} < written

    assert model.dropout.deterministic is False
    restored = lmcjax.to_nnx(model, other)
    assert restored.dropout.deterministic is False  # the mode that the model was in
    restored.eval()
    model.eval()
    np.testing.assert_allclose(restored(inputs), model(inputs), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(restored.norm.mean[...], other["norm"]["mean"])


def written_leaves(spec, group):
    return [name for name, axes in spec.leaves if group in str(axes)]


def test_the_model_stays_as_it_is(inputs):
    model = Network(nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState))))
    apply, params = lmcjax.from_nnx(model)
    jax.jit(apply)(params, inputs)
    lmcjax.to_nnx(model, jax.tree.map(lambda leaf: leaf + 1, params))
    assert not model.norm.use_running_average
    after = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState)))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_other_parameters_are_refused():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    apply, params = lmcjax.from_nnx(model)
    with pytest.raises(ValueError, match="params lack 'bias'"):
        apply({"kernel": params["kernel"]}, jnp.ones((1, 3)))
    with pytest.raises(ValueError, match="'scale', which the model lacks"):
        lmcjax.to_nnx(model, {**params, "scale": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"'kernel' has shape \(2, 2\) in params, \(3, 2\)"):
        lmcjax.to_nnx(model, {**params, "kernel": jnp.ones((2, 2))})
