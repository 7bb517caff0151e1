"""What `lmcjax match` knows of two networks: their parameters, their spec, and maybe a program."""

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from lmcjax.cli._checkpoint import (
    Checkpoint,
    in_float32,
    params_by_path,
    params_of_network,
    without_ties,
)
from lmcjax.data import Dataset
from lmcjax.frameworks import from_torch, tied_names
from lmcjax.matching import SIMILARITIES
from lmcjax.models import FunctionNetwork, Network, build_network, find_function
from lmcjax.symmetry import PermutationSpec, discover, spec_from_table


class CheckpointFile(NamedTuple):
    """A checkpoint, and where it was read."""

    path: Path
    checkpoint: Checkpoint

    def untied(self, ties: Mapping[str, str]) -> "CheckpointFile":
        """The same, each leaf under one name only; arguments and errors as of `without_ties`."""
        leaves = without_ties(self.path, self.checkpoint.leaves, ties)
        return self._replace(checkpoint=self.checkpoint._replace(leaves=leaves))


class Program(NamedTuple):
    """The function that both networks compute, and the data on which it is seen."""

    network: Network
    dataset: Dataset
    # of a name in the files that the network's parameters lack, the name that they have
    ties: Mapping[str, str]


class Networks(NamedTuple):
    """Two networks to be matched, in the dtypes in which they are compared."""

    spec: PermutationSpec  # bound to A
    params_a: PyTree
    params_b: PyTree
    program: Program | None  # None: the spec was given, and parameters are all there is

    def require_program(self, option: str) -> Program:
        """The program, for an option that needs one.

        Raises:
            ValueError: there is no program.
        """
        if self.program is None:
            blind = [name for name, kind in SIMILARITIES.items() if not kind.needs_moments()]
            raise ValueError(
                f"{option} needs the program of the networks (--model, --apply or --torch); with "
                f"--spec alone only --similarity {' or '.join(blind)} and --loss weight_distance "
                "are possible"
            )
        return self.program


def find_program(
    model: str, dataset: Dataset, a: CheckpointFile, *, width: int, num_hidden_layers: int
) -> Program:
    """The program of one of the library's models, or of a user's `package.module:function`.

    Where there is no `init` beside a user's function, A's keys say what its parameters are.

    Raises:
        ValueError: there is no such model or function.
    """
    network = build_network(
        model,
        dataset.input_shape,
        dataset.num_classes,
        width=width,
        num_hidden_layers=num_hidden_layers,
        init=functools.partial(params_by_path, a.checkpoint.leaves),
    )
    return Program(network, dataset, ties={})


def find_torch_program(place: str, dataset: Dataset) -> Program:
    """The program of the PyTorch module that a user's `package.module:function` builds.

    Raises:
        ImportError: PyTorch or torchax is not installed.
        ValueError: there is no such function, or it builds something else.
    """
    build = find_function(place)
    module = build()
    if not hasattr(module, "state_dict"):
        raise ValueError(f"{place}: returns a {type(module).__name__}, not a torch.nn.Module")
    apply_torch, params = from_torch(module)

    def apply(params: PyTree, inputs: Array) -> Array:
        if inputs.ndim == 4:  # images have their channels first in PyTorch
            inputs = jnp.moveaxis(inputs, -1, 1)
        return apply_torch(params, inputs)

    def init(key: Array) -> PyTree:
        return params

    return Program(FunctionNetwork(init, apply), dataset, tied_names(module))


def networks_of_program(a: CheckpointFile, b: CheckpointFile, program: Program) -> Networks:
    """The networks of a program, from which their spec is read off.

    Args:
        a, b: the files, with tied leaves under one name.
        program: of both.

    Raises:
        ValueError: a checkpoint does not hold the program's parameters.
    """
    params_a = params_of_network(a.path, a.checkpoint.leaves, program.network)
    params_b = params_of_network(b.path, b.checkpoint.leaves, program.network)
    spec = discover(program.network.apply, params_a, program.dataset.train.inputs[:2])
    return Networks(spec.bind(params_a), params_a, params_b, program)


def networks_of_spec(a: CheckpointFile, b: CheckpointFile, path: Path) -> Networks:
    """Networks without a program, in float32, with the spec of a TOML file.

    Raises:
        ValueError: the file is no TOML, says no spec, or one that does not fit A.
    """
    spec = spec_from_table(_read_table(path))
    params_a = in_float32(a.checkpoint.leaves)
    params_b = in_float32(b.checkpoint.leaves)
    return Networks(spec.bind(params_a), params_a, params_b, program=None)


def _read_table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no TOML: {error}") from error
