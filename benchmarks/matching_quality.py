"""The inner product that weight matchings reach: coordinate descent, restarts, and Frank-Wolfe."""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lmcjax
from _report import write_result
from lmcjax.symmetry import reads, writes

WIDTH, NUM_RESTARTS = 128, 16
TOY = lmcjax.PermutationSpec.from_axes(
    {"w1": (reads("h"), writes("g")), "w2": (reads("g"), writes("h"))}
)


def toy(width: int, num_seeds: int, restarts: int) -> list[list[str | int | float]]:
    """How often a planted shuffle of two groups that meet in two leaves comes back, by restarts."""

    @jax.jit
    def descents(seed: Any) -> Any:
        keys = jax.random.split(jax.random.key(seed), 4)
        shape = (width, width)
        params = {
            name: jax.random.normal(k, shape)
            for name, k in zip(("w1", "w2"), keys[:2], strict=True)
        }
        planted = lmcjax.random_permutations(keys[2], TOY, params)
        shuffled = lmcjax.permute(TOY, lmcjax.invert(TOY, planted), params)
        found = lmcjax.match_coordinate_descent(
            TOY, params, shuffled, key=keys[3], order=TOY.groups, restarts=restarts
        )
        exact = jnp.stack([(found.permutations[g] == planted[g]).all() for g in TOY.groups]).all()
        whole = sum(jnp.sum(leaf**2) for leaf in params.values())
        at_once = lmcjax.match_frank_wolfe(TOY, params, shuffled).total.reached
        return found.total.restarts > 0.999 * whole, exact, at_once > 0.999 * whole

    start = time.perf_counter()
    results = [jax.device_get(descents(seed)) for seed in range(num_seeds)]
    seconds = (time.perf_counter() - start) / num_seeds
    reached = np.stack([right for right, _, _ in results])
    assert all(
        exact == right.any() for right, exact, _ in results
    )  # the optimum is the planted permutation
    rows: list[list[str | int | float]] = []
    for count in (1, 2, 4, 8, 16, 32, 64):
        if count <= restarts:
            rows.append(
                [
                    f"best of {count} descents" if count > 1 else "one descent",
                    f"{reached[:, :count].any(1).sum()}/{num_seeds}",
                ]
            )
            print("toy", *rows[-1], sep="\t", flush=True)
    rows.append(
        ["Frank-Wolfe, uniform", f"{sum(bool(at_once) for _, _, at_once in results)}/{num_seeds}"]
    )
    print("toy", *rows[-1], sep="\t")
    print(
        f"toy\t{100 * reached.mean():.0f} % of all descents, {seconds:.2f} s a seed for {restarts}"
    )
    return rows


Match = Callable[[Any, Any, Any], lmcjax.Matching]


def contenders(spec: lmcjax.PermutationSpec) -> dict[str, Match]:
    """`match(params_a, params_b, key)` by name."""
    descent = functools.partial(lmcjax.match_coordinate_descent, spec)
    frank_wolfe = functools.partial(lmcjax.match_frank_wolfe, spec)

    def drawn(a: Any, b: Any, key: Any) -> lmcjax.Matching:
        """As many descents as restarts, all from the identity, the order of every pass drawn."""
        one = jax.lax.map(lambda k: descent(a, b, key=k), jax.random.split(key, NUM_RESTARTS))
        best = jnp.argmax(one.total.reached)
        return jax.tree.map(lambda x: x[best], one)

    return {
        "one coordinate descent": lambda a, b, key: descent(a, b),
        f"best of {NUM_RESTARTS}, other starts": lambda a, b, key: descent(
            a, b, key=key, order=spec.groups, restarts=NUM_RESTARTS
        ),
        f"best of {NUM_RESTARTS}, other orders": drawn,
        "Frank-Wolfe, uniform, not polished": lambda a, b, key: frank_wolfe(a, b, polish=False),
        "Frank-Wolfe, uniform": lambda a, b, key: frank_wolfe(a, b),
        "Frank-Wolfe, identity": lambda a, b, key: frank_wolfe(a, b, init="identity"),
        "Frank-Wolfe, random": lambda a, b, key: frank_wolfe(a, b, key=key, init="random"),
    }


