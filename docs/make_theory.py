"""Measure what `lmcjax.theory` computes against networks and clouds, and write `docs/theory.md`
from what was measured.

The text is that of `docs/theory/template.md`. `python docs/make_theory.py` writes the page from
`docs/theory/*.json`; `python docs/make_theory.py rates large_rates coverage bound propagation
independence` measures these parts again first (one to three minutes each on 2 cores).
"""

import argparse
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import binomtest

import lmcjax
from lmcjax.evaluation import diagnose
from lmcjax.statistics import independence_test, neuron_coordinates
from lmcjax.theory import (
    calibrate_wasserstein_rate,
    empirical_wasserstein_rate,
    fit_exponent,
    gaussian_matching_lower_bound,
    matching_lower_bound,
    path_deviation,
    propagate,
    width_upper_bound,
)

DOCS = Path(__file__).resolve().parent
Rows = list[list[str]]


def interval(low: float, high: float, digits: int = 3) -> str:
    """A confidence interval in brackets."""
    return f"[{low:.{digits}g}, {high:.{digits}g}]"


def share(rejected: np.ndarray) -> str:
    """A share with its exact 95 % interval."""
    ci = binomtest(int(np.sum(rejected)), np.size(rejected)).proportion_ci()
    return f"{np.mean(rejected):.3f} [{ci.low:.3f}, {ci.high:.3f}]"


def _rate_row(name: str, dim: int, found: Any, repetitions: int) -> list[str]:
    theory = empirical_wasserstein_rate(float(found.num_samples[-1]), float(dim))
    return [
        name,
        str(dim),
        f"{int(found.num_samples[0]):,} to {int(found.num_samples[-1]):,}",
        str(repetitions),
        f"{found.mean[-1]:.4g} {interval(found.low[-1], found.high[-1])}",
        f"{found.fit.exponent:.3f} {interval(found.fit.low, found.fit.high)}",
        f"{theory.upper_exponent:.3f}",
        f"{theory.smooth_exponent:.3f}",
    ]


def rates() -> Rows:
    """Exponents for the two laws."""
    sizes, repetitions, rows = (64, 128, 256), 20, []
    for law in ("gaussian", "uniform"):
        for dim in (1, 2, 3, 5):
            run = functools.partial(
                calibrate_wasserstein_rate,
                distribution=law,
                sizes=sizes,
                dim=dim,
                repetitions=repetitions,
            )
            rows.append(_rate_row(law, dim, jax.jit(run)(jax.random.key(dim)), repetitions))
    return rows


def large_rates() -> Rows:
    """Up to n = 4,096."""
    run = functools.partial(
        calibrate_wasserstein_rate,
        distribution="gaussian",
        sizes=(512, 1024, 2048, 4096),
        dim=5,
        repetitions=3,
    )
    return [_rate_row("gaussian", 5, jax.jit(run)(jax.random.key(0)), 3)]


def coverage() -> Rows:
    """How often 95 % intervals hold: of means that are known, and of the exponent of a power law."""
    sizes, count = (4, 8, 16, 32, 64), 1000
    run = jax.jit(jax.vmap(lambda k: calibrate_wasserstein_rate(k, "uniform", sizes, dim=1)))
    found = run(jax.random.split(jax.random.key(1), count))
    truth = 1 / (3 * (np.array(sizes) + 1))
    held = np.asarray((found.low <= truth) & (truth <= found.high))
    rows = [
        [f"mean, uniform, d = 1, n = {n}", str(count), share(held[:, i])]
        for i, n in enumerate(sizes)
    ]
    run = jax.jit(jax.vmap(lambda k: calibrate_wasserstein_rate(k, "gaussian", (16, 64), dim=5)))
    found = run(jax.random.split(jax.random.key(2), count))
    held = np.asarray((found.low <= found.mean.mean(0)) & (found.mean.mean(0) <= found.high))
    rows += [
        [f"mean, Gaussian, d = 5, n = {n}", str(count), share(held[:, i])]
        for i, n in enumerate((16, 64))
    ]
    rng, n = np.random.default_rng(0), np.array([10.0, 30, 100, 1000], np.float32)
    values = n[:, None] ** -0.4 * (1 + 0.2 * rng.normal(size=(5000, 4, 20)))
    fits = jax.jit(jax.vmap(lambda y, e: fit_exponent(n, y, e, repetitions=20)))(
        values.mean(2).astype("f"), (values.std(2, ddof=1) / 20**0.5).astype("f")
    )
    return [
        *rows,
        ["exponent of a power law", "5000", share((fits.low <= -0.4) & (fits.high >= -0.4))],
    ]


