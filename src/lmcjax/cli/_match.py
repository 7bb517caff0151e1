"""`lmcjax match`."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import tyro

from lmcjax.cli._checkpoint import (
    Checkpoint,
    distance,
    permute_checkpoint,
    read_checkpoint,
    with_ties,
    write_checkpoint,
)
from lmcjax.cli._figure2 import ModelName
from lmcjax.cli._match_help import (
    about_iterations,
    about_losses,
    about_methods,
    about_restarts,
    about_similarities,
    default_iterations,
    loss_choices,
    similarity_choices,
    takers,
)
from lmcjax.cli._match_methods import METHODS, LossName, MatchOptions, MethodName, run_method
from lmcjax.cli._match_networks import (
    CheckpointFile,
    Networks,
    Program,
    find_program,
    find_torch_program,
    networks_of_program,
    networks_of_spec,
)
from lmcjax.cli._match_report import describe_matching, measure_test_losses, print_report
from lmcjax.data import load_dataset
from lmcjax.matching import Matching, SimilarityName, save_matching


def _default(value: str, metavar: str, about: str | None = None) -> Any:
    """Help for an option whose absence is told apart from its default."""
    return tyro.conf.arg(metavar=metavar, help=about, help_behavior_hint=f"(default: {value})")


@dataclasses.dataclass(frozen=True)
class Match:
    """Reorder the neurons of network B so that they line up with those of network A. Both are
    safetensors files whose keys are the parameters' paths (Dense_0/kernel). Writes
    aligned.safetensors, which is B in A's order, matching.safetensors, the permutations, and
    report.json, what it brought. Pickled checkpoints are never read. aligned.safetensors has B's
    dtypes, even where A's are others, and B's values to the last bit. What is compared and measured
    is in the dtypes of the network's own parameters, with --spec in float32.
    """

    a: tyro.conf.Positional[Path]
    """Checkpoint of the network that stays."""
    b: tyro.conf.Positional[Path]
    """Checkpoint of the network whose neurons are reordered."""
    model: ModelName | None = None
    """The networks are of one of the library's models, with --width and --num-hidden-layers; their
    outputs are log probabilities or logits of the classes of --dataset."""
    apply: str | None = None
    """Or a network of your own, package.module:function: function(params, inputs) gives logits.
    params are nested dicts by the keys of the files, or what init(key) beside the function gives.
    What may be permuted is read off its program."""
    torch: str | None = None
    """Or a PyTorch network, package.module:function: function() gives a torch.nn.Module that takes
    images [samples, channels, height, width] and gives logits. The files' keys are those of
    state_dict(), and load_state_dict takes aligned.safetensors. Needs pip install lmcjax[torch]."""
    spec: Path | None = None
    """Or no program at all, but a TOML file that says which axes write and read which groups of
    neurons. Then only weights are compared, and no loss is measured."""
    width: int = 128
    """Width of --model."""
    num_hidden_layers: int = 3
    """Hidden layers of --model."""
    method: Annotated[MethodName, tyro.conf.arg(help=about_methods())] = "layerwise"
    similarity: Annotated[
        SimilarityName | None,
        _default("covariance", similarity_choices(), about_similarities()),
    ] = None
    loss: Annotated[
        LossName | None,
        _default("weight_distance", loss_choices(), about_losses()),
    ] = None
    iterations: Annotated[
        int | None,
        _default(default_iterations(), "N", about_iterations()),
    ] = None
    restarts: Annotated[int | None, _default("1", "N", about_restarts())] = None
    seed: int = 0
    """Seed of random starts, of swaps and of batches."""
    dataset: str = "mnist5k"
    """Where activations are seen and losses measured: mnist5k, digits, fashion-mnist, or a folder
    with MNIST's four IDX files."""
    moment_samples: Annotated[int | None, _default("all", "N")] = None
    """Training images on which activations are compared."""
    num_points: int = 25
    """Points on the line between the two networks at which the test loss is measured."""
    out: Path = Path("matched")
    """Folder for the results."""
    overwrite: bool = False
    """Replace results that are there already."""

    def run(self) -> None:
        """Read, match, write, print."""
        self._check_source()
        options = self._options()
        files = _OutputFiles(self.out)
        if not self.overwrite:
            files.check_absent()
        file_a = CheckpointFile(self.a, read_checkpoint(self.a))
        file_b = CheckpointFile(self.b, read_checkpoint(self.b))
        program = self._find_program(file_a)
        ties = {} if program is None else program.ties
        untied_a = file_a.untied(ties)
        untied_b = file_b.untied(ties)
        networks = self._networks(untied_a, untied_b, program)
        matching = run_method(networks, options)
        leaves_a = untied_a.checkpoint.leaves
        leaves_b = untied_b.checkpoint.leaves
        aligned = permute_checkpoint(networks.spec, matching.permutations, leaves_b)
        report: dict[str, Any] = {
            "a": str(self.a),
            "b": str(self.b),
            "method": self.method,
            "options": options.of_method(),
            **describe_matching(matching),
            "distance": {
                "as given": distance(leaves_a, leaves_b),
                "aligned": distance(leaves_a, aligned),
            },
        }
        if networks.program is not None:
            report["test"] = measure_test_losses(
                networks, networks.program, matching, self.num_points
            )
        origin = {"aligned_to": str(self.a), "from": str(self.b)}
        metadata = {**file_b.checkpoint.metadata, **origin}
        written = with_ties(aligned, file_b.checkpoint.leaves, ties)
        files.write(Checkpoint(written, metadata), matching, report)
        print_report(networks.spec, report)
        print(files.aligned, files.matching, files.report, sep="\n")

    def again(self) -> str:
        """The same command."""
        return shlex.join(["lmcjax", "match", str(self.a), str(self.b)])

    def _check_source(self) -> None:
        """Refuse a command that does not say once what the networks are.

        Raises:
            ValueError: none of --model, --apply, --torch and --spec is given, or several are.
        """
        if [self.model, self.apply, self.torch, self.spec].count(None) != 3:
            raise ValueError(
                "match needs to know the networks: give one of --model, --apply, --torch and --spec"
            )

    def _options(self) -> MatchOptions:
        """The method with its options.

        Raises:
            ValueError: an option that the method does not take, or a similarity by which it does
                not compare.
        """
        method = METHODS[self.method]
        for option in ("similarity", "loss", "iterations", "restarts"):
            if getattr(self, option) is not None and option not in method.options:
                raise ValueError(
                    f"--{option} is for --method {', '.join(takers(option))}, not for {self.method}"
                )
        similarity = self.similarity or "covariance"
        if method.similarities and similarity not in method.similarities:
            raise ValueError(
                f"--method {self.method} compares by {' or '.join(method.similarities)}, "
                f"not by {similarity}"
            )
        return MatchOptions(
            method=self.method,
            similarity=similarity,
            loss=self.loss or "weight_distance",
            iterations=self.iterations,
            restarts=1 if self.restarts is None else self.restarts,
            seed=self.seed,
            moment_samples=self.moment_samples,
        )

    def _find_program(self, file_a: CheckpointFile) -> Program | None:
        """The program of the networks; None where --spec says what they are."""
        if self.spec is not None:
            return None
        dataset = load_dataset(self.dataset)
        if self.torch is not None:
            return find_torch_program(self.torch, dataset)
        return find_program(
            self.apply or str(self.model),
            dataset,
            file_a,
            width=self.width,
            num_hidden_layers=self.num_hidden_layers,
        )

    def _networks(
        self, file_a: CheckpointFile, file_b: CheckpointFile, program: Program | None
    ) -> Networks:
        """The two networks, with tied leaves under one name."""
        if program is not None:
            return networks_of_program(file_a, file_b, program)
        assert self.spec is not None
        return networks_of_spec(file_a, file_b, self.spec)


class _OutputFiles:
    """The three files that the command writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.aligned = folder / "aligned.safetensors"
        self.matching = folder / "matching.safetensors"
        self.report = folder / "report.json"

    def check_absent(self) -> None:
        """Refuse to go on where one of them is there already.

        Raises:
            FileExistsError: one is; names it.
        """
        for file in (self.aligned, self.matching, self.report):
            if file.exists():
                raise FileExistsError(f"{file} is already there; --overwrite replaces it")

    def write(self, aligned: Checkpoint, matching: Matching, report: dict[str, Any]) -> None:
        """Write them, in place of earlier ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Should one of the writes fail, no file of an earlier run stands beside new ones.
        for file in (self.aligned, self.matching, self.report):
            file.unlink(missing_ok=True)
        write_checkpoint(self.aligned, aligned)
        save_matching(self.matching, matching)
        self.report.write_text(json.dumps(report, indent=1))
