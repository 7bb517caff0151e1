"""How many planted permutations come back exactly, by network and by similarity."""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import lmcjax
from _report import write_result
from lmcjax.matching import SIMILARITIES, SimilarityName, similarity_from_name
from lmcjax.symmetry import invert, perturb

OF_THE_PAPER: tuple[SimilarityName, ...] = ("weights", "covariance", "activations")
NUM_SAMPLES = 32


class Subject(NamedTuple):
    """A network, and how to draw inputs for it."""

    name: str
    module: nn.Module
    draw: Callable[[Array, int], Array]


class Recurrent(nn.Module):
    """An LSTM over time, the last state read out."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Logits."""
        return nn.Dense(10)(nn.RNN(nn.OptimizedLSTMCell(self.width))(x)[:, -1])


class Concatenating(nn.Module):
    """A block of DenseNet: every convolution reads all before it."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Logits."""
        x = nn.Conv(2 * self.width, (3, 3))(x)
        for _ in range(4):
            x = jnp.concatenate([x, nn.Conv(self.width, (3, 3))(nn.relu(nn.LayerNorm()(x)))], -1)
        return nn.Dense(10)(x.mean((1, 2)))


class Stacked(nn.Module):
    """Residual layers in one `nn.scan`."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Logits."""

        class Layer(nn.Module):
            hidden: int

            @nn.compact
            def __call__(self, x: Array, _: None) -> tuple[Array, None]:
                return x + nn.Dense(x.shape[-1])(
                    nn.relu(nn.Dense(self.hidden)(nn.LayerNorm()(x)))
                ), None

        layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=6)
        return nn.Dense(10)(layers(2 * self.width)(nn.Dense(self.width)(x), None)[0])


