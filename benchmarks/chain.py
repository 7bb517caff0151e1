"""The whole chain, two seeds to a barrier, for many pairs: one call against one call per pair."""

import argparse
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

import lmcjax
from _report import ratio, time_alternately, write_result

WIDTHS = (16, 64)
NUM_STEPS, BATCH, NUM_TRAIN, NUM_TEST = 100, 50, 1000, 500
COLUMNS = (
    "hidden layers",
    "pairs",
    "midpoint loss",
    "unmatched",
    "a call per pair (s)",
    "one call, vmap (s)",
    "one call, network_map (s)",
    "call per pair / vmap",
    "call per pair / network_map",
    "compile pair (s)",
    "compile vmap (s)",
)


class Outcome(NamedTuple):
    """What comes out for a pair."""

    midpoint: Array  # test loss half way to the matched network
    unmatched: Array


def chain(network: lmcjax.FlaxNetwork, rate: float, key: Array, data: Any, test: Any) -> Outcome:
    """Train two, discover, measure, match by covariance, permute; barriers with and without."""
    config = lmcjax.TrainConfig(rate, network, num_steps=NUM_STEPS, batch_size=BATCH)
    a, b = (lmcjax.train(config, jax.random.fold_in(key, i), data).params for i in (0, 1))
    spec = lmcjax.discover(network.apply, a, data[0])
    moments = lmcjax.activation_moments(network.apply, spec, a, b, data[0])
    matching = lmcjax.match_layerwise(spec, a, b, similarity=lmcjax.Covariance(moments))
    loss = lmcjax.batched_loss(network.apply, lmcjax.cross_entropy_and_accuracy, test)
    aligned = lmcjax.linear_barrier(
        loss, a, lmcjax.permute(spec, matching.permutations, b), num_points=11
    )
    return Outcome(
        aligned.midpoint_loss, lmcjax.linear_barrier(loss, a, b, num_points=11).midpoint_loss
    )


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument(
        "--widths", type=int, nargs="+", default=WIDTHS, help="of both hidden layers"
    )
    options = parser.parse_args()
    lmcjax.use_all_cores()
    dataset = lmcjax.load_dataset("mnist5k")
    data = tuple(jax.numpy.asarray(v[:: len(v) // NUM_TRAIN]) for v in dataset.train)
    test = tuple(jax.numpy.asarray(v[:: len(v) // NUM_TEST]) for v in dataset.test)
    keys = jax.random.split(jax.random.key(0), options.pairs)
    rows = []
    for width in options.widths:
        network = lmcjax.FlaxNetwork(lmcjax.MLP((width, width), 10), input_shape=data[0].shape[1:])
        of_pair = functools.partial(chain, network, 0.1)
        single, batch = jax.jit(of_pair), jax.jit(jax.vmap(of_pair, in_axes=(0, None, None)))
        mapped = jax.jit(lmcjax.network_map(of_pair, in_axes=(0, None, None)))
        contenders = {
            "calls": lambda single=single: [single(key, data, test) for key in keys],
            "vmap": lambda batch=batch: batch(keys, data, test),
            "map": lambda mapped=mapped: mapped(keys, data, test),
        }
        timing = time_alternately(contenders, options.repetitions)
        loop, found = contenders["calls"](), contenders["vmap"]()
        for name, outcome in (("vmap", found), ("map", contenders["map"]())):
            for field, values in zip(Outcome._fields, outcome, strict=True):
                expected = [getattr(r, field) for r in loop]
                np.testing.assert_allclose(values, expected, rtol=0.1, err_msg=name)
                np.testing.assert_allclose(
                    np.mean(values), np.mean(expected), rtol=0.005, err_msg=name
                )
        calls, together, mapped_time = (timing[name] for name in ("calls", "vmap", "map"))
        row = [f"{width}-{width}", options.pairs]
        row += [f"{np.mean(found.midpoint):.3f}", f"{np.mean(found.unmatched):.3f}"]
        row += [f"{t.median:.2f}" for t in (calls, together, mapped_time)]
        row += [f"{ratio(calls, together):.2f}", f"{ratio(calls, mapped_time):.2f}"]
        row += [f"{t.compilation:.1f}" for t in (calls, together)]
        print(*row, sep="\t", flush=True)
        rows.append(row)
    write_result(
        "chain",
        title="Two seeds to a barrier, for many pairs",
        note=f"""Train two MLPs on {NUM_TRAIN} MNIST digits ({NUM_STEPS} steps of {BATCH}),
discover their symmetry, measure moments, match by covariance, permute, and the loss at 11 points
of the line to the matched and to the unmatched network on {NUM_TEST} test digits: one function.
*A call per pair*: the jitted function in a Python loop, on one core's device. *vmap*: all pairs
in one call of `jax.jit(jax.vmap(...))`, on one device. *network_map*: all in one call of
`lmcjax.network_map`, on a CPU one device per core and a loop within. Mean midpoint losses over
the pairs; the three agree to 0.5 %, and in every pair to 10 % (rounding can tip a neuron's
match), or the benchmark fails. Medians over {options.repetitions} repetitions in turns; a ratio
above 1: one call is faster.""",
        columns=COLUMNS,
        rows=rows,
    )


if __name__ == "__main__":
    main()
