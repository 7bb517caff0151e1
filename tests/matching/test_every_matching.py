"""What every matching keeps to: one result, valid permutations, and a nan that stays alone."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import (
    ActivationMoments,
    Covariance,
    Matching,
    PermutationSpec,
    Weights,
    activation_moments,
    identity_permutations,
    invert,
    load_matching,
    matching,
    permute,
    random_permutations,
    require_finite,
    save_matching,
)
from lmcjax.symmetry import apply_soft

pytestmark = pytest.mark.usefixtures("quick_compilation")


@dataclasses.dataclass(frozen=True, eq=False)
class Cosine(matching.KernelSimilarity):
    """A user's own: the cosines of incoming weights."""

    def compare(self, rows_a: jax.Array, rows_b: jax.Array) -> jax.Array:
        unit_a = rows_a / jnp.linalg.norm(rows_a, axis=-1, keepdims=True)
        unit_b = rows_b / jnp.linalg.norm(rows_b, axis=-1, keepdims=True)
        return jnp.matmul(unit_a, jnp.swapaxes(unit_b, -1, -2))


@dataclasses.dataclass(frozen=True, eq=False)
class SortedWeights(matching.Similarity):
    """A user's own: incoming weights in ascending order, whatever the order of the inputs."""

    power: jax.Array

    def terms(self, pair: matching.Pair, group: str) -> list[matching.Term]:
        terms = []
        writers_a = pair.spec.writers(group)
        writers_b = pair.spec_b.writers(group)
        for (_, place_a), (_, place_b) in zip(writers_a, writers_b, strict=True):
            sorted_a = self.sort(place_a, pair.leaves_a)
            sorted_b = self.sort(place_b, pair.leaves_b)
            product = jnp.matmul(sorted_a, jnp.swapaxes(sorted_b, -1, -2))
            terms.append(matching.Term(frozenset(), functools.partial(given, product)))
        return terms

    def sort(self, place: Any, leaves: dict[str, Any]) -> jax.Array:
        leaf = jnp.asarray(leaves[place.leaf])
        rows = place.rows(leaf, range(leaf.ndim))
        return jnp.sort(jnp.sign(rows) * jnp.abs(rows) ** self.power, axis=-1)


def given(matrix: jax.Array, alignments: Any) -> jax.Array:
    """A term that depends on no other group."""
    del alignments
    return matrix


def by_layers(
    *pair: Any, key: Any, moments: ActivationMoments, name: matching.SimilarityName
) -> Matching:
    similarity = matching.similarity_from_name(name, moments)
    certify = name != "weights"
    return matching.match_layerwise(*pair, similarity=similarity, certify=certify)


def by_cosine(*pair: Any, key: Any, moments: ActivationMoments) -> Matching:
    return matching.match_layerwise(*pair, similarity=Cosine())


def by_restarts(*pair: Any, key: Any, moments: ActivationMoments) -> Matching:
    options = {"order": pair[0].groups, "restarts": 5, "certify": True}
    return matching.match_coordinate_descent(*pair, key=key, **options)


def in_a_metric(*pair: Any, key: Any, moments: ActivationMoments) -> Matching:
    similarity = Covariance(moments)
    return matching.match_coordinate_descent(*pair, similarity=similarity, certify=True)


def by_frank_wolfe(*pair: Any, key: Any, moments: ActivationMoments) -> Matching:
    return matching.match_frank_wolfe(*pair, key=key, init="random", certify=True)


def softly(*pair: Any, key: Any, moments: ActivationMoments, **options: Any) -> Matching:
    return matching.match_soft(*pair, similarity=Weights(), **options)


def softly_by_sorted_weights(*pair: Any, key: Any, moments: ActivationMoments) -> Matching:
    return matching.match_soft(*pair, similarity=SortedWeights(jnp.float32(1.5)))


def by_covariance_distance(*pair: Any, key: Any, moments: ActivationMoments) -> Matching:
    loss = matching.covariance_distance(pair[0], Covariance(moments))
    return matching.match_sinkhorn(*pair, loss=loss, num_iterations=100, temperature=0.6)


def by_sinkhorn(*pair: Any, key: Any, moments: ActivationMoments) -> Matching:
    return matching.match_sinkhorn(*pair, key=key, num_iterations=60, temperature=0.6)


def straight_through(*pair: Any, key: Any, moments: ActivationMoments) -> Matching:
    return matching.match_straight_through(*pair, key=key, num_iterations=5)


def by_annealing(*pair: Any, key: Any, moments: ActivationMoments) -> Matching:
    return matching.match_annealing(*pair, key=key, num_iterations=2000)