class GroupedQueries(nn.Module):
    """Two layers as in Llama: rotary positions, and queries that share heads of keys and values."""

    width: int
    heads: int  # of keys and values
    queries: int  # for each head of keys
    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Logits."""
        x = nn.Embed(50, self.width)(x)
        for _ in range(2):
            x = x + self.attend(nn.RMSNorm()(x))
            gate = nn.Dense(2 * self.width, use_bias=False)(nn.RMSNorm()(x))
            x = x + nn.Dense(self.width, use_bias=False)(nn.silu(gate))
        return nn.Dense(10)(nn.RMSNorm()(x).mean(1))

    def attend(self, x: Array) -> Array:
        """Attention `[batch, time, width]`."""
        num_queries = self.heads * self.queries
        query = self.heads_of(x, num_queries)
        key = jnp.repeat(self.heads_of(x, self.heads), self.queries, axis=2)
        value = jnp.repeat(self.heads_of(x, self.heads), self.queries, axis=2)
        scores = jnp.einsum("bshc,bthc->bhst", rotate(query), rotate(key))
        weights = nn.softmax(scores / np.sqrt(self.channels))
        seen = jnp.einsum("bhst,bthc->bshc", weights, value)
        return nn.Dense(self.width, use_bias=False)(seen.reshape(*seen.shape[:2], -1))

    def heads_of(self, x: Array, heads: int) -> Array:
        """A projection in one axis, cut into heads."""
        projected = nn.Dense(heads * self.channels, use_bias=False)(x)
        return projected.reshape(*x.shape[:2], heads, self.channels)


def rotate(x: Array) -> Array:
    """Rotary positions of `[batch, time, heads, channels]`."""
    first, second = jnp.split(x, 2, axis=-1)
    frequencies = 10.0 ** -jnp.arange(first.shape[-1])
    angles = jnp.arange(x.shape[1])[:, None, None] * jnp.tile(frequencies, 2)
    return x * jnp.cos(angles) + jnp.concatenate([-second, first], -1) * jnp.sin(angles)


def subjects() -> Iterator[Subject]:
    """What is matched."""

    def normal(*shape: int) -> Callable[[Array, int], Array]:
        return lambda key, n: jax.random.normal(key, (n, *shape))

    def tokens(key: Array, n: int) -> Array:
        return jax.random.randint(key, (n, 16), 0, 50)

    images = normal(16, 16, 3)
    yield Subject("MLP, 3 layers of 512", lmcjax.MLP((512, 512, 512), 10), normal(784))
    yield Subject("VGG-16, width 8", lmcjax.vgg16(8), normal(32, 32, 3))
    for width in (4, 16, 32):
        yield Subject(f"ResNet-20, width {width}", lmcjax.resnet20(width), images)
    yield Subject("ResNet-50, width 8", lmcjax.resnet50(8, 10), normal(32, 32, 3))
    yield Subject("DenseNet block, growth 16", Concatenating(16), images)
    yield Subject("LSTM, 64", Recurrent(64), normal(12, 8))
    yield Subject("nn.scan over 6 residual layers of 64", Stacked(64), normal(20))
    for width, heads in ((64, 4), (128, 8)):
        name = f"transformer encoder, width {width}, {heads} heads, 3 layers"
        module = lmcjax.TransformerEncoder(width, heads, 3, 2 * width, 10, vocabulary=50)
        yield Subject(name, module, tokens)
    grouped = GroupedQueries(64, heads=4, queries=2, channels=8)
    yield Subject("grouped queries, rotary positions, 2 layers of width 64", grouped, tokens)


def recovered(
    subject: Subject, name: SimilarityName, repetitions: int
) -> tuple[list[float], list[bool], list[int]]:
    """The share of neurons that came back, whether all did, and the passes: by repetition."""
    x = subject.draw(jax.random.key(0), NUM_SAMPLES)
    shapes = jax.eval_shape(lambda: subject.module.init(jax.random.key(0), x)["params"])

    def apply(params: Any, x: Array) -> Array:
        return subject.module.apply({"params": params}, x)

    spec = lmcjax.discover(apply, shapes, x)

    @jax.jit
    def once(key: Array) -> tuple[Array, Array, Array]:
        keys = [jax.random.fold_in(key, i) for i in range(3)]
        params = perturb(keys[0], subject.module.init(keys[1], x)["params"])
        planted = lmcjax.random_permutations(keys[2], spec)
        shuffled = lmcjax.permute(spec, invert(spec, planted), params)
        moments = None
        if SIMILARITIES[name].needs_moments():
            moments = lmcjax.activation_moments(apply, spec, params, shuffled, x)
        similarity = similarity_from_name(name, moments)
        matching = lmcjax.match_layerwise(spec, params, shuffled, similarity=similarity)
        right = jnp.concatenate(
            [(matching.permutations[g] == planted[g]).ravel() for g in spec.groups]
        )
        return right.mean(), right.all(), matching.iterations

    results = [once(jax.random.key(1 + i)) for i in range(repetitions)]
    shares, exact, passes = (np.array(values) for values in zip(*results, strict=True))
    return list(shares), list(exact), list(passes)


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument(
        "--only", default="", help="only networks whose names begin like this; nothing is stored"
    )
    options = parser.parse_args()
    rows = []
    for subject in subjects():
        if not subject.name.startswith(options.only):
            continue
        row: list[str | int | float] = [subject.name]
        for similarity in OF_THE_PAPER:
            start = time.perf_counter()
            shares, exact, passes = recovered(subject, similarity, options.repetitions)
            row += [
                f"{sum(exact)}/{len(exact)}",
                f"{100 * np.mean(shares):.1f}",
                f"{np.mean(passes):.1f}",
            ]
            print(
                *row[:1],
                similarity,
                *row[-3:],
                f"{time.perf_counter() - start:.0f} s",
                sep="\t",
                flush=True,
            )
        rows.append(row)
    if options.only:
        return
    columns = ["network"]
    for similarity in OF_THE_PAPER:
        columns += [f"{similarity}: exact", "neurons (%)", "passes"]
    write_result(
        "planted",
        title="Planted permutations",
        note=f"""All groups of a random network (fresh, every leaf perturbed) are shuffled at
once; `match_layerwise` matches the copy to the original. *exact*: how many of
{options.repetitions} networks came back without a single wrong neuron; beside it the share of
neurons that did, and the mean number of passes over the groups. Moments over {NUM_SAMPLES}
random inputs: neurons that none of them wakes have no activations to be told apart by.""",
        columns=columns,
        rows=rows,
    )


if __name__ == "__main__":
    main()
