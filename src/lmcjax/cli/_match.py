"""`lmcjax match`."""

import dataclasses
import functools
import inspect
import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import tyro

from lmcjax.cli._figure2 import ModelName
from lmcjax.cli._plot import wide_console
from lmcjax.cli._progress import show_stage, show_steps

if TYPE_CHECKING:
    from jaxtyping import Array, PyTree

    from lmcjax.cli._checkpoint import Checkpoint
    from lmcjax.data import Dataset
    from lmcjax.matching import Matching, Objective
    from lmcjax.models import Network
    from lmcjax.statistics import ActivationMoments
    from lmcjax.symmetry import PermutationSpec

Layerwise: TypeAlias = Literal["weights", "covariance", "activations", "correlation"]
Global: TypeAlias = Literal["coordinate-descent", "frank-wolfe", "sinkhorn", "straight-through", "annealing"]
Learned: TypeAlias = Literal["sinkhorn", "straight-through", "annealing"]
_BATCH = 200  # samples per step of a loss that is learned from


@dataclasses.dataclass(frozen=True)
class Match:
    """Reorder the neurons of network B so that they line up with those of network A. Both are safetensors files whose
    keys are the parameters' paths (Dense_0/kernel). Writes aligned.safetensors, which is B in A's order,
    matching.safetensors, the permutations, and report.json, what it brought. Pickled checkpoints are never read.
    aligned.safetensors has B's dtypes, even where A's are others, and B's values to the last bit. What is compared and
    measured is in the dtypes of the network's own parameters, with --spec in float32.
    """

    a: tyro.conf.Positional[Path]
    """Checkpoint of the network that stays."""
    b: tyro.conf.Positional[Path]
    """Checkpoint of the network whose neurons are reordered."""
    model: ModelName | None = None
    """The networks are of one of the library's models, with --width and --num-hidden-layers; their outputs are log
    probabilities or logits of the classes of --dataset."""
    apply: str | None = None
    """Or a network of your own, package.module:function: function(params, inputs) gives logits, and init(key) beside
    it gives params. What may be permuted is read off its program."""
    spec: Path | None = None
    """Or no program at all, but a TOML file that says which axes write and read which groups of neurons; then
    activations are not seen, and no loss is measured."""
    width: int = 128
    """Of --model."""
    num_hidden_layers: int = 3
    """Of --model."""
    method: Layerwise | Global = "covariance"
    """Layer by layer, comparing weights, weights in the covariance (second moment) of what the layer sees, activations,
    or their correlation. Or all parameters at once: coordinate-descent (Git Re-Basin), frank-wolfe (C2M3), sinkhorn,
    straight-through, annealing."""
    objective: Literal["weights", "covariance", "midpoint"] = "weights"
    """What sinkhorn, straight-through and annealing make small: the distance of the parameters, that in the covariance
    of what A's layers see, or the training loss half-way."""
    steps: int | None = None
    """Of sinkhorn, straight-through and annealing (default: 200, 100, 20,000)."""
    restarts: int = 1
    """Of coordinate-descent, from random permutations; the best is kept."""
    seed: int = 0
    """Of whatever is drawn."""
    dataset: str = "mnist5k"
    """Where activations are seen and losses measured: mnist5k, digits, fashion-mnist, or a folder with MNIST's four IDX
    files."""
    moment_samples: int | None = None
    """Training images on which activations are compared (default: all)."""
    num_points: int = 25
    """Points on the line between the two networks at which the test loss is measured."""
    out: Path = Path("matched")
    """Folder for the results."""
    overwrite: bool = False
    """Replace results that are there already."""

    def run(self) -> None:
        """Read, match, write, print."""
        if sum(given is not None for given in (self.model, self.apply, self.spec)) != 1:
            raise ValueError("match needs to know the networks: give one of --model, --apply and --spec")
        blind = self.method == "weights" or (self.method in get_args(Global) and self.objective == "weights")
        if self.spec is not None and not blind:
            raise ValueError(f"--method {self.method} needs the program of the networks, not a --spec alone")
        if self.method not in get_args(Learned) and (self.steps is not None or self.objective != "weights"):
            raise ValueError(f"--steps and --objective are of {', '.join(get_args(Learned))}, not of {self.method}")
        if self.method != "coordinate-descent" and self.restarts != 1:
            raise ValueError(f"--restarts are of coordinate-descent, not of {self.method}")
        files = [self.out / name for name in ("aligned.safetensors", "matching.safetensors", "report.json")]
        if not self.overwrite and (there := [file for file in files if file.exists()]):
            raise FileExistsError(f"{there[0]} is already there; --overwrite replaces it")
        from lmcjax.cli._checkpoint import (
            Checkpoint,
            distance,
            in_float32,
            permute_checkpoint,
            read_checkpoint,
        )
        from lmcjax.symmetry import permute, spec_from_table

        file_a, file_b = read_checkpoint(self.a), read_checkpoint(self.b)
        if self.spec is not None:
            spec, network, dataset = spec_from_table(_read_table(self.spec)), None, None
            params_a, params_b = in_float32(file_a.leaves), in_float32(file_b.leaves)
        else:
            network, dataset = self._network()
            params_a = _as_params(self.a, file_a.leaves, network)
            params_b = _as_params(self.b, file_b.leaves, network)
            spec = _discover(network, params_a, dataset)
        bound = spec.bind(params_a)
        matching = self._match(bound, params_a, params_b, network, dataset)
        report = self._report(matching)
        aligned = permute_checkpoint(bound, matching.permutations, file_b.leaves)
        report["distance"] = {
            "as given": distance(file_a.leaves, file_b.leaves),
            "aligned": distance(file_a.leaves, aligned),
        }
        if network is not None and dataset is not None:
            others = {"as given": params_b, "aligned": permute(bound, matching.permutations, params_b)}
            report["test"] = self._measure(params_a, others, network, dataset)
        metadata = {**file_b.metadata, "aligned_to": str(self.a), "from": str(self.b)}
        self._write(files, Checkpoint(aligned, metadata), matching, report)
        _show(bound, report)
        print(*files, sep="\n")

    def again(self) -> str:
        """The same command."""
        return f"lmcjax match {self.a} {self.b}"

    def _network(self) -> tuple["Network", "Dataset"]:
        from lmcjax.data import load_dataset
        from lmcjax.models import build_network

        dataset = load_dataset(self.dataset)
        sizes = {"width": self.width, "num_hidden_layers": self.num_hidden_layers}
        model = self.apply or str(self.model)
        return build_network(model, dataset.input_shape, dataset.num_classes, **sizes), dataset

    def _match(
        self,
        spec: "PermutationSpec",
        params_a: "PyTree",
        params_b: "PyTree",
        network: "Network | None",
        dataset: "Dataset | None",
    ) -> "Matching":
        import jax

        from lmcjax import matching

        pair = (spec, params_a, params_b)
        if self.method in get_args(Layerwise):
            moments = None
            if network is not None and dataset is not None and self.method != "weights":
                moments = self._moments(*pair, network, dataset)
            with show_stage(f"matching {len(spec.groups)} groups, layer by layer"):
                found = matching.match_layerwise(*pair, similarity=cast(Layerwise, self.method), moments=moments)
                return jax.block_until_ready(found)
        key = jax.random.key(self.seed)
        if self.method in ("coordinate-descent", "frank-wolfe"):
            with show_stage(f"matching {len(spec.groups)} groups by {self.method}"):
                if self.method == "frank-wolfe":
                    return jax.block_until_ready(matching.match_frank_wolfe(*pair))
                found = matching.match_weights(*pair, key=key, order=spec.groups, restarts=self.restarts)
                return jax.block_until_ready(found)
        return self._search(spec, params_a, params_b, self._objective(spec, params_a, network, dataset))

    def _moments(
        self, spec: "PermutationSpec", params_a: "PyTree", params_b: "PyTree", network: "Network", dataset: "Dataset"
    ) -> "ActivationMoments":
        import jax

        from lmcjax.data import evenly_spaced
        from lmcjax.statistics import activation_moments

        inputs = evenly_spaced(dataset.train.inputs, self.moment_samples)
        with show_stage(f"activations of {len(inputs):,} images"):
            return jax.block_until_ready(activation_moments(network.apply, spec, params_a, params_b, inputs))

    def _search(
        self, spec: "PermutationSpec", params_a: "PyTree", params_b: "PyTree", objective: "Objective"
    ) -> "Matching":
        """The long ones, step by step; annealing by weights is quick, and knows that objective by its name."""
        import jax

        from lmcjax import matching

        search: Any = {
            "sinkhorn": matching.match_sinkhorn,
            "straight-through": matching.match_straight_through,
            "annealing": matching.match_annealing,
        }[self.method]
        usual = inspect.signature(search).parameters["num_steps"].default
        num_steps = usual if self.steps is None else self.steps
        with show_steps(f"matching by {self.method}, compilation included", num_steps) as step:

            def told(a: Any, b: Any, key: Any) -> Any:
                jax.debug.callback(step)
                return objective(a, b, key)

            wanted = objective if self.method == "annealing" and self.objective == "weights" else told
            match = functools.partial(search, spec, objective=wanted, num_steps=num_steps)
            found = jax.jit(match)(params_a, params_b, key=jax.random.key(self.seed))
            jax.effects_barrier()
            return jax.block_until_ready(found)

    def _objective(
        self, spec: "PermutationSpec", params_a: "PyTree", network: "Network | None", dataset: "Dataset | None"
    ) -> "Objective":
        from lmcjax.evaluation import cross_entropy_and_accuracy
        from lmcjax.matching import covariance_distance, midpoint_loss, weight_distance

        if self.objective == "weights" or network is None or dataset is None:
            return weight_distance
        if self.objective == "covariance":
            return covariance_distance(spec, self._moments(spec, params_a, params_a, network, dataset))

        def loss(outputs: "Array", labels: "Array") -> "Array":
            return cross_entropy_and_accuracy(outputs, labels).loss

        return midpoint_loss(network.apply, loss, dataset.train, batch_size=_BATCH)

    def _report(self, matching: "Matching") -> dict[str, Any]:
        """What the matching reached, as plain values."""
        return {
            "a": str(self.a),
            "b": str(self.b),
            "method": self.method,
            "objective": {g: float(v) for g, v in matching.objective.items()},
            "objective_of_identity": {g: float(v) for g, v in matching.identity_objective.items()},
            "converged": bool(matching.converged),
            "finite": bool(matching.finite),
        }

    def _measure(
        self, params_a: "PyTree", others: dict[str, "PyTree"], network: "Network", dataset: "Dataset"
    ) -> dict[str, dict[str, float]]:
        """Test losses on the lines from A to the others."""
        import jax

        from lmcjax.evaluation import batched_loss, cross_entropy_and_accuracy, linear_barrier

        loss = batched_loss(network.apply, cross_entropy_and_accuracy, dataset.test)
        along = jax.jit(lambda a, b: linear_barrier(loss, a, b, num_points=self.num_points))
        measured = {}
        for name, other in others.items():
            with show_stage(f"test loss on the line to B {name}, {self.num_points} points"):
                result = jax.block_until_ready(along(params_a, other))
            measured[name] = {
                "loss of A": float(result.losses[0]),
                "loss of B": float(result.losses[-1]),
                "loss half-way": float(result.midpoint_loss),
                "barrier": float(result.height),
                "accuracy half-way": float(result.midpoint.accuracy),
            }
        return measured

    def _write(self, files: list[Path], aligned: "Checkpoint", matching: "Matching", report: dict[str, Any]) -> None:
        from lmcjax.cli._checkpoint import write_checkpoint

        self.out.mkdir(parents=True, exist_ok=True)
        for file in files:
            file.unlink(missing_ok=True)
        write_checkpoint(files[0], aligned)
        matching.save(files[1])
        files[2].write_text(json.dumps(report, indent=1))


