"""48 networks at once against a Python loop over one jitted step."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich
import tyro
from rich.live import Live
from rich.table import Table

import lmcjax
from _report import machine_line, num_cores, ratio, time_alternately, write_result
from lmcjax.models import MLP, FlaxNetwork
from lmcjax.training import TrainConfig, init_state, learning_rate_schedule

NUM_NETWORKS = 48
WIDTHS = (32, 128, 512)
GOALS = {32: 3.5, 128: 2.0, 512: 1.0}  # by width
COLUMNS = (
    "width",
    "batch",
    "training loss",
    "largest loss difference",
    "loop (s)",
    "lmcjax (s)",
    "loop / lmcjax",
    "goal",
    "reached",
    "lmcjax (Gflop/s)",
    "share of the machine's matrix-product rate",
    "compile lmcjax (s)",
)
NOTE = f"""
One epoch of {NUM_NETWORKS} MLPs with three hidden layers on mnist5k (4,000 images), SGD with
momentum, float32. *loop*: for each network, a Python loop over one jitted training step, compiled
once, with donated buffers, the data on the device and the same shuffles. *lmcjax*:
`train_networks`, all networks in one compiled call, sharded over one CPU device per core. Both run
in one process, in turns; times are medians, the ratio is the median of ratios of neighbouring runs.
The losses of all networks at all steps agree to 1e-5, or the benchmark fails. Operations counted:
matrix products only, 6 per weight and sample but for the first layer's input gradient. The
machine's matrix-product rate is that of one product of 2048 x 2048 float32 matrices per core at a
time, the cores together.
"""


def make_loop(
    configs: TrainConfig, keys: jax.Array, data: tuple[jax.Array, jax.Array], epochs: int = 1
) -> Callable[[], jax.Array]:
    """The rival: what a careful person writes without `vmap`. Losses `[networks, steps]`."""
    inputs, labels = data
    num_samples, batch_size = len(labels), configs.batch_size
    network = configs.network

    def optimizer(rate: jax.Array) -> optax.GradientTransformation:
        return optax.sgd(
            learning_rate_schedule(dataclasses.replace(configs, learning_rate=rate)), momentum=0.9
        )

    @jax.jit
    def init(rate: jax.Array, key: jax.Array) -> tuple[Any, Any, jax.Array]:
        state = init_state(dataclasses.replace(configs, learning_rate=rate), key)
        return state.params, state.opt_state, state.key

    @jax.jit
    def shuffle(key: jax.Array, epoch: Any) -> jax.Array:
        return jnp.argsort(jax.random.bits(jax.random.fold_in(key, epoch), (num_samples,))).astype(
            jnp.int32
        )

    def step(
        params: Any, opt_state: Any, rate: jax.Array, order: jax.Array, number: Any
    ) -> tuple[Any, Any, jax.Array]:
        batch = jax.lax.dynamic_slice_in_dim(order, number * batch_size, batch_size)

        def loss_fn(p: Any) -> jax.Array:
            logits = network.apply(p, inputs[batch])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

        loss, gradient = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer(rate).update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    step = jax.jit(step, donate_argnums=(0, 1))

    def loop() -> jax.Array:
        losses = []
        for rate, key in zip(configs.learning_rate, keys, strict=True):
            params, opt_state, shuffles = init(rate, key)
            for epoch in range(epochs):
                order = shuffle(shuffles, epoch)
                for number in range(num_samples // batch_size):
                    params, opt_state, loss = step(params, opt_state, rate, order, number)
                    losses.append(loss)
        jax.block_until_ready(params)
        return jnp.stack(losses).reshape(len(keys), -1)

    return loop


def operations(width: int, batch_size: int, steps: int) -> float:
    """Floating-point operations of the matrix products of `steps` steps."""
    sizes = (784, width, width, width, 10)
    weights = [m * n for m, n in itertools.pairwise(sizes)]
    return steps * batch_size * (6 * sum(weights) - 2 * weights[0])


def machine_rate() -> float:
    """Operations per second of large float32 matrix products, all devices together."""
    size, times = 2048, 4
    matrices = jnp.ones((jax.local_device_count(), size, size)) / size
    chain = jax.jit(
        lmcjax.network_map(lambda m: jax.lax.fori_loop(0, times, lambda _, x: x @ m, m))
    )
    timing = time_alternately({"product": lambda: chain(matrices)}, 5)["product"]
    return len(matrices) * times * 2 * size**3 / min(timing.repeated)


def main(repetitions: int = 7, seed: int = 0, widths: tuple[int, ...] = WIDTHS) -> None:
    """Measure, print a table, write `benchmarks/results/training.json`.

    Args:
        repetitions: of either contender, in turns.
        seed: of the networks.
        widths: of the hidden layers.
    """
    lmcjax.use_all_cores()
    rich.print(machine_line())
    dataset = lmcjax.load_dataset("mnist5k")
    data = jax.tree.map(jnp.asarray, tuple(dataset.train))
    rates = jnp.asarray(np.repeat(np.logspace(-4, -1, 6), NUM_NETWORKS // 6), jnp.float32)
    keys = jax.random.split(jax.random.key(seed), NUM_NETWORKS)
    peak = machine_rate()
    table, rows = (
        Table(
            *COLUMNS, title=f"{NUM_NETWORKS} networks, one epoch; machine {peak / 1e9:.0f} Gflop/s"
        ),
        [],
    )
    with Live(table, auto_refresh=False) as live:
        for width in widths:
            batch_size = 500 if width >= 512 else 100
            goal = GOALS.get(width, 1.0)
            network = FlaxNetwork(MLP((width,) * 3, 10), dataset.input_shape)
            steps = len(dataset.train.labels) // batch_size
            configs = TrainConfig(rates, network, num_steps=steps, batch_size=batch_size)
            loop = make_loop(configs, keys, data)

            def together(configs: TrainConfig = configs) -> jax.Array:
                return lmcjax.train_networks(configs, keys, data).losses

            difference = float(
                jnp.max(jnp.abs(jax.device_get(together()) - jax.device_get(loop())))
            )
            if not difference <= 1e-5:
                raise AssertionError(f"the losses differ by {difference}")
            timings = time_alternately({"loop": loop, "lmcjax": together}, repetitions)
            rate = operations(width, batch_size, NUM_NETWORKS * steps) / timings["lmcjax"].median
            speed_up = ratio(timings["loop"], timings["lmcjax"])
            rows.append(
                [
                    width,
                    batch_size,
                    f"{float(together()[:, -1].mean()):.4f}",
                    f"{difference:.1e}",
                    f"{timings['loop'].median:.3f}",
                    f"{timings['lmcjax'].median:.3f}",
                    f"{speed_up:.2f}",
                    f"{goal:.1f}",
                    "yes" if speed_up >= goal else "no",
                    f"{rate / 1e9:.0f}",
                    f"{rate / peak:.0%}",
                    f"{timings['lmcjax'].compilation:.1f}",
                ]
            )
            table.add_row(*map(str, rows[-1]))
            live.refresh()
    note = NOTE + f"\nThat rate was {peak / 1e9:.0f} Gflop/s on {num_cores()} cores.\n"
    path = write_result(
        "training", title="Training 48 networks at once", note=note, columns=COLUMNS, rows=rows
    )
    rich.print(f"wrote {path.name}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