def bound() -> Rows:
    """Bounds beside the mean cost of 400 exact matchings."""
    rng, rows = np.random.default_rng(0), []
    costs = jax.jit(jax.vmap(lambda x, y: lmcjax.wasserstein2(x, y) ** 2))
    sharper = jax.jit(gaussian_matching_lower_bound)
    for dim in (1, 2, 3, 5, 8, 16, 32, 64):
        norms = {"Euclidean": np.ones(dim)}
        if dim > 4:
            norms["diag(i^-2)"] = np.arange(1.0, dim + 1) ** -2
        for norm, spectrum in norms.items():
            for m in (32, 128):
                points = rng.normal(size=(2, 400, m, dim)) * np.sqrt(spectrum)
                measured = np.asarray(costs(*points.astype("f")), np.float64)
                mean, error = measured.mean(), measured.std(ddof=1) / 20
                log_f, moment = -dim / 2 * math.log(2 * math.pi), np.diag(spectrum).astype("f")
                plain = matching_lower_bound(m, dim, log_f, moment, rows="gaussian")
                near = sharper(m, np.eye(dim, dtype="f"), moment)
                high = max(float(plain.error), float(near.error))
                rows.append(
                    [
                        *(
                            str(dim),
                            norm,
                            str(m),
                            f"{mean:.4g} ± {error:.2g}",
                            f"{plain.error:.4g}",
                        ),
                        *(f"{near.error:.4g}", f"{near.error / mean:.2f}"),
                        "yes" if high <= mean + 3 * error else "NO",
                    ]
                )
    return rows


@functools.cache
def _programs(width: int) -> tuple[Any, Any, Any, Callable[..., Any]]:
    data = lmcjax.load_dataset("mnist5k")
    network = lmcjax.FlaxNetwork(lmcjax.MLP((width,) * 2, 10), data.input_shape)
    spec = lmcjax.mlp_spec(2)

    def compare(a: Any, b: Any, inputs: jax.Array, labels: jax.Array, similarity: str) -> Any:
        moments = lmcjax.activation_moments(network.apply, spec, a, b, inputs)
        matching = lmcjax.match_layerwise(spec, a, b, similarity=similarity, moments=moments)
        aligned = lmcjax.permute(spec, matching.permutations, b)
        moments = lmcjax.activation_moments(network.apply, spec, a, aligned, inputs)
        loss = lmcjax.batched_loss(
            network.apply, lmcjax.cross_entropy_and_accuracy, (inputs, labels)
        )
        barrier = lmcjax.linear_barrier(loss, a, aligned, num_points=11)
        return (
            propagate(spec, a, aligned, moments, num_points=11),
            path_deviation(network.apply, spec, a, aligned, inputs, num_points=11),
            barrier,
            diagnose(spec, a, b, matching.permutations, barrier),
        )

    return data, network, spec, jax.jit(compare, static_argnums=4)


def propagation() -> dict[str, Rows]:
    """Bounds beside measured deviations, and the diagnosis, of fresh and trained pairs."""
    rows, diagnoses = [], []
    for width in (64,):
        data, network, _, compare = _programs(width)
        train = jax.jit(lmcjax.train)
        for rate in (0.0, 1e-2, 1e-1):
            config = lmcjax.TrainConfig(
                rate or 1e-3, network, num_steps=400 if rate else 1, batch_size=100
            )
            a, b = (train(config, jax.random.key(seed), data.train).params for seed in (0, 1))
            kind = f"trained at {rate:g}" if rate else "fresh"
            for similarity in ("weights", "covariance"):
                limit, measured, barrier, diagnosis = compare(a, b, *data.test, similarity)
                below = sum(
                    int((getattr(limit, f)[k] * (1 + 1e-4) + 1e-4 < v).sum())
                    for f in ("from_a", "from_b")
                    for k, v in getattr(measured, f).items()
                ) + int((limit.chord * (1 + 1e-4) + 1e-4 < measured.chord).sum())
                layers = [
                    f"{measured.from_a[k][5]:.3g} ≤ {limit.from_a[k][5]:.3g}"
                    for k in measured.from_a
                ]
                chord = f"{measured.chord[5]:.3g} ≤ {limit.chord[5]:.3g}"
                excess = f"{barrier.height:.3g} ≤ {math.sqrt(2) * limit.chord.max():.3g}"
                rows.append(
                    [str(width), kind, similarity, *layers, chord, excess, f"{below} of 77"]
                )
                found = [diagnosis.barrier, diagnosis.reduction]
                numbers = [f"{s.value:.3f}{' (failed)' if s.failed else ''}" for s in found]
                groups = [f"{v:.3f}" for v in diagnosis.group_reduction.values()]
                diagnoses.append([str(width), kind, similarity, *numbers, *groups])
    return {"propagation": rows, "diagnosis": diagnoses}


PLANTED: dict[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "none": lambda z, common, sign: z,
    "attraction: 5 % of the variance shared": lambda z, common, sign: (
        0.95**0.5 * z + 0.05**0.5 * common
    ),
    "attraction to a line, 40 % of the variance": lambda z, common, sign: (
        0.6**0.5 * z + 0.4**0.5 * sign * common
    ),
    "attraction: 10 of 32 in near twins": lambda z, common, sign: z.at[:, :5].set(
        z[:, 5:10] + 0.1 * z[:, 10:15]
    ),
    "repulsion: half of the mean given up": lambda z, common, sign: (
        z - z.mean(1, keepdims=True) / 2
    ),
    "repulsion: 16 of 32 in opposite pairs": lambda z, common, sign: z.at[:, :8].set(-z[:, 8:16]),
}


