"""Two CPU devices, run-time shape checks, strict settings for our own code, and the networks that
tests share.
"""
# ruff: noqa: E402 - devices and run-time checks are set up before lmcjax is imported

import jax

jax.config.update("jax_num_cpu_devices", 2)  # before JAX starts

from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

install_import_hook("lmcjax", "beartype.beartype")  # before lmcjax is imported

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, PyTree

import lmcjax
from lmcjax.symmetry import reads, writes

hypothesis.settings.register_profile(
    "lmcjax",
    deadline=None,  # the first example compiles
    derandomize=True,  # the same examples on every run
    max_examples=15,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("lmcjax")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "filterwarnings", r"error:::lmcjax\b"
    )  # warnings raised from our modules


@pytest.fixture
def strict_promotion() -> Iterator[None]:
    """No implicit mixing of dtypes; for tests that go through neither ott nor optax, which raise
    under it.
    """
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision; float32 constants stand beside it, so with the standard promotion."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """XLA compiles faster and less well: for whole modules whose programs are run once or twice."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """No run-time type checks, as for users: our own errors show instead of jaxtyping's."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def two_devices() -> list[jax.Device]:
    devices = jax.devices("cpu")
    assert len(devices) == 2
    return devices


@pytest.fixture(scope="session")
def finite_difference() -> Callable[..., np.ndarray]:
    """`finite_difference(f, x)`: the gradient of a NumPy function at float64 `x`, by central
    differences.
    """

    def gradient(f: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-5) -> np.ndarray:
        x = np.asarray(x, np.float64)
        steps = step * np.eye(x.size).reshape(x.size, *x.shape)
        return np.array([(f(x + h) - f(x - h)) / (2 * step) for h in steps]).reshape(x.shape)

    return gradient


@pytest.fixture(scope="session")
def generic_like() -> Callable[[PyTree], PyTree]:
    """`generic_like(shapes)`: arrays without special values (no zero biases, no unit scales,
    positive variances).
    """

    def generic(leaf: jax.ShapeDtypeStruct) -> Array:
        rng = np.random.default_rng(leaf.size)
        if leaf.ndim < 2:
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        return jnp.asarray(
            rng.normal(size=leaf.shape) / np.sqrt(leaf.size / leaf.shape[-1]), leaf.dtype
        )

    return lambda shapes: jax.tree.map(generic, shapes)


@pytest.fixture
def spec_of_trap() -> Callable[..., lmcjax.PermutationSpec]:
    """`spec_of_trap(apply, params, x)`: what is discovered of a layer whose neurons look alike.

    Permuting all of them changes the outputs, and is not found. They are the columns of `w`, the
    entries of `b`, if there is one, and the rows of `v`.
    """

    def discover_trap(apply: Callable[[PyTree, Array], Array], params: PyTree, x: Array):
        axes = {"w": (None, writes("g")), "b": (writes("g"),), "v": (reads("g"), None)}
        all_neurons = lmcjax.PermutationSpec.from_axes({name: axes[name] for name in params})
        assert not lmcjax.verify(apply, all_neurons, params, x).jointly_holds
        spec = lmcjax.discover(apply, params, x)
        num_neurons = params["v"].shape[0]
        assert all(size[-1] < num_neurons for size in spec.group_shapes().values())
        assert lmcjax.verify(apply, spec, params, x).jointly_holds
        return spec

    return discover_trap


@pytest.fixture(scope="session")
def verified_spec() -> Callable[..., lmcjax.PermutationSpec]:
    """`verified_spec(apply, params, x)`: what is discovered, once permuting each group has kept the
    outputs.

    To 1e-5 in float32; to 1e-9 where x64 is on, in float64. Parameters are from `generic_like`.
    """

    def widest(leaf: Array) -> Array:
        return (
            leaf.astype(jnp.result_type(float))
            if jnp.issubdtype(leaf.dtype, jnp.floating)
            else leaf
        )

    def discover_and_verify(apply: Callable[[PyTree, Array], Array], params: PyTree, x: Array):
        params, x = jax.tree.map(widest, (params, x))
        spec = lmcjax.discover(apply, params, x)
        result = lmcjax.verify(apply, spec, params, x)
        assert result.finite
        assert set(result.difference) == set(spec.groups)
        tolerance = 1e-9 if jax.config.jax_enable_x64 else 1e-5
        assert max(result.difference.values()) <= tolerance, result.difference
        assert result.joint_difference <= tolerance
        assert result.jointly_holds
        assert (spec.unknown, spec.dead) == ((), ())
        return spec

    return discover_and_verify


@pytest.fixture(scope="session")
def exported_text() -> Callable[..., str]:
    """`exported_text(f, platforms, *arguments)`: the program for other platforms, without its
    remarks on sources.
    """

    def text(function: Callable[..., Any], platforms: Sequence[str], *arguments: Any) -> str:
        exported = jax.export.export(jax.jit(function), platforms=platforms)(*arguments)
        lines = exported.mlir_module().splitlines()
        return "\n".join(line for line in lines if not line.startswith("#loc"))

    return text


class Pair(NamedTuple):
    """Two random networks of one architecture, and data to probe them with."""

    network: lmcjax.FlaxNetwork
    spec: lmcjax.PermutationSpec
    params_a: PyTree
    params_b: PyTree
    inputs: Array
    labels: Array


def random_params(widths: tuple[int, ...], rng: np.random.Generator) -> PyTree:
    """Kernels of He's variance, and random biases, because fresh biases are all 0; `widths` from
    inputs to outputs.
    """
    return {
        f"Dense_{i}": {
            "kernel": jnp.asarray(rng.normal(size=(m, n)) * np.sqrt(2 / m), jnp.float32),
            "bias": jnp.asarray(0.3 * rng.normal(size=n), jnp.float32),
        }
        for i, (m, n) in enumerate(itertools.pairwise(widths))
    }


def random_pair(widths: tuple[int, ...], num_samples: int, seed: int) -> Pair:
    """The labels are what the first network says, as if it were trained."""
    rng = np.random.default_rng(seed)
    network = lmcjax.FlaxNetwork(lmcjax.MLP(widths[1:-1], widths[-1]), input_shape=widths[:1])
    params_a, params_b = random_params(widths, rng), random_params(widths, rng)
    inputs = jnp.asarray(rng.normal(size=(num_samples, widths[0])), jnp.float32)
    labels = jax.jit(lambda x: network.apply(params_a, x).argmax(-1))(inputs)
    return Pair(network, lmcjax.mlp_spec(len(widths) - 2), params_a, params_b, inputs, labels)


@pytest.fixture(scope="session")
def pair() -> Pair:
    """MLPs with three hidden layers of different widths."""
    return random_pair((12, 24, 20, 16, 5), num_samples=300, seed=0)


@pytest.fixture(scope="session")
def small_pairs() -> Pair:
    """Three pairs of small MLPs with two hidden layers, parameters stacked along a leading axis;
    shared data.
    """
    pairs = [random_pair((4, 8, 6, 3), num_samples=50, seed=seed) for seed in range(3)]
    a, b = (
        jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *(p[side] for p in pairs))
        for side in (2, 3)
    )
    return pairs[0]._replace(params_a=a, params_b=b)