# match(spec, params_a, params_b, key=..., moments=...)
MATCHINGS: dict[str, Callable[..., Matching]] = {
    "layerwise, weights": functools.partial(by_layers, name="weights"),
    "layerwise, covariance": functools.partial(by_layers, name="covariance"),
    "layerwise, activations": functools.partial(by_layers, name="activations"),
    "layerwise, correlation": functools.partial(by_layers, name="correlation"),
    "layerwise, a user's own": by_cosine,
    "coordinate descent": by_restarts,
    "coordinate descent, covariance": in_a_metric,
    "frank-wolfe": by_frank_wolfe,
    "soft": softly,
    "soft, entropic": functools.partial(softly, temperature=0.3),
    "soft, a user's own": softly_by_sorted_weights,
    "sinkhorn, covariance": by_covariance_distance,
    "sinkhorn": by_sinkhorn,
    "straight-through": straight_through,
    "annealing": by_annealing,
}


@functools.cache
def batch(name: str, spec: Any) -> Callable[..., Matching]:
    """The matching of a batch of pairs, in one program."""

    def match(a: Any, b: Any, key: Any, moments: Any) -> Matching:
        return MATCHINGS[name](spec, a, b, key=key, moments=moments)

    return jax.jit(jax.vmap(match))


@pytest.fixture(scope="module")
def three(small_pairs: Any) -> tuple[Any, ...]:
    """A network and itself shuffled, and two ordinary pairs, in one batch.

    Returns the spec, A, B, B with a nan in the second pair, the shuffle, and the moments with B
    and with the spoilt B. Among the parameters are a random key and a counter, which no group
    touches.
    """
    spec = PermutationSpec.from_axes({**dict(small_pairs.spec.leaves), "rng": (), "step": ()})
    a = {
        **small_pairs.params_a,
        "rng": jax.random.split(jax.random.key(1), 3),
        "step": jnp.arange(3) + 10**6,
    }
    b = jax.tree.map(np.array, small_pairs.params_b)
    first = jax.tree.map(lambda v: v[0], a)
    planted = random_permutations(jax.random.key(7), spec, first)
    shuffled = permute(spec, invert(spec, planted), first)
    for whole, one in zip(
        jax.tree.leaves(b), jax.tree.leaves({n: shuffled[n] for n in b}), strict=True
    ):
        whole[0] = one
    spoilt = jax.tree.map(np.array, b)
    b, spoilt = (
        {**p, "rng": jax.random.split(jax.random.key(2), 3), "step": jnp.arange(3)}
        for p in (b, spoilt)
    )
    spoilt["Dense_0"]["kernel"][1, 0, 0] = np.nan
    seen = jax.jit(
        jax.vmap(
            lambda a, b: activation_moments(
                small_pairs.network.apply, spec, a, b, small_pairs.inputs
            )
        )
    )
    return spec, a, b, spoilt, planted, seen(a, b), seen(a, spoilt)


@pytest.mark.parametrize("name", MATCHINGS)
def test_one_contract(name: str, three: Any, tmp_path: Path) -> None:
    spec, a, b, spoilt_b, planted, moments, spoilt_moments = three
    match = batch(name, spec)
    keys = jax.random.split(jax.random.key(0), 3)
    clean = match(a, b, keys, moments)
    spoilt = match(a, spoilt_b, keys, spoilt_moments)

    assert isinstance(clean, Matching)
    assert set(clean.similarity) == set(spec.groups)
    assert clean.iterations.shape == (3,)
    assert (clean.iterations >= 1).all()
    check_that_a_nan_stays_alone(clean, spoilt)
    check_that_the_shuffle_is_undone(clean, spoilt, planted)
    check_that_it_is_better_than_nothing(clean)
    if name in ("soft", "soft, a user's own"):  # exact plans join the shuffled copy again
        check_that_the_copy_is_joined(spec, a, b, clean)
    save_matching(tmp_path / "matching", clean)
    chex.assert_trees_all_equal(load_matching(tmp_path / "matching"), clean)


def check_that_a_nan_stays_alone(clean: Matching, spoilt: Matching) -> None:
    """A nan in the second pair is said, and has changed no bit of the others."""
    assert clean.finite.tolist() == clean.converged.tolist() == [True, True, True]
    assert spoilt.finite.tolist() == spoilt.converged.tolist() == [True, False, True]
    others = [jax.tree.map(lambda v: np.asarray(v)[::2], m) for m in (spoilt, clean)]
    chex.assert_trees_all_equal(*others)
    with pytest.raises(ValueError, match=r"finite is False at \[1\]"):
        require_finite(spoilt)