def planted(kind: str, key: jax.Array) -> jax.Array:
    """Ten networks of 32 neurons in 8 standard normal coordinates, with a planted dependence."""
    keys = jax.random.split(key, 3)
    sign = jax.random.rademacher(keys[2], (10, 32, 1)).astype(jnp.float32)
    return PLANTED[kind](
        jax.random.normal(keys[0], (10, 32, 8)), jax.random.normal(keys[1], (10, 1, 8)), sign
    )


def independence() -> dict[str, Rows]:
    """The level on fresh networks, and the power against planted dependence."""
    network, spec = lmcjax.FlaxNetwork(lmcjax.MLP((32,) * 3, 10), (64,)), lmcjax.mlp_spec(3)
    probes = jax.random.normal(jax.random.key(9), (8, 64))

    def fresh(key: jax.Array, common_frame: bool) -> Any:
        params = jax.vmap(network.init)(jax.random.split(key, 10))
        neurons = jax.vmap(
            lambda p: neuron_coordinates(network.apply, spec, p, probes, common_frame=common_frame)
        )(params)
        return {
            g: independence_test(jax.random.fold_in(key, 1), z, num_permutations=79)
            for g, z in neurons.items()
        }

    def many(test: Callable[[jax.Array], Any], count: int) -> Any:
        return jax.jit(lambda keys: jax.lax.map(test, keys, batch_size=10))(
            jax.random.split(jax.random.key(0), count)
        )

    level, power = [], []
    for frame in (True, False):
        for group, found in many(functools.partial(fresh, common_frame=frame), 100).items():
            name = "common frame" if frame else "pre-activations"
            level.append(
                [name, group, "100", share(found.p_value <= 0.05), f"{found.effect.mean():.2f}"]
            )
    for kind in PLANTED:

        def test(key: jax.Array, kind: str = kind) -> Any:
            return independence_test(
                key, planted(kind, jax.random.fold_in(key, 1)), num_permutations=79
            )

        found = many(test, 40)
        power.append([kind, "40", share(found.p_value <= 0.05), f"{found.effect.mean():.2f}"])
    return {"level": level, "power": power}


PARTS: dict[str, Callable[[], Any]] = {
    "rates": rates,
    "large_rates": large_rates,
    "coverage": coverage,
    "bound": bound,
    "propagation": propagation,
    "independence": independence,
}


def table(header: Sequence[str], rows: Rows | None) -> str:
    """Markdown."""
    if not rows:
        return "*Not measured yet.*"
    lines = [list(header), ["--:" if i else ":--" for i in range(len(header))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(measured: dict[str, Any]) -> str:
    """The whole of `docs/theory.md`."""
    towers = "\n".join(
        f"- eps = {eps}, m_0 = {m_0}: " + str(width_upper_bound(eps, m_0, 3)).replace("\n", "; ")
        for eps, m_0 in ((0.5, 5), (0.1, 5), (0.1, 784))
    )
    paths, tests = measured.get("propagation", {}), measured.get("independence", {})
    text = (DOCS / "theory" / "template.md").read_text("utf-8")
    return text.format(
        rates=table(RATES, measured.get("rates", []) + measured.get("large_rates", [])),
        coverage=table(COVERAGE, measured.get("coverage")),
        bound=table(BOUND, measured.get("bound")),
        propagation=table(PROPAGATION, paths.get("propagation")),
        diagnosis=table(DIAGNOSIS, paths.get("diagnosis")),
        level=table(("coordinates", "layer", *REJECTED), tests.get("level")),
        power=table(("planted", *REJECTED), tests.get("power")),
        towers=towers,
    )


COVERAGE = ("interval of", "experiments", "share that holds (95 % expected)")
REJECTED = ("experiments", "rejected at 5 %", "mean effect")
RATES = (
    "law",
    "d",
    "n",
    "repetitions",
    "E W_2^2 at the largest n",
    "fitted exponent",
    "upper bound",
    "smooth densities",
)
BOUND = (
    "d",
    "norm",
    "m",
    "matched, per neuron",
    "with the largest density",
    "sharper",
    "sharper / matched",
    "below",
)
PROPAGATION = (
    "width",
    "networks",
    "matched by",
    "layer 1",
    "layer 2",
    "outputs",
    "outputs to the chord",
    "barrier, sqrt(2) x bound",
    "violations",
)
DIAGNOSIS = (
    "width",
    "networks",
    "matched by",
    "barrier (nats)",
    "share removed",
    "layer 1",
    "layer 2",
)


def main() -> None:
    """Measure the parts that are named, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="measured again")
    folder = DOCS / "theory"
    folder.mkdir(exist_ok=True)
    for part in parser.parse_args().parts:
        (folder / f"{part}.json").write_text(
            json.dumps(PARTS[part](), indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
    measured = {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}
    (DOCS / "theory.md").write_text(page(measured), encoding="utf-8")


if __name__ == "__main__":
    main()
