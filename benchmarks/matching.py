"""Every matching on two trained architectures: what it reaches, and seconds for 1 and 16 pairs."""

import argparse
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

import lmcjax
from _report import write_result
from lmcjax.data import evenly_spaced
from lmcjax.matching import (
    SIMILARITIES,
    SimilarityName,
    similarity_from_name,
    weight_inner_product,
)
from lmcjax.models import Network, resnet20
from lmcjax.symmetry import apply_soft

NUM_NETWORKS = 8
COLUMNS = (
    "networks",
    "method",
    "inner product",
    "test barrier half-way",
    "1 pair, warm (s)",
    "1 pair, cold (s)",
    "16 pairs, warm (s)",
    "16 pairs, cold (s)",
    "16 x 1 pair / 16 pairs",
)


class Task(NamedTuple):
    """Pairs of trained networks, and data to see their activations and losses on."""

    name: str
    network: Network
    params: PyTree  # a leading axis of networks
    train: tuple[Array, Array]
    test: tuple[Array, Array]
    num_seen: int  # training samples on which activations are compared

    def pairs(self, count: int) -> tuple[PyTree, PyTree]:
        """So many pairs of different networks, spread over the networks; a leading axis."""
        every = sorted(
            itertools.combinations(range(NUM_NETWORKS), 2),
            key=lambda pair: (pair[1] - pair[0], pair[0]),
        )
        first, second = np.array(every[:count]).T
        return jax.tree.map(lambda leaf: leaf[first], self.params), jax.tree.map(
            lambda leaf: leaf[second], self.params
        )