def check_that_the_shuffle_is_undone(clean: Matching, spoilt: Matching, planted: Any) -> None:
    """There are permutations, of a nan too, or alignments."""
    for group in clean.permutations:
        for found in (clean.permutations[group], spoilt.permutations[group]):
            assert (np.sort(found) == np.arange(found.shape[-1])).all()
        np.testing.assert_array_equal(clean.permutations[group][0], planted[group])
    for matrix in (clean.alignments or {}).values():
        np.testing.assert_allclose(matrix[::2].sum(-1), 1, atol=2e-3)
        np.testing.assert_allclose(matrix[::2].sum(-2), 1, atol=2e-3)


def check_that_the_copy_is_joined(spec: PermutationSpec, a: Any, b: Any, clean: Matching) -> None:
    a, b, alignments = jax.tree.map(lambda v: v[0], (a, b, clean.alignments))
    joined = apply_soft(spec, alignments, b)
    assert (joined["rng"], joined["step"]) == (b["rng"], b["step"])
    for layer in ("Dense_0", "Dense_1", "Dense_2"):
        chex.assert_trees_all_close(joined[layer], a[layer], atol=1e-4)


def check_that_it_is_better_than_nothing(clean: Matching) -> None:
    """What was made large or small is better than with B left alone."""
    if clean.search is not None:
        assert (clean.search.loss <= clean.search.identity_loss)[::2].all()
        assert float(clean.search.loss[0]) == pytest.approx(0, abs=1e-6)
        assert clean.search.trace.ndim == 2
    elif clean.total is not None:
        assert (clean.total.reached >= clean.total.identity).all()
    else:
        for group, in_place in clean.identity_similarity.items():
            assert (clean.similarity[group] >= in_place - 1e-4).all()
    for proof in (clean.certificates or {}).values():
        assert proof.optimal[::2].all()


EXACT = (
    "layerwise, weights",
    "layerwise, covariance",
    "coordinate descent",
    "coordinate descent, covariance",
    "frank-wolfe",
)
UNITS = {  # powers of two that multiply A, and B, of three copies of one pair
    "smallest and largest": ((0, -100, 100), (0, -100, 100)),
    "squares at the ends of float32": ((0, -63, 63), (0, -63, 63)),
    "near one": ((0, -10, 10), (0, -10, 10)),
    "one network far from the other": ((0, 100, -100), (0, -100, 0)),
}


