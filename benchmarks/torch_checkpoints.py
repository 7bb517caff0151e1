"""Two networks of torchvision, trained in PyTorch, aligned by the command line, loaded back.

Needs PyTorch, torchax and torchvision.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# PyTorch imports NumPy, and JAX takes its devices from here.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import lmcjax
from _report import ROOT, write_result

sys.path.insert(0, str(ROOT))

from docs.examples import torchvision_networks

BATCH_SIZE = 100
NUM_POINTS = 5
NETWORKS = {"VGG": "vgg", "ResNet": "resnet"}
LEARNING_RATE = 3e-3
Build = Callable[[], nn.Module]
Data = tuple[torch.Tensor, torch.Tensor]  # images [samples, channels, height, width], labels


def to_torch_data(split: Any) -> Data:
    """Images with their channels first."""
    images = np.moveaxis(np.asarray(split.inputs), -1, 1)
    return torch.from_numpy(images.copy()), torch.from_numpy(np.array(split.labels)).long()


def train(build: Build, data: Data, *, seed: int, epochs: int) -> nn.Module:
    """Adam with a cosine schedule."""
    torch.manual_seed(seed)
    network = build().train()
    images, labels = data
    steps = epochs * (len(images) // BATCH_SIZE)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for batch in order[: len(order) // BATCH_SIZE * BATCH_SIZE].split(BATCH_SIZE):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return network


@torch.no_grad()
def outputs_of(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    network.eval()
    return torch.cat([network(batch) for batch in images.split(500)])


def test_loss(network: nn.Module, data: Data) -> float:
    images, labels = data
    return float(nn.functional.cross_entropy(outputs_of(network, images), labels))


def test_accuracy(network: nn.Module, data: Data) -> float:
    images, labels = data
    return float((outputs_of(network, images).argmax(1) == labels).float().mean())


def load(build: Build, path: Path) -> nn.Module:
    """A fresh network with the tensors of a file."""
    network = build()
    network.load_state_dict(load_file(path))
    return network


def half_way(a: nn.Module, b: nn.Module, build: Build) -> nn.Module:
    """The mean of two networks; counters are A's."""
    state = a.state_dict()
    for name, tensor in b.state_dict().items():
        if tensor.is_floating_point():
            state[name] = (state[name] + tensor) / 2
    network = build()
    network.load_state_dict(state)
    return network


def recompute_statistics(network: nn.Module, images: torch.Tensor) -> None:
    """Measure BatchNorm's means and variances on the training images, with the network as it is."""
    torch.optim.swa_utils.update_bn(images.split(BATCH_SIZE), network)


def align(folder: Path, function: str, options: list[str]) -> dict[str, Any]:
    """Run the command line; returns its report."""
    program = "from lmcjax.cli import main; main()"
    command = [sys.executable, "-c", program, "match", "a.safetensors", "b.safetensors"]
    command += ["--torch", f"docs.examples.torchvision_networks:{function}", *options]
    python_path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": python_path}
    log = folder / "match.log"
    with log.open("w") as output:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    if done.returncode:
        raise RuntimeError(log.read_text())
    return json.loads((folder / "matched" / "report.json").read_text())


def measure(name: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """A row of the table."""
    function = NETWORKS[name]
    build = getattr(torchvision_networks, function)
    dataset = lmcjax.load_dataset("mnist5k")
    training = to_torch_data(dataset.train)
    test = to_torch_data(dataset.test)
    for file, seed in {"a": 0, "b": 1}.items():
        network = train(build, training, seed=seed, epochs=options.epochs)
        save_file(network.state_dict(), folder / f"{file}.safetensors")

    print(f"{name}: trained", flush=True)
    start = time.perf_counter()
    similarity = ["--similarity", options.similarity, "--num-points", str(NUM_POINTS)]
    samples = ["--moment-samples", str(options.moment_samples)]
    report = align(folder, function, [*similarity, *samples])
    seconds = time.perf_counter() - start

    a = load(build, folder / "a.safetensors")
    b = load(build, folder / "b.safetensors")
    aligned = load(build, folder / "matched" / "aligned.safetensors")
    difference = (outputs_of(aligned, test[0]) - outputs_of(b, test[0])).abs().max()
    row = [
        name,
        f"{100 * test_accuracy(a, test):.1f}, {100 * test_accuracy(b, test):.1f}",
        f"{difference:.1e}",
    ]
    chord = (test_loss(a, test) + test_loss(b, test)) / 2
    for version, other in {"as given": b, "aligned": aligned}.items():
        row.append(f"{report['test'][version]['barrier']:.3f}")
        middle = half_way(a, other, build)
        recompute_statistics(middle, training[0])
        row.append(f"{test_loss(middle, test) - chord:.3f}")
        row.append(f"{100 * test_accuracy(middle, test):.1f}")
    return [*row, f"{seconds:.0f}"]


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--similarity", default="activations")
    parser.add_argument("--moment-samples", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.only:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            rows.append(measure(name, options, folder))
        print(*rows[-1], sep="\t", flush=True)
    write_result(
        "torch_checkpoints",
        title="PyTorch checkpoints",
        note=f"""Pairs of small torchvision networks, a ResNet with batch normalisation and a
VGG without (`docs/examples/torchvision_networks.py`), trained in PyTorch on mnist5k from two
seeds for {options.epochs} epochs with Adam, and saved as safetensors. The command `match` aligns
B with A by {options.similarity}, {options.moment_samples} training images, and `load_state_dict`
loads what it has written. "Difference" is the largest of B's outputs (logits) on the test images,
aligned against as given, both in PyTorch. Barriers are those of the command's report, test loss in
nats, {NUM_POINTS} points; BatchNorm's statistics are interpolated like all else. "Half-way,
recomputed" is the test loss half-way beyond the mean of the ends, once BatchNorm's statistics are
measured anew there on the training images (`torch.optim.swa_utils.update_bn`; the VGG has none),
and the accuracy there.""",
        columns=(
            "network",
            "test accuracy of A, B (%)",
            "difference",
            "barrier as given",
            "half-way as given, recomputed",
            "accuracy (%)",
            "barrier aligned",
            "half-way aligned, recomputed",
            "accuracy aligned (%)",
            "command (s)",
        ),
        rows=rows,
    )


if __name__ == "__main__":
    main()