def _read_table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no TOML: {error}") from error


def _as_params(path: Path, leaves: dict[str, Any], network: "Network") -> "PyTree":
    """The leaves in the structure and the dtypes of the network's parameters.

    Raises:
        ValueError: names and shapes are not those of the network, or a leaf has fractions where
            the network has integers; names the first.
    """
    import jax
    import jax.numpy as jnp

    from lmcjax.symmetry import named_leaves, rebuild

    expected = jax.eval_shape(network.init, jax.random.key(0))
    wanted = named_leaves(expected)
    shapes = {name: leaf.shape for name, leaf in wanted.items()}
    if missing := [name for name in shapes if name not in leaves]:
        raise ValueError(f"{path}: lacks {missing[0]!r}, which the network has; the file has {sorted(leaves)}")
    if foreign := sorted(leaves.keys() - shapes.keys()):
        raise ValueError(f"{path}: has {foreign[0]!r}, which the network lacks; the network has {sorted(shapes)}")
    for name, shape in shapes.items():
        if leaves[name].shape != shape:
            raise ValueError(f"{path}: {name!r} has shape {leaves[name].shape}, the network's has {shape}")
    converted = {}
    for name, leaf in leaves.items():
        dtype = wanted[name].dtype
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not jnp.issubdtype(dtype, jnp.inexact):
            raise ValueError(f"{path}: {name!r} has dtype {leaf.dtype}, the network's has {dtype}")
        converted[name] = jnp.asarray(leaf.astype(dtype))
    return rebuild(expected, converted)


def _discover(network: "Network", params: "PyTree", dataset: "Dataset") -> "PermutationSpec":
    from lmcjax.symmetry import discover

    return discover(network.apply, params, dataset.train.inputs[:2])


def _show(spec: "PermutationSpec", report: dict[str, Any]) -> None:
    """The report as tables."""
    from rich.table import Table

    console = wide_console()
    groups = Table("group", "neurons", "similarity as given", "reached", title="What was matched")
    for group, shape in spec.group_shapes().items():
        reached = (report[name][group] for name in ("objective_of_identity", "objective"))
        groups.add_row(group, "x".join(map(str, shape)), *(f"{value:.4g}" for value in reached))
    console.print(groups)
    effect = Table("", *report["distance"], title="What it did")
    effect.add_row("distance of the parameters", *(f"{value:.4g}" for value in report["distance"].values()))
    for name in next(iter(report.get("test", {"": {}}).values())):
        effect.add_row(f"test: {name}", *(f"{values[name]:.4g}" for values in report["test"].values()))
    console.print(effect)
    if not report["finite"]:
        print("Note: some similarity was not finite; identity stands where it was.")
    elif not report["converged"]:
        print("Note: the matching had not converged when it was stopped.")
