import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmcjax
from lmcjax.symmetry import named_leaves

pytestmark = pytest.mark.usefixtures("quick_compilation")


class WithState(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    last: eqx.nn.Linear

    def __init__(self, key, mode):
        self.first = eqx.nn.Linear(3, 4, key=key)
        self.norm = eqx.nn.BatchNorm(4, "batch", mode=mode)
        self.dropout = eqx.nn.Dropout()
        self.last = eqx.nn.Linear(4, 2, key=key)

    def __call__(self, x, state):
        x, state = self.norm(self.first(x), state)
        return self.last(self.dropout(jax.nn.relu(x))), state


@pytest.fixture
def inputs():
    return jax.random.normal(jax.random.key(2), (5, 3))


def test_there_and_back(inputs, shuffled, generic):
    model = eqx.nn.MLP(3, 2, width_size=5, depth=2, key=jax.random.key(0))
    apply, params = lmcjax.from_equinox(model)
    np.testing.assert_allclose(apply(params, inputs), jax.vmap(model)(inputs), rtol=1e-6)
    other, _ = shuffled(apply, generic(params), inputs, num_groups=2)
    restored = lmcjax.to_equinox(model, other)
    np.testing.assert_allclose(
        jax.vmap(restored)(inputs), apply(generic(params), inputs), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("mode", ["ema", "batch"])
def test_statistics_are_parameters(mode, inputs, shuffled, generic):
    model, state = eqx.nn.make_with_state(WithState)(jax.random.key(0), mode)
    apply, params = lmcjax.from_equinox(model, state)
    params = generic(params)
    other, spec = shuffled(apply, params, inputs, num_groups=1)
    (group,) = spec.groups
    permuted = {name for name, axes in spec.leaves if group in str(axes)}
    assert {"state/1/0", "state/1/1", "model/norm/weight"} < permuted

    restored, restored_state = lmcjax.to_equinox(model, other)
    assert restored.dropout.inference is False  # the mode that the model was in
    evaluated = eqx.nn.inference_mode(restored)
    outputs, _ = jax.vmap(evaluated, (0, None), (0, None), axis_name="batch")(
        inputs, restored_state
    )
    np.testing.assert_allclose(outputs, apply(params, inputs), rtol=1e-5, atol=1e-6)


def test_other_parameters_are_refused():
    model = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    _, params = lmcjax.from_equinox(model)
    other = eqx.tree_at(lambda tree: tree.weight, params, jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"'weight' has shape \(2, 2\) in params, \(2, 3\)"):
        lmcjax.to_equinox(model, other)
    assert list(named_leaves(params)) == ["weight", "bias"]
