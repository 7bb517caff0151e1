"""PyTorch modules in JAX: skipped without PyTorch, unless LMCJAX_NEEDS_TORCH is set."""

import importlib.util
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmcjax
from lmcjax.frameworks import tied_names

if not os.environ.get("LMCJAX_NEEDS_TORCH"):
    pytest.importorskip("torch")
    if importlib.util.find_spec("torchax") is None:
        pytest.skip("torchax is not installed", allow_module_level=True)

import torch
from torch import nn

pytestmark = pytest.mark.usefixtures("quick_compilation")


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.GroupNorm(1, 6),
        nn.SiLU(),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(6 * 4, 2),
    )


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 1)
        )
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x)
        x = torch.relu(x + self.block(x))
        return self.last(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Tied(nn.Module):
    """Both layers have the same weights: their neurons are one group."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 4, bias=False)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.second(self.first(self.embed(x).relu()).relu()).relu())


def transformer() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


IMAGES, VECTORS, SEQUENCES = (3, 1, 8, 8), (5, 3), (2, 5, 8)
MODULES = {
    "convolutional": (convolutional, IMAGES, 2),
    "residual": (Residual, IMAGES, 2),
    "tied": (Tied, VECTORS, 1),
}


def with_generic_values(module: nn.Module, generic) -> nn.Module:
    _, params = lmcjax.from_torch(module)
    return lmcjax.to_torch(module, generic(params))


def outputs_of(module: nn.Module, inputs: jax.Array) -> np.ndarray:
    with torch.no_grad():
        return module.eval()(torch.from_numpy(np.array(inputs))).numpy()


@pytest.mark.parametrize("name", MODULES)
def test_there_and_back(name, shuffled, generic):
    build, shape, num_groups = MODULES[name]
    module = with_generic_values(build(), generic)
    assert module.training
    inputs = jax.random.normal(jax.random.key(0), shape)
    apply, params = lmcjax.from_torch(module)
    kept = {key for key in module.state_dict() if key not in tied_names(module)}
    assert set(params) == kept
    expected = outputs_of(lmcjax.to_torch(module, params), inputs)
    np.testing.assert_allclose(apply(params, inputs), expected, rtol=1e-5, atol=1e-5)
    other, _ = shuffled(apply, params, inputs, num_groups)
    restored = lmcjax.to_torch(module, other)
    assert restored.training  # the mode that the module was in
    np.testing.assert_allclose(outputs_of(restored, inputs), expected, rtol=1e-4, atol=1e-5)


def test_attention_runs(generic):
    module = with_generic_values(transformer(), generic)
    inputs = jax.random.normal(jax.random.key(0), SEQUENCES)
    apply, params = lmcjax.from_torch(module)
    expected = outputs_of(lmcjax.to_torch(module, params), inputs)
    np.testing.assert_allclose(jax.jit(apply)(params, inputs), expected, rtol=1e-4, atol=1e-5)


def test_the_module_stays_as_it_is():
    module = convolutional()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    apply, params = lmcjax.from_torch(module)
    apply(params, jnp.ones(IMAGES))
    lmcjax.to_torch(module, jax.tree.map(lambda leaf: leaf + 1, params))
    assert module.training
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_statistics_are_permuted_along():
    apply, params = lmcjax.from_torch(convolutional())
    spec = lmcjax.discover(apply, params, jnp.ones(IMAGES))
    (group,) = (group for group in spec.groups if group.startswith("0."))
    permuted = {name for name, axes in spec.leaves if repr(group) in str(axes)}
    assert {"1.running_mean", "1.running_var", "1.weight", "1.bias", "0.bias"} < permuted
    assert spec.dead == ()  # num_batches_tracked is a counter


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_come_back(dtype):
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).to(dtype)
    module[1].num_batches_tracked += 7
    _, params = lmcjax.from_torch(module)
    restored = lmcjax.to_torch(module, params)
    for name, tensor in module.state_dict().items():
        own = restored.state_dict()[name]
        assert own.dtype == tensor.dtype
        tolerance = 1e-6 if dtype == torch.float64 else 0  # float32 in JAX
        torch.testing.assert_close(own, tensor, rtol=tolerance, atol=0)


def test_buffers_that_are_not_saved_stay_constants():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 4)
            self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]), persistent=False)

        def forward(self, x):
            return self.linear(x) * self.scale

    module = Scaled()
    apply, params = lmcjax.from_torch(module)
    assert set(params) == {"linear.weight", "linear.bias"}
    inputs = jnp.ones((2, 3))
    np.testing.assert_allclose(apply(params, inputs), outputs_of(module, inputs), rtol=1e-5)


def test_gradients_are_those_of_pytorch():
    module = convolutional().eval()
    apply, params = lmcjax.from_torch(module)
    inputs = jax.random.normal(jax.random.key(0), IMAGES)
    weight = {"0.weight": params["0.weight"]}
    gradient = jax.grad(lambda leaf: (apply({**params, **leaf}, inputs) ** 2).sum())(weight)
    (module(torch.from_numpy(np.array(inputs))) ** 2).sum().backward()
    np.testing.assert_allclose(
        gradient["0.weight"], module[0].weight.grad.numpy(), rtol=1e-3, atol=1e-4
    )


def test_other_parameters_are_refused():
    module = nn.Linear(3, 2)
    _, params = lmcjax.from_torch(module)
    with pytest.raises(ValueError, match=r"'weight' has shape \(2, 2\) in params, \(2, 3\)"):
        lmcjax.to_torch(module, {**params, "weight": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="params lack 'bias'"):
        lmcjax.to_torch(module, {"weight": params["weight"]})


def test_what_torchax_needs_is_taken_back():
    lmcjax.from_torch(nn.Linear(3, 2))
    assert torch.backends.mha.get_fastpath_enabled()
    assert "torchax" in sys.modules
    with pytest.raises(AttributeError):
        _ = torch.ops.aten.prod.dim_Dimname
