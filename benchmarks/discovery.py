"""How long `discover` takes beyond JAX's own tracing, against the number of equations."""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.extend import core

import lmcjax
from _report import write_result

DEPTHS = (6, 12, 24, 48)
GOAL = 1.0  # seconds, for ResNet-50 and 24 layers


def networks(depths: Sequence[int]) -> Iterator[tuple[str, lmcjax.FlaxNetwork, bool]]:
    """Name, network, whether the goal is set for it."""
    for depth in depths:
        module = lmcjax.TransformerEncoder(64, 4, depth, 128, 10, patch_size=8)
        yield (
            f"transformer encoder, {depth} layers",
            lmcjax.FlaxNetwork(module, (32, 32, 3)),
            depth == 24,
        )
    yield "ResNet-20", lmcjax.FlaxNetwork(lmcjax.resnet20(16), (32, 32, 3)), False
    yield "ResNet-50", lmcjax.FlaxNetwork(lmcjax.resnet50(64), (224, 224, 3)), True


def count_equations(jaxpr: core.Jaxpr) -> int:
    """Those of the programs that equations call included."""
    inner = [
        p
        for e in jaxpr.eqns
        for p in e.params.values()
        if isinstance(p, core.ClosedJaxpr | core.Jaxpr)
    ]
    return len(jaxpr.eqns) + sum(count_equations(getattr(p, "jaxpr", p)) for p in inner)


def seconds(apply: Callable[[Any, Any], Any], params: Any, x: Any) -> tuple[float, float]:
    """Processor time of one call of `discover`: in JAX's tracing, and beyond it.

    JAX's caches of traces are emptied.
    """
    tracing = 0.0
    make_jaxpr = jax.make_jaxpr

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def trace(*arguments: Any) -> Any:
            nonlocal tracing
            start = time.process_time()
            closed = make_jaxpr(function)(*arguments)
            tracing += time.process_time() - start
            return closed

        return trace

    jax.clear_caches()
    gc.collect()
    with mock.patch.object(jax, "make_jaxpr", timed):
        start = time.process_time()
        lmcjax.discover(apply, params, x)
        return tracing, time.process_time() - start - tracing


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--depths", type=int, nargs="+", default=DEPTHS, help="of the transformer encoders"
    )
    options = parser.parse_args()
    repetitions = options.repetitions
    rows: list[tuple[str | int | float, ...]] = []
    for name, network, has_goal in networks(options.depths):
        params = jax.eval_shape(network.init, jax.random.key(0))
        x = jax.ShapeDtypeStruct((2, *network.input_shape), jnp.float32)
        equations = count_equations(jax.make_jaxpr(network.apply)(params, x).jaxpr)
        spec = lmcjax.discover(network.apply, params, x)
        times = [seconds(network.apply, params, x) for _ in range(repetitions)]
        tracing, beyond = (statistics.median(column) for column in zip(*times, strict=True))
        reached = ("yes" if beyond <= GOAL else "no") if has_goal else ""
        rows.append(
            (
                name,
                equations,
                len(spec.leaves),
                len(spec.groups),
                f"{tracing:.2f}",
                f"{beyond:.2f}",
                f"{1e6 * beyond / equations:.0f}",
                f"{GOAL:g}" if has_goal else "",
                reached,
            )
        )
        print(*rows[-1], sep="\t", flush=True)
    columns = ("network", "equations", "leaves", "groups", "tracing (s)", "discovery beyond it (s)")
    write_result(
        "discovery",
        title="Discovering permutation symmetries",
        note=f"""`lmcjax.discover(apply, params, x)` on shapes alone: the time it spends in
`jax.make_jaxpr`, and the time beyond it. Medians of processor time over {repetitions} calls, JAX's
caches of traces emptied before every call. Equations are those of the program and of all programs
that it calls.""",
        columns=(*columns, "per equation (µs)", "goal (s)", "reached"),
        rows=rows,
    )


if __name__ == "__main__":
    main()
