"""The paper's Figure 2: test loss half-way between two networks, by learning rate and matching."""

import dataclasses
import functools
import importlib.metadata
import json
import operator
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, PyTree

from lmcjax.batching import map_in_chunks, network_map, replicate
from lmcjax.data import Dataset
from lmcjax.evaluation import BarrierResult, batched_loss, cross_entropy_and_accuracy, linear_barrier
from lmcjax.matching import Matching, Similarity, approximate_dimensions, match_layerwise
from lmcjax.models import Network, build_network
from lmcjax.statistics import activation_moments
from lmcjax.symmetry import PermutationSpec, discover, identity_permutations, permute
from lmcjax.training import Optimizer, TrainConfig, TrainResult, train_networks

SIMILARITIES: tuple[Similarity, ...] = ("weights", "covariance", "activations")
MATCHINGS = ("none", *SIMILARITIES)
SPLITS = ("train", "test")
_CALLS = 8  # compiled calls that a stage is cut into, for its progress bar

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""`on_progress(stage, done, total)`, called on the host."""


@dataclasses.dataclass(frozen=True)
class Figure2Config:
    """What to train, match and measure.

    Attributes:
        model: of what kind the networks are, see `build_network`.
        width: neurons in each hidden layer; of other models, channels of the first stage or features of the stream.
        num_hidden_layers: hidden layers; of the transformer, its layers. Other models have their own depth.
        epochs: passes over the training set.
        batch_size: samples per step.
        learning_rates: peak rates.
        repetitions: pairs of networks per rate; the same initial weights serve every rate.
        optimizer: `"sgd"` with momentum 0.9, `"adam"` or `"adamw"`.
        seed: of everything random.
        num_points: points on the line between two networks.
        moment_samples: training images on which activations are compared; None: all.
        networks_per_batch: networks per compiled call; None: chosen from the memory.
    """

    model: str = "mlp"
    width: int = 128
    num_hidden_layers: int = 3
    epochs: int = 20
    batch_size: int = 100
    learning_rates: tuple[float, ...] = tuple(float(f"{rate:.3g}") for rate in np.logspace(-4, -1, 6))
    repetitions: int = 4
    optimizer: Optimizer = "sgd"
    seed: int = 0
    num_points: int = 25
    moment_samples: int | None = None
    networks_per_batch: int | None = None

    def __post_init__(self) -> None:
        for name in ("width", "num_hidden_layers", "epochs", "batch_size", "repetitions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        if self.num_points < 2:
            raise ValueError(f"num_points is at least 2, not {self.num_points}")
        if not self.learning_rates or not all(0 < rate < float("inf") for rate in self.learning_rates):
            raise ValueError(f"learning rates are positive numbers, at least one, not {self.learning_rates}")
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError(f"learning rates are given twice: {self.learning_rates}")
        for name, least in (("networks_per_batch", 1), ("moment_samples", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is at least {least}, not {value}")

    @property
    def num_pairs(self) -> int:
        """Pairs of networks, rates by repetitions."""
        return len(self.learning_rates) * self.repetitions


class PairMatchings(NamedTuple):
    """One pair, matched in every way."""

    matchings: dict[str, Matching]  # by similarity
    dimensions: dict[str, dict[str, Array]]  # approximate dimension of A, by similarity and group


class PairBarriers(NamedTuple):
    """One pair along the line; every field of both has a leading axis of matchings."""

    train: BarrierResult
    test: BarrierResult


def train_config(config: Figure2Config, dataset: Dataset) -> TrainConfig:
    """The training runs, rate by rate, repetition by repetition, network A before B."""
    steps_per_epoch = len(dataset.train.labels) // config.batch_size
    if steps_per_epoch == 0:
        raise ValueError(
            f"batch size {config.batch_size} is larger than the training set of {len(dataset.train.labels)} samples"
        )
    return TrainConfig(
        learning_rate=np.repeat(config.learning_rates, 2 * config.repetitions),
        network=build_network(
            config.model,
            dataset.input_shape,
            dataset.num_classes,
            width=config.width,
            num_hidden_layers=config.num_hidden_layers,
        ),
        num_steps=config.epochs * steps_per_epoch,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
    )


def network_spec(network: Network, dataset: Dataset) -> PermutationSpec:
    """What may be permuted in a network.

    Raises:
        ValueError: nothing.
    """
    spec = discover(network.apply, jax.eval_shape(network.init, jax.random.key(0)), dataset.train.inputs[:2])
    if not spec.groups:
        raise ValueError(f"no neurons of this network can be permuted, as far as its program shows: {spec}")
    return spec


def _train(config: Figure2Config, dataset: Dataset, on_progress: OnProgress) -> TrainResult:
    """All networks: keys fold in repetition and network, so a run depends on its own seed and rate alone."""
    key = jax.random.key(config.seed)
    numbers = jnp.tile(jnp.arange(2 * config.repetitions), len(config.learning_rates))
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.fold_in(key, n // 2), n % 2))(numbers)
    result = train_networks(
        train_config(config, dataset),
        keys,
        dataset.train,
        networks_per_batch=config.networks_per_batch,
        on_progress=lambda done, total: on_progress("train", done, total),
    )
    return jax.device_get(result)


def match_pair(
    network: Network, spec: PermutationSpec, params_a: PyTree, params_b: PyTree, inputs: Array
) -> PairMatchings:
    """The three matchings of one pair, and the approximate dimensions that each compares."""
    moments = activation_moments(network.apply, spec, params_a, params_b, inputs)
    dimensions = {s: approximate_dimensions(spec, params_a, similarity=s, moments=moments) for s in SIMILARITIES}
    return PairMatchings(
        {s: match_layerwise(spec, params_a, params_b, similarity=s, moments=moments) for s in SIMILARITIES},
        {s: {group: value.mean() for group, value in by_group.items()} for s, by_group in dimensions.items()},
    )


def measure_pair(
    network: Network,
    spec: PermutationSpec,
    num_points: int,
    params_a: PyTree,
    params_b: PyTree,
    permutations: dict[str, Array],
    train: tuple[Array, Array],
    test: tuple[Array, Array],
) -> PairBarriers:
    """Both barriers of one pair under each matching; `permutations` hold a leading axis of matchings."""

    def with_matching(permutation: dict[str, Array]) -> PairBarriers:
        aligned = permute(spec, permutation, params_b)
        return PairBarriers(
            *(
                linear_barrier(
                    batched_loss(network.apply, cross_entropy_and_accuracy, data),
                    params_a,
                    aligned,
                    num_points=num_points,
                )
                for data in (train, test)
            )
        )

    return jax.lax.map(with_matching, permutations)


def run_figure2(
    config: Figure2Config, dataset: Dataset, *, on_progress: OnProgress = lambda stage, done, total: None
) -> xr.Dataset:
    """Train the networks, match every pair in three ways, walk between them and measure.

    Args:
        config: static.
        dataset: images and labels.
        on_progress: called with the stage (`"train"`, `"match"`, `"evaluate"`), done and total.

    Returns:
        Labelled results with units; the configuration, versions and timings in the attributes. Losses are in nats.

    Raises:
        ValueError: a configuration that does not fit the data.

    Source: the paper, Section 6, Figure 2. The same seeds serve all learning rates.
    """
    network = train_config(config, dataset).network
    spec = network_spec(network, dataset)
    timings: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        timings[stage] = round(time.perf_counter() - start, 3)
        return result

    trained = timed("train", lambda: _train(config, dataset, on_progress))
    pairs = tuple(jax.tree.map(operator.itemgetter(np.s_[side::2]), trained.params) for side in (0, 1))
    devices = jax.local_devices()[: config.num_pairs]
    train, test = replicate((tuple(dataset.train), tuple(dataset.test)), devices)
    chunk = len(devices) * -(-config.num_pairs // (_CALLS * len(devices)))

    def over_pairs(stage: str, fn: Callable[..., Any], mapped: tuple, shared: tuple) -> Any:
        """`fn` over all pairs, in pieces, timed."""
        compiled = jax.jit(network_map(fn, in_axes=(0,) * len(mapped) + (None,) * len(shared)))
        report = functools.partial(on_progress, stage)
        return timed(stage, lambda: map_in_chunks(compiled, chunk, mapped, shared, on_progress=report))

    matched = over_pairs(
        "match", functools.partial(match_pair, network, spec), pairs, (train[0][: config.moment_samples],)
    )
    identity = {g: np.broadcast_to(p, (config.num_pairs, *p.shape)) for g, p in identity_permutations(spec).items()}
    permutations = {
        g: np.stack([identity[g], *(matched.matchings[s].permutations[g] for s in SIMILARITIES)], axis=1)
        for g in spec.groups
    }
    measure = functools.partial(measure_pair, network, spec, config.num_points)
    barriers = over_pairs("evaluate", measure, (*pairs, permutations), (train, test))
    return _label(config, dataset, spec, trained, matched, permutations, barriers, timings)


def _label(
    config: Figure2Config,
    dataset: Dataset,
    spec: PermutationSpec,
    trained: TrainResult,
    matched: PairMatchings,
    permutations: dict[str, np.ndarray],
    barriers: PairBarriers,
    timings: dict[str, float],
) -> xr.Dataset:
    """Everything as one labelled dataset; pairs become (learning rate, repetition)."""
    grid = (len(config.learning_rates), config.repetitions)
    cell = ("learning_rate", "repetition")

    def by_pair(values: Any) -> np.ndarray:
        values = np.asarray(values)
        return values.reshape(*grid, *values.shape[1:])

    def by_split(field: Callable[[BarrierResult], Any]) -> np.ndarray:
        return np.stack([by_pair(field(getattr(barriers, split))) for split in SPLITS])

    def by_similarity(field: Callable[[str, str], Any]) -> np.ndarray:
        return np.stack([[by_pair(field(s, g)) for g in spec.groups] for s in SIMILARITIES])

    by_network = trained.losses.reshape(*grid, 2, config.epochs, -1)
    path, point, layers = ("split", *cell, "matching"), {"units": "nats"}, ("similarity", "layer", *cell)
    variables = {
        "path_loss": ((*path, "t"), by_split(lambda b: b.values.loss), point),
        "path_accuracy": ((*path, "t"), by_split(lambda b: b.values.accuracy), {"units": "1"}),
        "midpoint_loss": (path, by_split(lambda b: b.midpoint.loss), {**point, "long_name": "loss at t = 1/2"}),
        "midpoint_accuracy": (path, by_split(lambda b: b.midpoint.accuracy), {"units": "1"}),
        "barrier": (path, by_split(lambda b: b.height), {**point, "long_name": "max of loss minus chord"}),
        "barrier_over_mean": (
            path,
            by_split(lambda b: b.height_over_mean),
            {**point, "long_name": "max of loss minus mean of the endpoints' losses"},
        ),
        "finite": (path, by_split(lambda b: b.finite), {"long_name": "no loss on the path is nan or inf"}),
        "endpoint_loss": (
            ("split", *cell, "network"),
            by_split(lambda b: b.values.loss[:, 0][..., [0, -1]]),
            point,
        ),
        "endpoint_accuracy": (
            ("split", *cell, "network"),
            by_split(lambda b: b.values.accuracy[:, 0][..., [0, -1]]),
            {"units": "1"},
        ),
        "training_loss": (
            (*cell, "network", "epoch"),
            by_network.mean(-1),
            {**point, "long_name": "mean over an epoch"},
        ),
        "training_finite": ((*cell, "network"), by_pair(trained.finite.reshape(-1, 2)), {}),
        "approximate_dimension": (
            layers,
            by_similarity(lambda s, g: matched.dimensions[s][g]),
            {"units": "1", "long_name": "(tr M)^2 / tr(M^2) of network A"},
        ),
        "similarity_reached": (layers, by_similarity(lambda s, g: matched.matchings[s].objective[g]), {}),
        "similarity_of_identity": (layers, by_similarity(lambda s, g: matched.matchings[s].identity_objective[g]), {}),
        "permutation": (
            ("layer", *cell, "matching", "neuron"),
            _pad([by_pair(permutations[g]) for g in spec.groups], len(path)),
            {"long_name": "neuron of B that takes the place of A's; -1 beyond a layer's width"},
        ),
    }
    return xr.Dataset(
        variables,
        coords={
            "learning_rate": ("learning_rate", list(config.learning_rates), {"long_name": "peak learning rate"}),
            "split": list(SPLITS),
            "matching": list(MATCHINGS),
            "similarity": list(SIMILARITIES),
            "layer": list(spec.groups),
            "network": ["A", "B"],
            "t": np.linspace(0, 1, config.num_points),
        },
        attrs=_provenance(config, dataset, timings),
    )


def _pad(layers: list[np.ndarray], num_axes: int) -> np.ndarray:
    """Permutations of layers of different widths in one array, filled up with -1; stacked layers lie end to end."""
    flat = [layer.reshape(*layer.shape[: num_axes - 1], -1) for layer in layers]
    width = max(layer.shape[-1] for layer in flat)
    padding = [(0, 0)] * (num_axes - 1)
    return np.stack([np.pad(x, (*padding, (0, width - x.shape[-1])), constant_values=-1) for x in flat])


def _provenance(config: Figure2Config, dataset: Dataset, timings: dict[str, float]) -> dict[str, Any]:
    """What made these results: plain values and JSON, as netCDF attributes hold them."""
    packages = ("lmcjax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")
    return {
        "title": "Figure 2 of Ferbach et al. (2024), arXiv 2310.19103: linear mode connectivity by learning rate",
        "config": json.dumps(dataclasses.asdict(config)),
        "seed": config.seed,
        "dataset": dataset.name,
        "train_samples": len(dataset.train.labels),
        "test_samples": len(dataset.test.labels),
        "training_steps": config.epochs * (len(dataset.train.labels) // config.batch_size),
        "versions": json.dumps({package: importlib.metadata.version(package) for package in packages}),
        "devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "x64": int(jnp.result_type(float) == jnp.float64),
        "seconds": json.dumps(timings),
    }