def mean_cross_entropy(logits: Array, labels: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def trained(network: Network, rate: float, epochs: int, train: tuple[Array, Array]) -> PyTree:
    """Networks of many seeds."""
    num_steps = epochs * (len(train[1]) // 100)
    config = lmcjax.TrainConfig(rate, network, num_steps, optimizer="adam")
    train_one = jax.jit(lmcjax.train)
    networks = [
        jax.device_get(train_one(config, jax.random.key(i), train).params)
        for i in range(NUM_NETWORKS)
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *networks)


def mlp_task(epochs: int, width: int) -> Task:
    """Three hidden layers, on all 4,000 digits."""
    data = lmcjax.load_dataset("mnist5k")
    network = lmcjax.FlaxNetwork(lmcjax.MLP((width,) * 3, 10), data.input_shape)
    train, test = (tuple(map(jnp.asarray, part)) for part in (data.train, data.test))
    return Task(
        f"MLP 784-{width}-{width}-{width}-10",
        network,
        trained(network, 1e-3, epochs, train),
        train,
        test,
        1000,
    )


def resnet_task(epochs: int, width: int) -> Task:
    """On Fashion-MNIST at half its size in each direction: 2,000 images to train, 1,000 to test."""
    data = lmcjax.load_dataset("fashion-mnist")

    def small(part: Any, count: int) -> tuple[Array, Array]:
        images = part.inputs[:count].reshape(count, 14, 2, 14, 2, 1).mean((2, 4))
        return jnp.asarray(2 * images - 1), jnp.asarray(part.labels[:count])

    network = lmcjax.FlaxNetwork(resnet20(width), (14, 14, 1))
    train, test = small(data.train, 2000), small(data.test, 1000)
    return Task(
        f"ResNet-20, width {width}",
        network,
        trained(network, 3e-3, epochs, train),
        train,
        test,
        200,
    )


Data = tuple[Array, Array]
Match = Callable[[PyTree, PyTree, Array, Data], lmcjax.Matching]


def methods(task: Task, spec: lmcjax.PermutationSpec, iterations: int) -> dict[str, Match]:
    """Every matching, with what it needs to see computed in its own time."""

    def make_similarity(
        name: SimilarityName, a: PyTree, b: PyTree, data: Data
    ) -> lmcjax.Similarity:
        if not SIMILARITIES[name].needs_moments():
            return similarity_from_name(name)
        inputs = evenly_spaced(data[0], task.num_seen)
        moments = lmcjax.activation_moments(
            task.network.apply, spec, a, b, inputs, batch_size=task.num_seen
        )
        return similarity_from_name(name, moments)

    def layerwise(
        a: PyTree, b: PyTree, key: Array, data: Data, name: SimilarityName
    ) -> lmcjax.Matching:
        similarity = make_similarity(name, a, b, data)
        return lmcjax.match_layerwise(spec, a, b, similarity=similarity)

    def descent(
        a: PyTree,
        b: PyTree,
        key: Array,
        data: Data,
        name: SimilarityName = "weights",
        restarts: int = 1,
    ) -> lmcjax.Matching:
        options: dict[str, Any] = {}
        if restarts > 1:
            options = {"key": key, "order": spec.groups}
        similarity = make_similarity(name, a, b, data)
        return lmcjax.match_coordinate_descent(
            spec, a, b, similarity=similarity, restarts=restarts, **options
        )

    def by_weights(
        a: PyTree, b: PyTree, key: Array, data: Data, match: Any, **options: Any
    ) -> lmcjax.Matching:
        return match(spec, a, b, **options)

    def learned(
        a: PyTree, b: PyTree, key: Array, data: Data, match: Any, **options: Any
    ) -> lmcjax.Matching:
        loss = lmcjax.midpoint_loss(task.network.apply, mean_cross_entropy, data, batch_size=100)
        return match(spec, a, b, key=key, loss=loss, num_iterations=iterations, **options)

    soft = functools.partial(by_weights, match=lmcjax.match_soft, similarity=lmcjax.Weights())
    sinkhorn = {"match": lmcjax.match_sinkhorn, "sinkhorn_iterations": 200}
    return {
        **{f"layerwise, {name}": functools.partial(layerwise, name=name) for name in SIMILARITIES},
        "weights": descent,
        "weights, covariance metric": functools.partial(descent, name="covariance"),
        "weights, best of 8 starts": functools.partial(descent, restarts=8),
        "Frank-Wolfe": functools.partial(by_weights, match=lmcjax.match_frank_wolfe),
        "soft, exact, weights": soft,
        "soft, temperature 0.3, weights": functools.partial(soft, temperature=0.3),
        f"Sinkhorn, weights, {iterations} steps": functools.partial(
            by_weights, num_iterations=iterations, **sinkhorn
        ),
        f"Sinkhorn, loss half-way, {iterations} steps": functools.partial(learned, **sinkhorn),
        f"straight-through, loss half-way, {iterations} steps": functools.partial(
            learned, match=lmcjax.match_straight_through
        ),
        "annealing, weights, 20,000 swaps": lambda a, b, key, data: lmcjax.match_annealing(
            spec, a, b, key=key
        ),
    }


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - start, result


def measure(task: Task, num_pairs: int, iterations: int) -> list[list[str | int | float]]:
    """All methods on the pairs of one task."""
    first = jax.tree.map(lambda leaf: leaf[0], task.params)
    spec = lmcjax.discover(task.network.apply, first, task.train[0][:2]).bind(first)
    side_a, side_b = task.pairs(num_pairs)
    one = [jax.tree.map(lambda leaf: leaf[0], side) for side in (side_a, side_b)]
    keys = jax.random.split(jax.random.key(0), num_pairs)
    test_loss = jax.jit(
        lambda p: mean_cross_entropy(task.network.apply(p, task.test[0]), task.test[1])
    )
    half_way = jax.jit(lambda a, b: test_loss(jax.tree.map(lambda x, y: (x + y) / 2, a, b)))
    product = jax.jit(functools.partial(weight_inner_product, spec))
    aligner = {
        True: jax.jit(functools.partial(apply_soft, spec)),
        False: jax.jit(functools.partial(lmcjax.permute, spec)),
    }
    own = np.array(
        [
            float(test_loss(jax.tree.map(lambda leaf, i=i: leaf[i], task.params)))
            for i in range(NUM_NETWORKS)
        ]
    )
    print(f"{task.name}: the networks' own test loss {own.mean():.3f}", flush=True)

    def judge(acting: dict[str, Array], soft: bool) -> tuple[str, str]:
        """The mean inner product, and the barrier half-way, over the pairs."""
        barriers, products = [], []
        for i in range(num_pairs):
            a, b, act = (
                jax.tree.map(lambda leaf, i=i: leaf[i], tree) for tree in (side_a, side_b, acting)
            )
            ends = (float(test_loss(a)) + float(test_loss(b))) / 2
            barriers.append(float(half_way(a, aligner[soft](act, b))) - ends)
            products.append(float(product(act, a, b)))
        return (
            f"{np.mean(products):.4g}",
            f"{np.mean(barriers):.3f} ± {np.std(barriers, ddof=1):.3f}",
        )

    identity = {g: np.stack([p] * num_pairs) for g, p in lmcjax.identity_permutations(spec).items()}
    rows: list[list[str | int | float]] = [
        [task.name, "none", *judge(identity, False), "", "", "", "", ""]
    ]
    for name, match in methods(task, spec, iterations).items():
        single, batch = jax.jit(match), jax.jit(lmcjax.network_map(match, in_axes=(0, 0, 0, None)))
        cold, _ = seconds(lambda single=single: single(*one, keys[0], task.train))
        warm = min(
            seconds(lambda single=single: single(*one, keys[0], task.train))[0]
            for _ in range(3 if cold < 20 else 1)
        )
        cold_batch, found = seconds(lambda batch=batch: batch(side_a, side_b, keys, task.train))
        warm_batch = (
            seconds(lambda batch=batch: batch(side_a, side_b, keys, task.train))[0]
            if cold_batch < 60
            else cold_batch
        )
        soft = not found.permutations
        quality = judge(jax.device_get(found.alignments if soft else found.permutations), soft)
        row = [
            task.name,
            name,
            *quality,
            *(f"{t:.2g}" for t in (warm, cold, warm_batch, cold_batch)),
        ]
        rows.append([*row, f"{num_pairs * warm / warm_batch:.2f}"])
        print(*rows[-1], sep="\t", flush=True)
    return rows


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("mlp", "resnet"))
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=30, help="of the searches")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--mlp-width", type=int, default=512)
    parser.add_argument("--resnet-width", type=int, default=16)
    parser.add_argument("--dry", action="store_true", help="print, and store nothing")
    options = parser.parse_args()
    lmcjax.use_all_cores()
    rows = []
    tasks = {"mlp": (mlp_task, options.mlp_width), "resnet": (resnet_task, options.resnet_width)}
    for name, (task, width) in tasks.items():
        if options.only in (None, name):
            rows += measure(task(options.epochs, width), options.pairs, options.iterations)
    if options.dry:
        return
    write_result(
        "matching",
        title="Every matching on trained networks",
        note=f"""{options.pairs} pairs among {NUM_NETWORKS} networks of an architecture, trained
with Adam for {options.epochs} epochs: MLPs on 4,000 digits (mnist5k); ResNet-20 with layer norm
on 2,000 images of Fashion-MNIST at half their size in each direction. What a method needs to see
of the data is part of its time: moments of activations on 1,000 digits or 200 images, batches of
100 for losses. *Inner product*: of all weights, A with B aligned, mean over pairs; soft ones mix
B by their alignments. *Test barrier half-way*: loss at t = 1/2 less the mean of the ends, on
1,000 test images, nats, mean ± standard deviation over pairs (they share networks, so these are
not {options.pairs} independent draws). One pair: `jax.jit(match)`, the fastest of three calls;
{options.pairs} pairs: one call of `jax.jit(network_map(match))`, one device per core. Cold: the
first call, compilation included. Last column: as many single calls over one call; calls of a
minute and more are timed once.""",
        columns=COLUMNS,
        rows=rows,
    )


if __name__ == "__main__":
    main()
