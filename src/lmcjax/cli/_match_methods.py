"""The methods of `lmcjax match` by name, and how one is run while its progress is shown."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
from jaxtyping import Array, Key, PyTree

from lmcjax import matching
from lmcjax.cli._match_networks import Networks, Program
from lmcjax.cli._progress import show_stage, show_steps
from lmcjax.data import evenly_spaced
from lmcjax.evaluation import cross_entropy_and_accuracy
from lmcjax.matching import Covariance, Matching, PairLoss, Similarity, SimilarityName
from lmcjax.statistics import ActivationMoments, activation_moments

MethodName: TypeAlias = Literal[
    "layerwise",
    "coordinate_descent",
    "frank_wolfe",
    "sinkhorn",
    "straight_through",
    "annealing",
]
"""What the command line calls `match_layerwise`, `match_coordinate_descent`, and so on."""

LossName: TypeAlias = Literal["weight_distance", "covariance_distance", "midpoint_loss"]
"""What the command line calls the functions of `lmcjax.matching` that a search makes small."""

_BATCH_SIZE = 200  # samples in a step of a search by `midpoint_loss`


class Method(NamedTuple):
    """A matching algorithm, and which options of the command it takes."""

    match: Callable[..., Matching]
    about: str  # what the help says behind its name
    options: tuple[str, ...]
    similarities: tuple[SimilarityName, ...] = ()

    def default_iterations(self) -> int:
        """Of a search: how many steps it takes if none are given."""
        return inspect.signature(self.match).parameters["num_iterations"].default


METHODS: dict[MethodName, Method] = {
    "layerwise": Method(
        matching.match_layerwise,
        about="matches one layer after the other (the paper)",
        options=("similarity",),
        similarities=tuple(matching.SIMILARITIES),
    ),
    "coordinate_descent": Method(
        matching.match_coordinate_descent,
        about="makes the inner product of all weights large, group by group (Git Re-Basin)",
        options=("similarity", "restarts"),
        similarities=("weights", "covariance"),
    ),
    "frank_wolfe": Method(
        matching.match_frank_wolfe,
        about="makes the inner product of all weights large, all groups at once (C2M3)",
        options=("similarity",),
        similarities=("weights", "covariance"),
    ),
    "sinkhorn": Method(
        matching.match_sinkhorn,
        about="makes a loss small by learning soft permutations",
        options=("loss", "iterations"),
    ),
    "straight_through": Method(
        matching.match_straight_through,
        about="makes a loss small by learning a target that B is matched to",
        options=("loss", "iterations"),
    ),
    "annealing": Method(
        matching.match_annealing,
        about="makes a loss small by random swaps",
        options=("loss", "iterations"),
    ),
}


class MatchOptions(NamedTuple):
    """A method, and the options of the command with their defaults filled in."""

    method: MethodName
    similarity: SimilarityName
    loss: LossName
    iterations: int | None  # None: the method's own default
    restarts: int
    seed: int
    moment_samples: int | None  # None: all training images

    def of_method(self) -> dict[str, Any]:
        """Those options that the method takes, by name, for the report."""
        return {name: getattr(self, name) for name in METHODS[self.method].options}


def run_method(networks: Networks, options: MatchOptions) -> Matching:
    """Match B to A by the chosen method, and show what is being done.

    Raises:
        ValueError: the networks do not fit each other, an option is out of range, or needs a
            program that is not there.
    """
    if "loss" in METHODS[options.method].options:
        return _run_search(networks, options)
    return _run_by_similarity(networks, options)


def _run_by_similarity(networks: Networks, options: MatchOptions) -> Matching:
    """Match by one of the methods that make a similarity large."""
    match = METHODS[options.method].match
    if options.method == "coordinate_descent":
        match = functools.partial(
            match,
            key=jax.random.key(options.seed),
            order=networks.spec.groups,
            restarts=options.restarts,
        )
    similarity = _make_similarity(networks, options)
    num_groups = len(networks.spec.groups)
    with show_stage(f"matching {num_groups} groups by {options.method}"):
        result = match(networks.spec, networks.params_a, networks.params_b, similarity=similarity)
        return jax.block_until_ready(result)


def _run_search(networks: Networks, options: MatchOptions) -> Matching:
    """Match by one of the methods that search for a small loss, which take long: step by step."""
    method = METHODS[options.method]
    loss = _make_loss(networks, options)
    num_iterations = options.iterations
    if num_iterations is None:  # the bar needs the number beforehand
        num_iterations = method.default_iterations()
    title = f"matching by {options.method}, compilation included"
    with show_steps(title, num_iterations) as count_step:

        def counted_loss(params_a: PyTree, params_b: PyTree, key: Key[Array, ""]) -> Array:
            jax.debug.callback(count_step)
            return loss(params_a, params_b, key)

        # Annealing knows this one loss, and updates it instead of evaluating it: that is quick,
        # and needs no bar.
        is_updated = options.method == "annealing" and options.loss == "weight_distance"
        match = functools.partial(
            method.match,
            networks.spec,
            loss=loss if is_updated else counted_loss,
            num_iterations=num_iterations,
        )
        key = jax.random.key(options.seed)
        result = jax.jit(match)(networks.params_a, networks.params_b, key=key)
        jax.effects_barrier()  # all steps are counted before the bar goes
        return jax.block_until_ready(result)


def _make_similarity(networks: Networks, options: MatchOptions) -> Similarity:
    """The chosen similarity, with the moments of the networks' activations if it needs any."""
    if not matching.SIMILARITIES[options.similarity].needs_moments():
        return matching.similarity_from_name(options.similarity)
    program = networks.require_program(f"--similarity {options.similarity}")
    moments = _measure_moments(networks, program, options.moment_samples)
    return matching.similarity_from_name(options.similarity, moments)


def _make_loss(networks: Networks, options: MatchOptions) -> PairLoss:
    """The chosen loss; those of the network's outputs are measured on the training images."""
    if options.loss == "weight_distance":
        return matching.weight_distance
    program = networks.require_program(f"--loss {options.loss}")
    if options.loss == "covariance_distance":
        moments = _measure_moments(networks, program, options.moment_samples)
        return matching.covariance_distance(networks.spec, Covariance(moments))

    def cross_entropy(outputs: Array, labels: Array) -> Array:
        return cross_entropy_and_accuracy(outputs, labels).loss

    return matching.midpoint_loss(
        program.network.apply, cross_entropy, program.dataset.train, batch_size=_BATCH_SIZE
    )


def _measure_moments(
    networks: Networks, program: Program, num_samples: int | None
) -> ActivationMoments:
    """The moments of both networks' activations on training images, evenly spaced."""
    inputs = evenly_spaced(program.dataset.train.inputs, num_samples)
    with show_stage(f"activations of {len(inputs):,} images"):
        moments = activation_moments(
            program.network.apply, networks.spec, networks.params_a, networks.params_b, inputs
        )
        return jax.block_until_ready(moments)