def compare(what: str, pairs: list[tuple[Any, Any]]) -> list[list[str | int | float]]:
    """Every contender on every pair."""
    spec = lmcjax.mlp_spec(3)
    totals: dict[str, np.ndarray] = {}
    rows: list[list[str | int | float]] = []
    for name, match in contenders(spec).items():
        jitted = jax.jit(match)
        jax.block_until_ready(jitted(*pairs[0], jax.random.key(0)))
        start = time.perf_counter()
        found = [jitted(a, b, jax.random.key(i)) for i, (a, b) in enumerate(pairs)]
        totals[name] = np.array([float(matching.total.reached) for matching in found])
        seconds = (time.perf_counter() - start) / len(pairs)
        steps = np.mean([int(matching.iterations) for matching in found])
        one, best = next(iter(totals.values())), totals.get(f"best of {NUM_RESTARTS}, other starts")
        row: list[str | int | float] = [what, name, f"{totals[name].mean():.2f}"]
        row.append(f"{(totals[name] / one).mean():.4f}")
        row.append(
            "" if best is None else f"{(totals[name] >= best * (1 - 1e-6)).sum()}/{len(pairs)}"
        )
        rows.append([*row, f"{steps:.1f}", f"{seconds:.3f}"])
        print(*rows[-1], sep="\t", flush=True)
    return rows


def random_pairs(count: int) -> Iterator[tuple[Any, Any]]:
    """Fresh networks: LeCun's normal kernels, biases of 0."""
    network = lmcjax.FlaxNetwork(lmcjax.MLP((WIDTH, WIDTH, WIDTH), 10), input_shape=(784,))
    init = jax.jit(network.init)
    for i in range(count):
        yield init(jax.random.key(2 * i)), init(jax.random.key(2 * i + 1))


def trained_pairs(count: int, epochs: int) -> Iterator[tuple[Any, Any]]:
    """Trained on 4,000 digits."""
    sweep = lmcjax.Sweep(
        seeds=range(2 * count),
        widths=WIDTH,
        learning_rates=0.03,
        epochs=epochs,
        matchings=(),
        keep_networks=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        lmcjax.run_sweep(sweep, lmcjax.load_dataset("mnist5k"), Path(folder) / "sweep")
        _, params = lmcjax.load_networks(Path(folder) / "sweep")
    for i in range(count):
        yield tuple(jax.tree.map(lambda leaf, j=j: leaf[j], params) for j in (2 * i, 2 * i + 1))


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="of the residual toy")
    parser.add_argument("--random-pairs", type=int, default=50)
    parser.add_argument("--trained-pairs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--only", choices=("pairs", "restarts"), help="one of the two tables")
    options = parser.parse_args()
    if options.only != "restarts":
        store_pairs(options)
    if options.only != "pairs":
        store_restarts(options)


def store_pairs(options: argparse.Namespace) -> None:
    """The first table."""
    rows = compare("random", list(random_pairs(options.random_pairs)))
    rows += compare("trained", list(trained_pairs(options.trained_pairs, options.epochs)))
    write_result(
        "matching_quality",
        title="What the weight matchings reach",
        note=f"""Pairs of MLPs 784-{WIDTH}-{WIDTH}-{WIDTH}-10: {options.random_pairs} fresh ones,
and {options.trained_pairs} trained on 4,000 digits for {options.epochs} epochs at a rate of
0.03.
*inner product*: that of all parameters after matching, mean over pairs.
*over one descent*: that of each pair divided by what one coordinate descent from the identity,
in the order of the layers, reaches; mean over pairs.
*at least best of {NUM_RESTARTS}*: in how many pairs it is no less than the best of
{NUM_RESTARTS} descents, the first from the identity and the others from random permutations.
*steps*: passes over the groups, or Frank-Wolfe's. Seconds a pair, one pair at a time, compiled.""",
        columns=[
            "networks",
            "algorithm",
            "inner product",
            "over one descent",
            f"at least best of {NUM_RESTARTS}",
            "steps",
            "s",
        ],
        rows=rows,
    )


def store_restarts(options: argparse.Namespace) -> None:
    """The second table."""
    write_result(
        "matching_restarts",
        title="Restarts on a residual toy",
        note=f"""Two groups of 64 neurons that meet in two leaves, in both orders, and nowhere
else: normal entries, both groups shuffled at once. In how many of {options.seeds} seeds what is
found is the planted permutation. The first descent starts from the identity, the others from
random permutations.""",
        columns=["algorithm", "recovered"],
        rows=toy(64, options.seeds, 64),
    )


if __name__ == "__main__":
    main()
