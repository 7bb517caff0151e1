"""What `lmcjax match` knows of two networks: their parameters, their spec, and maybe a program."""

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import PyTree

from lmcjax.cli._checkpoint import Checkpoint, in_float32, params_of_network
from lmcjax.data import Dataset
from lmcjax.models import Network
from lmcjax.symmetry import PermutationSpec, discover, spec_from_table


class CheckpointFile(NamedTuple):
    """A checkpoint, and where it was read."""

    path: Path
    checkpoint: Checkpoint


class Program(NamedTuple):
    """The function that both networks compute, and the data on which it is seen."""

    network: Network
    dataset: Dataset


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
            raise ValueError(
                f"{option} needs the program of the networks (--model or --apply); with --spec "
                "alone only --similarity weights and --loss weight_distance are possible"
            )
        return self.program


def networks_of_program(a: CheckpointFile, b: CheckpointFile, program: Program) -> Networks:
    """The networks of a program, from which their spec is read off.

    Raises:
        ValueError: a checkpoint does not hold the program's parameters.
    """
    network, dataset = program
    params_a = params_of_network(a.path, a.checkpoint.leaves, network)
    params_b = params_of_network(b.path, b.checkpoint.leaves, network)
    spec = discover(network.apply, params_a, dataset.train.inputs[:2])
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
