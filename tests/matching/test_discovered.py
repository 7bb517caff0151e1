"""Matching networks whose symmetries were discovered, against the paper's formulas in NumPy and
SciPy.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from lmcjax import ActivationMoments, Moments, PermutationSpec, random_permutations
from lmcjax.matching import Activations, layer_similarity, similarity_from_name
from lmcjax.symmetry import fixed, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIMILARITIES = ("weights", "covariance", "activations")


def similarities(case: Any, a: Any, b: Any, permutations: Any) -> dict[str, dict[str, jax.Array]]:
    """By similarity and group, with the other groups' permutations applied to B."""

    @jax.jit
    def compare(a: Any, b: Any, permutations: Any) -> dict[str, dict[str, jax.Array]]:
        moments = case.moments(a, b)
        matrices: dict[str, dict[str, jax.Array]] = {}
        for name in SIMILARITIES:
            options = {
                "similarity": similarity_from_name(name, moments),
                "permutations": permutations,
            }
            matrices[name] = {}
            for group in case.spec.groups:
                matrices[name][group] = layer_similarity(case.spec, group, a, b, **options)
        return matrices

    return compare(a, b, permutations)


def assert_similar(found: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def in_float64(params: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}


def relu(x: np.ndarray, slope: float = 0) -> np.ndarray:
    return np.maximum(x, slope * x)


def patches(images: np.ndarray, size: int, stride: int) -> np.ndarray:
    """The windows of a convolution with SAME padding, `[num_images, height, width, size, size,
    channels]`.
    """
    out = [-(-length // stride) for length in images.shape[1:3]]
    missing = [
        (o - 1) * stride + size - length for o, length in zip(out, images.shape[1:3], strict=True)
    ]
    padded = np.pad(images, [(0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)])
    windows = np.zeros((len(images), *out, size, size, images.shape[-1]))
    for row, column in np.ndindex(*out):
        top, left = row * stride, column * stride
        windows[:, row, column] = padded[:, top : top + size, left : left + size]
    return windows


def second_moment(samples: np.ndarray) -> np.ndarray:
    return samples.T @ samples / (len(samples) - 1)


def centred(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    """The centred cross moment, the neurons along one axis; all others are of samples."""
    a, b = (np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]) for x in (a, b))
    return (a - a.mean(0)).T @ (b - b.mean(0)) / (len(a) - 1)


def products(
    similarity: str, terms: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> np.ndarray:
    """`W_A S W_B^T`, summed over kernels `(W_A^T, W_B^T, samples of A's inputs)`; S is 1 for
    "weights".
    """
    return sum(
        a.T @ (second_moment(seen) @ b if similarity == "covariance" else b) for a, b, seen in terms
    )


def best(matrix: np.ndarray) -> np.ndarray:
    return linear_sum_assignment(matrix, maximize=True)[1]


def convolutional_inputs(p: dict[str, np.ndarray], images: np.ndarray) -> list[np.ndarray]:
    """What the four kernels see, as samples."""
    first = patches(images.astype(np.float64), 3, 2)
    second = patches(relu(np.einsum("nijhwc,hwco->nijo", first, p["c1"]) + p["b1"], 0.1), 3, 1)
    flat = relu(np.einsum("nijhwc,hwco->nijo", second, p["c2"]) + p["b2"], 0.1).reshape(
        len(images), -1
    )
    return [
        first.reshape(-1, 18),
        second.reshape(-1, 36),
        flat,
        relu(flat @ p["d1"] + p["b3"], 0.1),
    ]


def convolutional_reference(
    a: Any, b: Any, similarity: str, case: Any, given: Any = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layer by layer, the earlier permutations applied to B: similarities and best (or given)
    permutations.
    """
    seen_a, seen_b = convolutional_inputs(a, case.x), convolutional_inputs(b, case.x)
    before, found = np.arange(2), {}
    for layer, name in enumerate(("c1", "c2", "d1")):
        n = a[name].shape[-1]
        if similarity == "activations":
            matrix = centred(seen_a[layer + 1].reshape(-1, n), seen_b[layer + 1].reshape(-1, n))
        else:
            aligned = b[name].reshape(-1, len(before), n)[:, before].reshape(-1, n)
            matrix = products(similarity, [(a[name].reshape(-1, n), aligned, seen_a[layer])])
        group = case.group(name, -1)
        before = best(matrix) if given is None else given[group]
        found[group] = matrix, before
    return found


@pytest.mark.slow
def test_a_convolutional_network_equals_the_papers_formulas(cases: Any) -> None:
    """Patches are samples; activations are what readers see, zeros of the padding included."""
    case = cases["convolutional"]
    a, b = (case.params(seed) for seed in (1, 2))
    for similarity, matching in jax.jit(lambda a, b: case.match(a, b, SIMILARITIES))(a, b).items():
        expected = convolutional_reference(in_float64(a), in_float64(b), similarity, case)
        assert set(expected) == set(case.spec.groups)
        assert any((p != np.arange(len(p))).any() for _, p in expected.values())
        for group, (matrix, p) in expected.items():
            np.testing.assert_array_equal(matching.permutations[group], p)
            np.testing.assert_allclose(
                matching.similarity[group], matrix[np.arange(len(p)), p].sum(), rtol=1e-4
            )
            np.testing.assert_allclose(
                matching.identity_similarity[group], np.trace(matrix), rtol=1e-3, atol=1e-4
            )
        assert (int(matching.iterations), bool(matching.converged)) == (1, True)
    permutations = {group: p for group, (_, p) in expected.items()}
    for similarity, found in similarities(case, a, b, permutations).items():
        expected = convolutional_reference(
            in_float64(a), in_float64(b), similarity, case, permutations
        )
        for group, (matrix, _) in expected.items():
            assert_similar(found[group], matrix)


def residual_inputs(p: dict[str, np.ndarray], x: np.ndarray) -> dict[str, np.ndarray]:
    seen, x = {"in": x.astype(np.float64)}, x @ p["in"]
    for up, down in (("up1", "down1"), ("up2", "down2")):
        seen |= {up: x, down: relu(x @ p[up])}
        x = x + seen[down] @ p[down]
    return seen


def residual_reference(
    a: Any, b: Any, similarity: str, case: Any
) -> tuple[dict[str, np.ndarray], int]:
    """The stream's writers beside whose other group is unmatched wait for the second pass; passes
    are repeated while
    they raise the sum of all similarities."""
    seen = residual_inputs(a, case.x)

    def matrices(
        p: dict[str, np.ndarray], blocks: tuple[int, ...]
    ) -> Iterator[tuple[str, np.ndarray]]:
        terms = [(a["in"], b["in"], seen["in"])]
        terms += [(a[f"down{i}"], b[f"down{i}"][p[f"up{i}"]], seen[f"down{i}"]) for i in blocks]
        yield "in", products(similarity, terms)
        for up in ("up1", "up2"):
            yield up, products(similarity, [(a[up], b[up][p["in"]], seen[up])])

    def one_pass(
        p: dict[str, np.ndarray], blocks: tuple[int, ...]
    ) -> tuple[float, dict[str, np.ndarray]]:
        p = dict(p)
        for name, matrix in matrices(p, blocks):
            p[name] = best(matrix)
        total = sum(
            matrix[np.arange(len(matrix)), p[name]].sum() for name, matrix in matrices(p, (1, 2))
        )
        return total, p

    identity = {name: np.arange(a[name].shape[1]) for name in ("in", "up1", "up2")}
    kept, num_passes = one_pass(identity, ()), 1
    while True:
        after, num_passes = one_pass(kept[1], (1, 2)), num_passes + 1
        if after[0] <= kept[0] + 1e-6 * abs(kept[0]):
            return {case.group(name, 1): q for name, q in kept[1].items()}, num_passes
        kept = after


@pytest.mark.slow
def test_streams_are_matched_in_passes(cases: Any) -> None:
    """The same permutations after the same number of passes."""
    case = cases["residual"]
    seeds_a, seeds_b = range(12), range(100, 112)
    match = jax.jit(jax.vmap(lambda a, b: case.match(a, b, ("weights", "covariance"))))
    for similarity, matching in match(case.batch(seeds_a), case.batch(seeds_b)).items():
        passes = set()
        for i, seeds in enumerate(zip(seeds_a, seeds_b, strict=True)):
            expected = residual_reference(
                *(in_float64(case.params(seed)) for seed in seeds), similarity, case
            )
            found = jax.tree.map(lambda leaf, i=i: leaf[i], matching)
            chex.assert_trees_all_equal(found.permutations, expected[0])
            assert (int(found.iterations), bool(found.converged)) == (expected[1], True)
            passes.add(expected[1])
        assert max(passes) > 2


def stacked_inputs(
    p: dict[str, np.ndarray], x: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The stream before each layer and after the last, and the hidden activations of each."""
    stream, hidden = [x @ p["in"]], []
    for up, down in zip(p["up"], p["down"], strict=True):
        hidden.append(relu(stream[-1] @ up, 0.1))
        stream.append(stream[-1] + hidden[-1] @ down)
    return stream, hidden


def stacked_similarities(a: Any, b: Any, x: np.ndarray, similarity: str) -> dict[str, np.ndarray]:
    (stream_a, hidden_a), (stream_b, hidden_b) = stacked_inputs(a, x), stacked_inputs(b, x)
    if similarity == "activations":
        hidden = np.stack([centred(*pair) for pair in zip(hidden_a, hidden_b, strict=True)])
        return {"in": centred(np.concatenate(stream_a), np.concatenate(stream_b)), "up": hidden}
    down = zip(a["down"], b["down"], hidden_a, strict=True)
    up = zip(a["up"], b["up"], stream_a[:-1], strict=True)
    stream = products(similarity, [(a["in"], b["in"], x), *down])
    return {"in": stream, "up": np.stack([products(similarity, [term]) for term in up])}


def depthwise_inputs(
    p: dict[str, np.ndarray], images: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patches `[N, 18]`, patches by channel `[N, 9, 4]`, and what the head sees, `[N, 4, 2]`."""
    first = patches(images.astype(np.float64), 3, 2)
    second = patches(relu(np.einsum("nijhwc,hwco->nijo", first, p["c1"])), 3, 1)
    said = relu(np.einsum("nijhwc,hwcm->nijcm", second, p["dw"].reshape(3, 3, 4, 2)))
    return first.reshape(-1, 18), second.reshape(-1, 9, 4), said.mean((1, 2))


def depthwise_similarities(a: Any, b: Any, x: np.ndarray, similarity: str) -> dict[str, np.ndarray]:
    first, second, said = depthwise_inputs(a, x)
    if similarity == "activations":
        return {"c1": centred(said, depthwise_inputs(b, x)[2], 1)}
    metric = np.stack(
        [
            second_moment(second[..., c]) if similarity == "covariance" else np.eye(9)
            for c in range(4)
        ]
    )
    own = np.einsum("kgm,gkl,lhm->gh", a["dw"].reshape(9, 4, 2), metric, b["dw"].reshape(9, 4, 2))
    return {
        "c1": products(similarity, [(a["c1"].reshape(18, 4), b["c1"].reshape(18, 4), first)]) + own
    }


def attention_inputs(
    p: dict[str, np.ndarray], tokens: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The embedded tokens, queries and keys `[2, ..., heads, channels]`, what the heads say."""
    x = p["embed"][tokens]
    q, k, v = (np.einsum("btd,dhc->bthc", x, p[name]) for name in "qkv")
    weights = np.exp(np.einsum("bthc,bshc->bhts", q, k))
    said = np.einsum("bhts,bshc->bthc", weights / weights.sum(-1, keepdims=True), v)
    return x, np.stack([q, k]), said


def attention_similarities(a: Any, b: Any, x: np.ndarray, similarity: str) -> dict[str, np.ndarray]:
    """Heads by all their channels, channels head by head; three kernels read the embedding."""
    (embedded, asked, said), (embedded_b, asked_b, said_b) = (
        attention_inputs(a, x),
        attention_inputs(b, x),
    )
    if similarity == "activations":
        embed = centred(np.stack([embedded] * 3), np.stack([embedded_b] * 3))
        return {
            "embed": embed,
            "heads": centred(said, said_b, -2),
            "q": np.stack([centred(asked[..., h, :], asked_b[..., h, :]) for h in range(3)]),
            "v": np.stack([centred(said[..., h, :], said_b[..., h, :]) for h in range(3)]),
        }
    seen = embedded.reshape(-1, 6)

    def by_channel(names: str) -> np.ndarray:
        heads = ([(a[name][:, h], b[name][:, h], seen) for name in names] for h in range(3))
        return np.stack([products(similarity, terms) for terms in heads])

    by_head = [
        (a[name][..., c], b[name][..., c], seen) for name in "qkv" for c in range(a[name].shape[2])
    ]
    embed = products(similarity, [(a["embed"], b["embed"], np.eye(7)[x.ravel()])])
    return {
        "embed": embed,
        "heads": products(similarity, by_head),
        "q": by_channel("qk"),
        "v": by_channel("v"),
    }


def experts_similarities(a: Any, b: Any, x: np.ndarray, similarity: str) -> dict[str, np.ndarray]:
    """Experts by all their channels, channels expert by expert."""
    said, said_b = (relu(np.einsum("bd,edn->ebn", x, p["up"]), 0.1) for p in (a, b))
    if similarity == "activations":
        channels = np.stack([centred(*pair) for pair in zip(said, said_b, strict=True)])
        return {"experts": centred(said, said_b, 0), "up": channels}
    by_channel = [
        products(similarity, [(w_a, w_b, x)]) for w_a, w_b in zip(a["up"], b["up"], strict=True)
    ]
    by_expert = [(a["up"][..., c].T, b["up"][..., c].T, x) for c in range(5)]
    return {"experts": products(similarity, by_expert), "up": np.stack(by_channel)}


# the leaves' axes that each group acts on, and along which it varies; the first is one that it is
# known by
PLACES = {
    "stacked": {
        "in": (("in", 1, None), ("up", 1, None), ("down", 2, None), ("out", 0, None)),
        "up": (("up", 2, 0), ("down", 1, 0)),
    },
    "depthwise": {"c1": (("c1", 3, None),)},
    "attention": {
        "embed": (("embed", 1, None), ("q", 0, None), ("k", 0, None), ("v", 0, None)),
        "heads": (("q", 1, None), ("k", 1, None), ("v", 1, None), ("o", 0, None)),
        "q": (("q", 2, 1), ("k", 2, 1)),
        "v": (("v", 2, 1), ("o", 1, 0)),
    },
    "experts": {
        "experts": (("up", 0, None), ("down", 0, None)),
        "up": (("up", 2, 0), ("down", 1, 0)),
    },
}


def aligned(
    places: Any, b: dict[str, np.ndarray], p: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Every group of B permuted, heads before their channels."""
    b = dict(b)
    for role, q in p.items():
        for leaf, axis, batch in places[role]:
            shape = [1] * b[leaf].ndim
            for position, size in zip((axis, batch), q.shape[::-1], strict=False):
                shape[position] = size
            index = q if batch is None or batch < axis else q.T
            b[leaf] = np.take_along_axis(b[leaf], index.reshape(shape), axis)
    return b


REFERENCES = {
    "stacked": stacked_similarities,
    "depthwise": depthwise_similarities,
    "attention": attention_similarities,
    "experts": experts_similarities,
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.slow
def test_similarities_of_unusual_kernels(name: str, cases: Any) -> None:
    """With the other groups' permutations applied to B first."""
    case = cases[name]
    a, b = (case.params(seed) for seed in (1, 2))
    groups = {role: case.group(*places[0][:2]) for role, places in PLACES[name].items()}
    assert sorted(groups.values()) == sorted(case.spec.groups)
    permutations = random_permutations(jax.random.key(4), case.spec, a)
    found = similarities(case, a, b, permutations)
    for role, group in groups.items():
        others = {r: np.asarray(permutations[g]) for r, g in groups.items() if r != role}
        seen_b = aligned(PLACES[name], in_float64(b), others)
        for similarity in SIMILARITIES:
            expected = REFERENCES[name](in_float64(a), seen_b, case.x, similarity)[role]
            assert_similar(found[similarity][group], expected)


def test_other_groups_are_aligned_beside_a_fixed_stretch() -> None:
    """Heads whose channels are shuffled, but for the last, and put back."""
    heads = {
        "v": (None, writes("heads"), writes("channels")),
        "o": (reads("heads"), reads("channels") | fixed(1), None),
    }
    spec = PermutationSpec.from_axes(heads, inputs={"v": (0,), "o": (0, 1)})
    params = {"v": np.zeros((3, 2, 3), np.float32), "o": np.zeros((2, 4, 2), np.float32)}
    cross = np.random.default_rng(0).normal(size=(8, 2, 4))

    def similarity(cross: np.ndarray, channels: list[int]) -> jax.Array:
        eye = np.eye(8)
        seen = Moments(
            *map(jnp.float32, (30, np.zeros(8), np.zeros(8), eye, eye, cross.reshape(8, 8)))
        )
        permutations = {"heads": np.arange(2), "channels": np.array(channels)}
        options = {
            "similarity": Activations(ActivationMoments({"o": seen}, {})),
            "permutations": permutations,
        }
        return layer_similarity(spec, "heads", params, params, **options)

    assert_similar(
        similarity(cross[..., [2, 0, 1, 3]], [1, 2, 0]), np.asarray(similarity(cross, [0, 1, 2]))
    )
