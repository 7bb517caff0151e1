"""`lmcjax match --torch`: PyTorch checkpoints in, one that `load_state_dict` accepts out."""

import importlib.util
import os
from pathlib import Path

import jax
import numpy as np
import pytest

import lmcjax
from lmcjax import cli

if not os.environ.get("LMCJAX_NEEDS_TORCH"):
    pytest.importorskip("torch")
    if importlib.util.find_spec("torchax") is None:
        pytest.skip("torchax is not installed", allow_module_level=True)

import torch
from safetensors.torch import load_file, save_file, save_model
from torch import nn

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = ["--num-points", "3", "--moment-samples", "200"]
MODULE = """
from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, stride=3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10)
    )


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(784, 6)
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.last = nn.Linear(6, 10)

    def forward(self, x):
        x = self.embed(x.flatten(1)).relu()
        return self.last(self.second(self.first(x).relu()).relu())


def number():
    return 3
"""


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """The module of a user, imported afresh."""
    monkeypatch.chdir(tmp_path)
    Path("torch_networks_of_a_user.py").write_text(MODULE)
    path = Path("torch_networks_of_a_user.py")
    spec = importlib.util.spec_from_file_location("torch_networks_of_a_user", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trained(build, seed: int) -> nn.Module:
    """After two steps, so that statistics and counters have values of their own."""
    torch.manual_seed(seed)
    module = build().train()
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(2):
        module(torch.randn(20, 1, 28, 28)).square().mean().backward()
        optimizer.step()
    return module.eval()


def shuffled(module: nn.Module) -> nn.Module:
    apply, params = lmcjax.from_torch(module)
    spec = lmcjax.discover(apply, params, np.zeros((2, 1, 28, 28), np.float32))
    permutations = lmcjax.random_permutations(jax.random.key(3), spec, params)
    return lmcjax.to_torch(module, lmcjax.permute(spec, permutations, params))


def match(function: str, *options: str) -> None:
    place = f"torch_networks_of_a_user:{function}"
    cli.main(["match", "a.safetensors", "b.safetensors", "--torch", place, *SMALL, *options])


def test_a_shuffled_copy_comes_back(networks):
    module = trained(networks.build, 0)
    save_file(module.state_dict(), "a.safetensors")
    save_file(shuffled(module).state_dict(), "b.safetensors")
    match("build")
    aligned = load_file("matched/aligned.safetensors")
    assert aligned.keys() == module.state_dict().keys()
    for name, tensor in module.state_dict().items():
        assert aligned[name].dtype == tensor.dtype
        assert torch.equal(aligned[name], tensor), name


def test_what_is_written_is_loaded_and_computes_the_same(networks):
    a, b = trained(networks.build, 0), trained(networks.build, 1)
    b[1].num_batches_tracked += 2**40  # more than 32 bits
    save_file(a.state_dict(), "a.safetensors")
    save_file(b.state_dict(), "b.safetensors")
    match("build", "--similarity", "weights")
    aligned = networks.build().eval()
    aligned.load_state_dict(load_file("matched/aligned.safetensors"))
    assert aligned[1].num_batches_tracked == b[1].num_batches_tracked
    assert not torch.equal(aligned[0].weight, b[0].weight)
    assert not torch.equal(aligned[1].running_mean, b[1].running_mean)
    images = torch.randn(20, 1, 28, 28)
    torch.testing.assert_close(aligned(images), b(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("names", ["all", "first"])
def test_tied_tensors_stay_tied(names, networks):
    """With all their names in the files, as torch.save has them, or one, as save_model writes."""
    a, b = trained(networks.Tied, 0), trained(networks.Tied, 1)
    for path, module in {"a.safetensors": a, "b.safetensors": b}.items():
        if names == "all":
            save_file({name: tensor.clone() for name, tensor in module.state_dict().items()}, path)
        else:
            save_model(module, path)
    match("Tied", "--similarity", "weights")
    written = load_file("matched/aligned.safetensors")
    assert written.keys() == load_file("b.safetensors").keys()
    aligned = networks.Tied()
    aligned.load_state_dict(written, strict=names == "all")
    images = torch.randn(20, 1, 28, 28)
    torch.testing.assert_close(aligned(images), b(images), rtol=1e-5, atol=1e-5)


def test_mistakes(networks, capsys):
    module = trained(networks.Tied, 0)
    different = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    different["second.weight"] += 1
    save_file(different, "a.safetensors")
    save_file(different, "b.safetensors")
    for function, message in {
        "Tied": "a.safetensors: 'second.weight' differs from 'first.weight', to which it is tied",
        "number": "returns a int, not a torch.nn.Module",
        "nobody": "has no function 'nobody'",
        "build": "lacks '0.bias', which the network has",
    }.items():
        with pytest.raises(SystemExit):
            match(function)
        assert message in capsys.readouterr().err
    assert not Path("matched").exists()