def multiplied(networks: Any, chosen: list[int], factors: Any) -> Any:
    """Some networks of a batch, each times its own factor; keys and counters as they are."""

    def scale(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf[jnp.array(chosen)]
        shape = (-1, *[1] * (leaf.ndim - 1))
        return np.asarray(leaf)[chosen] * np.asarray(factors, np.float32).reshape(shape)

    return jax.tree.map(scale, networks)


def written_in_float32(values: np.ndarray) -> np.ndarray:
    """Of float64: inf where float32 has nothing so large, nan where it has nothing so small."""
    limits = np.finfo(np.float32)
    values = np.where(np.abs(values) > limits.max, np.sign(values) * np.inf, values)
    return np.where((values != 0) & (np.abs(values) < limits.tiny), np.nan, values)


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", EXACT)
def test_the_unit_of_the_weights_changes_nothing(name: str, units: str, three: Any) -> None:
    """Nothing but the exponents of the similarities, to the last bit."""
    spec, a, b, _, _, moments, _ = three
    powers_a, powers_b = (np.array(powers) for powers in UNITS[units])
    copies = [1, 1, 1]
    found = batch(name, spec)(
        multiplied(a, copies, np.ldexp(1.0, powers_a)),
        multiplied(b, copies, np.ldexp(1.0, powers_b)),
        jax.random.split(jax.random.key(0), 3)[jnp.array(copies)],
        jax.tree.map(lambda leaf: leaf[jnp.array(copies)], moments),
    )
    assert found.finite.tolist() == found.converged.tolist() == [True, True, True]
    assert len(set(found.iterations.tolist())) == 1
    for p in found.permutations.values():
        np.testing.assert_array_equal(p, np.broadcast_to(p[0], p.shape))
    values = [*found.similarity.values(), *found.identity_similarity.values()]
    if found.total is not None:
        values += [found.total.reached, found.total.identity]
    for value in values:
        exact = np.ldexp(np.float64(value[0]), powers_a + powers_b)
        np.testing.assert_array_equal(value, written_in_float32(exact))
    for proof in (found.certificates or {}).values():
        assert proof.optimal.all()


@pytest.mark.parametrize("name", EXACT)
def test_shuffles_of_tiny_and_of_huge_weights_are_undone(name: str, three: Any) -> None:
    spec, a, b, _, planted, moments, _ = three
    sizes, copies = [1e-22, 1e-19, 1e19], [0, 0, 0]
    found = batch(name, spec)(
        multiplied(a, copies, sizes),
        multiplied(b, copies, sizes),
        jax.random.split(jax.random.key(0), 3),
        jax.tree.map(lambda leaf: leaf[jnp.array(copies)], moments),
    )
    assert found.finite.tolist() == found.converged.tolist() == [True, True, True]
    for group, p in found.permutations.items():
        np.testing.assert_array_equal(p, np.broadcast_to(planted[group], p.shape))
        assert np.isnan(found.similarity[group][0])
    for proof in (found.certificates or {}).values():
        assert proof.optimal.all()


@pytest.mark.parametrize("name", EXACT)
def test_networks_of_zeros_have_similarities_of_exactly_zero(name: str, three: Any) -> None:
    """Both, or one, which is tiny or huge; no nan, which would say that digits were lost."""
    spec, a, b, _, _, moments, _ = three
    found = batch(name, spec)(
        multiplied(a, [0, 1, 2], [0, 0, 1e19]),
        multiplied(b, [0, 1, 2], [0, 1e-22, 0]),
        jax.random.split(jax.random.key(0), 3),
        moments,
    )
    assert found.finite.tolist() == found.converged.tolist() == [True, True, True]
    for value in (*found.similarity.values(), *found.identity_similarity.values()):
        assert value.tolist() == [0, 0, 0]


def test_the_unit_of_the_moments_changes_no_covariance_matching(three: Any) -> None:
    """Activations times 2^-50 and 2^50, of weights times 2^100 and 2^-100."""
    spec, a, b, _, _, moments, _ = three
    copies, of_weights, of_moments = [1, 1, 1], np.array([0, 100, -100]), np.array([0, -50, 50])
    seen = jax.tree.map(lambda leaf: leaf[jnp.array(copies)], moments)
    inputs = {}
    for kernel, m in seen.inputs.items():
        means = {
            field: multiplied(getattr(m, field), [0, 1, 2], np.ldexp(1.0, of_moments))
            for field in m._fields[1:3]
        }
        sums = {
            field: multiplied(getattr(m, field), [0, 1, 2], np.ldexp(1.0, 2 * of_moments))
            for field in m._fields[3:]
        }
        inputs[kernel] = m._replace(**means, **sums)
    found = batch("layerwise, covariance", spec)(
        multiplied(a, copies, np.ldexp(1.0, of_weights)),
        multiplied(b, copies, np.ldexp(1.0, of_weights)),
        jax.random.split(jax.random.key(0), 3),
        seen._replace(inputs=inputs),
    )
    assert found.finite.all()
    for group, p in found.permutations.items():
        np.testing.assert_array_equal(p, np.broadcast_to(p[0], p.shape))
        exact = np.ldexp(np.float64(found.similarity[group][0]), 2 * (of_weights + of_moments))
        np.testing.assert_allclose(found.similarity[group], exact, rtol=1e-6)
        assert found.certificates[group].optimal.all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", MATCHINGS)
def test_a_leaf_that_does_not_fit_is_named(name: str, three: Any) -> None:
    spec, a, b, _, _, moments, _ = jax.tree.map(lambda v: v[0] if hasattr(v, "dtype") else v, three)
    wrong = {**b, "Dense_1": {**b["Dense_1"], "bias": jnp.zeros(7)}}
    with pytest.raises(ValueError, match="Dense_1/bias"):
        jax.eval_shape(
            lambda: MATCHINGS[name](spec, a, wrong, key=jax.random.key(0), moments=moments)
        )
    lacks = [{n: leaf for n, leaf in p.items() if n != "Dense_2"} for p in (a, b)]
    with pytest.raises(ValueError, match="Dense_2"):
        jax.eval_shape(
            lambda: MATCHINGS[name](spec, *lacks, key=jax.random.key(0), moments=moments)
        )


def single(three: Any) -> tuple[Any, ...]:
    """The second pair of the three, and its moments: `(spec, a, b, moments)`."""
    spec, a, b, _, _, moments, _ = jax.tree.map(lambda v: v[1] if hasattr(v, "dtype") else v, three)
    return spec, a, b, moments


@pytest.mark.parametrize("name", MATCHINGS)
def test_programs_for_other_platforms_have_no_callback_and_no_float64(
    name: str, three: Any, exported_text: Callable
) -> None:
    """Lowered here, on a CPU, for a GPU and a TPU."""
    spec, a, b, moments = single(three)

    def match(a: Any, b: Any, key: Any, moments: Any) -> Any:
        return tuple(MATCHINGS[name](spec, a, b, key=key, moments=moments))

    text = exported_text(match, ["cuda", "tpu"], a, b, jax.random.key(0), moments)
    assert "callback" not in text
    assert "f64" not in text


def covariance_distance(spec: Any, a: Any, b: Any, *, key: Any, moments: Any) -> Any:
    return matching.covariance_distance(spec, Covariance(moments))(a, b, key)


def weight_distance(spec: Any, a: Any, b: Any, *, key: Any, moments: Any) -> Any:
    return matching.weight_distance(a, b)


def weight_inner_product(spec: Any, a: Any, b: Any, *, key: Any, moments: Any) -> Any:
    return matching.weight_inner_product(spec, identity_permutations(spec, a), a, b)


def weight_similarity(spec: Any, a: Any, b: Any, *, key: Any, moments: Any) -> Any:
    in_place = identity_permutations(spec, a)
    return matching.weight_similarity(spec, "Dense_0", a, b, permutations=in_place)


def layer_similarity(spec: Any, a: Any, b: Any, *, key: Any, moments: Any) -> Any:
    return matching.layer_similarity(spec, "Dense_0", a, b, similarity=Weights())


def approximate_dimensions(spec: Any, a: Any, b: Any, *, key: Any, moments: Any) -> Any:
    dimensions_a = matching.approximate_dimensions(spec, a, similarity=Weights())
    return dimensions_a, matching.approximate_dimensions(spec, b, similarity=Weights())


# compare(spec, params_a, params_b, key=..., moments=...)
COMPARED: dict[str, Callable[..., Any]] = {
    "weight_distance": weight_distance,
    "covariance_distance": covariance_distance,
    "weight_inner_product": weight_inner_product,
    "weight_similarity": weight_similarity,
    "layer_similarity": layer_similarity,
    "approximate_dimensions": approximate_dimensions,
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", [*MATCHINGS, *COMPARED])
def test_a_complex_leaf_is_named(name: str, three: Any) -> None:
    """Of either network: the imaginary part would be lost."""
    spec, a, b, moments = single(three)
    compare = (MATCHINGS | COMPARED)[name]
    for side in (0, 1):
        networks = [a, b]
        kernel = np.asarray(networks[side]["Dense_1"]["kernel"], np.complex64)
        networks[side] = {
            **networks[side],
            "Dense_1": {**networks[side]["Dense_1"], "kernel": kernel},
        }
        with pytest.raises(ValueError, match="'Dense_1/kernel' is complex64"):
            jax.eval_shape(
                lambda n=networks: compare(spec, *n, key=jax.random.key(0), moments=moments)
            )


def test_complex_weights_of_leaves_are_refused(three: Any) -> None:
    spec, a, b, _ = single(three)
    weights = {"Dense_0/kernel": np.complex64(1j)}
    with pytest.raises(ValueError, match="complex64"):
        matching.match_coordinate_descent(spec, a, b, leaf_weights=weights)


COUNTS = {  # what takes each of these numbers
    "num_iterations": (
        "match_sinkhorn",
        "match_straight_through",
        "match_annealing",
        "match_soft",
    ),
    "iterations_per_projection": ("match_straight_through",),
    "max_iterations": ("match_layerwise", "match_coordinate_descent", "match_frank_wolfe"),
    "restarts": ("match_coordinate_descent",),
}


@pytest.mark.parametrize("count", COUNTS)
def test_nothing_is_done_less_than_once(count: str, three: Any) -> None:
    spec, a, b, _ = single(three)
    required = {
        "match_annealing": {"key": jax.random.key(0)},
        "match_layerwise": {"similarity": Weights()},
        "match_soft": {"similarity": Weights()},
    }
    for name in COUNTS[count]:
        options = {count: 0, **required.get(name, {})}
        with pytest.raises(ValueError, match=f"{count} is at least 1, not 0"):
            getattr(matching, name)(spec, a, b, **options)


def test_certificates_are_made_on_request_only() -> None:
    """By every function that can make them."""
    can_certify = set()
    for name, function in vars(matching).items():
        if name.startswith("match_"):
            parameters = inspect.signature(function).parameters
            if "certify" in parameters:
                can_certify.add(name)
                assert parameters["certify"].default is False
    assert can_certify == {
        "match_layerwise",
        "match_pair",
        "match_coordinate_descent",
        "match_frank_wolfe",
    }
