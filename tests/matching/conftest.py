"""Small networks of unusual kinds in plain JAX, whose symmetries are discovered."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import Matching, PermutationSpec, activation_moments, discover, match_layerwise
from lmcjax.matching import similarity_from_name


def convolution(x: Any, kernel: Any, stride: int = 1, groups: int = 1) -> Any:
    layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": groups}
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", **layout)


def convolutional(params: Any, x: Any) -> Any:
    """A flatten that keeps the channels inside the pixels; no neuron is dead."""
    x = jax.nn.leaky_relu(convolution(x, params["c1"], stride=2) + params["b1"], 0.1)
    x = jax.nn.leaky_relu(convolution(x, params["c2"]) + params["b2"], 0.1)
    return (
        jax.nn.leaky_relu(x.reshape(len(x), -1) @ params["d1"] + params["b3"], 0.1) @ params["d2"]
    )


def residual(params: Any, x: Any) -> Any:
    """Two blocks on a stream."""
    x = x @ params["in"]
    for up, down in (("up1", "down1"), ("up2", "down2")):
        x = x + jax.nn.relu(x @ params[up]) @ params[down]
    return x @ params["out"]


def stacked(params: Any, x: Any) -> Any:
    """Residual blocks in one scan."""

    def block(x: Any, layer: Any) -> tuple[Any, None]:
        return x + jax.nn.leaky_relu(x @ layer[0], 0.1) @ layer[1], None

    return jax.lax.scan(block, x @ params["in"], (params["up"], params["down"]))[0] @ params["out"]


def depthwise(params: Any, x: Any) -> Any:
    """A convolution, and one with two outputs for each of its channels."""
    x = jax.nn.relu(convolution(x, params["c1"], stride=2))
    return (
        jax.nn.relu(convolution(x, params["dw"], groups=x.shape[-1])).mean((1, 2)) @ params["out"]
    )


def attention(params: Any, tokens: Any) -> Any:
    """An embedding and one attention layer with kernels `[d, heads, channels]`."""
    x = params["embed"][tokens]
    q, k, v = (jnp.einsum("btd,dhc->bthc", x, params[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bthc,bshc->bhts", q, k))
    return jnp.einsum("bthc,hce->bte", jnp.einsum("bhts,bshc->bthc", weights, v), params["o"])


def experts(params: Any, x: Any) -> Any:
    """Networks side by side, summed: each kernel of the second layer sees its own expert's data."""

    def expert(first: Any, second: Any) -> Any:
        return jax.nn.leaky_relu(x @ first, 0.1) @ second

    return jax.vmap(expert)(params["up"], params["down"]).sum(0)


def expert_stack(params: Any, x: Any) -> Any:
    """Layers of experts in one scan; no kernel reads the queries and keys inside an expert."""

    def layer(x: Any, leaves: Any) -> tuple[Any, None]:
        def expert(up: Any, q: Any, k: Any) -> Any:
            hidden = jax.nn.leaky_relu(x @ up, 0.1)
            return jnp.tanh(((hidden @ q) * (hidden @ k)).sum(-1, keepdims=True))

        return x + jax.vmap(expert)(*leaves).sum(0), None

    return jax.lax.scan(layer, x, [params[name] for name in ("up", "q", "k")])[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A network and inputs to probe it with."""

    apply: Callable[[Any, Any], Any]
    shapes: dict[str, tuple[int, ...]]
    x: np.ndarray

    def params(self, seed: int) -> dict[str, np.ndarray]:
        """Normal kernels of He's variance and biases."""
        rng = np.random.default_rng(seed)
        scales = {
            name: np.sqrt(2 * shape[-1] / np.prod(shape)) for name, shape in self.shapes.items()
        }
        return {
            name: (scales[name] * rng.normal(size=s)).astype(np.float32)
            for name, s in self.shapes.items()
        }

    def batch(self, seeds: Sequence[int]) -> dict[str, np.ndarray]:
        return jax.tree.map(lambda *leaves: np.stack(leaves), *map(self.params, seeds))

    @functools.cached_property
    def spec(self) -> PermutationSpec:
        return discover(self.apply, self.params(0), self.x)

    def group(self, leaf: str, axis: int) -> str:
        return dict(self.spec.leaves)[leaf][axis].group

    def moments(self, a: Any, b: Any) -> Any:
        """In batches with a short last one."""
        return activation_moments(self.apply, self.spec, a, b, self.x, batch_size=7)

    def match(self, a: Any, b: Any, similarities: Sequence[str]) -> dict[str, Matching]:
        """By each of these similarities."""
        moments = self.moments(a, b)
        matchings = {}
        for name in similarities:
            similarity = similarity_from_name(name, moments)
            matchings[name] = match_layerwise(self.spec, a, b, similarity=similarity)
        return matchings


IMAGES = np.random.default_rng(1).normal(size=(24, 6, 5, 2)).astype(np.float32)
VECTORS = np.random.default_rng(2).normal(0.3, 1, size=(60, 3)).astype(np.float32)
TOKENS = np.random.default_rng(3).integers(0, 7, size=(12, 4))
CASES = {
    "convolutional": Case(
        convolutional,
        {
            "c1": (3, 3, 2, 4),
            "b1": (4,),
            "c2": (3, 3, 4, 5),
            "b2": (5,),
            "d1": (45, 6),
            "b3": (6,),
            "d2": (6, 3),
        },
        IMAGES,
    ),
    "residual": Case(
        residual,
        {
            "in": (3, 8),
            "up1": (8, 6),
            "down1": (6, 8),
            "up2": (8, 5),
            "down2": (5, 8),
            "out": (8, 2),
        },
        VECTORS,
    ),
    "stacked": Case(
        stacked, {"in": (3, 6), "up": (3, 6, 5), "down": (3, 5, 6), "out": (6, 2)}, VECTORS
    ),
    "depthwise": Case(depthwise, {"c1": (3, 3, 2, 4), "dw": (3, 3, 1, 8), "out": (8, 3)}, IMAGES),
    "attention": Case(
        attention,
        {"embed": (7, 6), "q": (6, 3, 4), "k": (6, 3, 4), "v": (6, 3, 5), "o": (3, 5, 2)},
        TOKENS,
    ),
    "experts": Case(experts, {"up": (4, 3, 5), "down": (4, 5, 2)}, VECTORS),
    "expert stack": Case(
        expert_stack, {"up": (2, 4, 3, 5), "q": (2, 4, 5, 3), "k": (2, 4, 5, 3)}, VECTORS
    ),
}


@pytest.fixture(scope="session")
def cases() -> dict[str, Case]:
    return CASES
