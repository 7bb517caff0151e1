"""Exact matching layer by layer, against the paper's formulas and against shuffled copies."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from lmcjax import (
    ActivationMoments,
    BarrierResult,
    Covariance,
    Matching,
    Moments,
    PermutationSpec,
    Similarity,
    Weights,
    activation_moments,
    batched_loss,
    compose,
    cross_entropy_and_accuracy,
    invert,
    linear_barrier,
    match_layerwise,
    mlp_spec,
    permute,
    random_permutations,
    require_finite,
)
from lmcjax.matching import (
    SIMILARITIES,
    ActivationSimilarity,
    layer_similarity,
    similarity_from_name,
)
from lmcjax.symmetry import both, fixed, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.cache
def measure(network: Any) -> Any:
    """The moments of a pair, compiled once per architecture."""
    spec = mlp_spec(len(network.module.widths))

    def moments(a: Any, b: Any, inputs: Any) -> ActivationMoments:
        return activation_moments(network.apply, spec, a, b, inputs, batch_size=100)

    return jax.jit(moments)


@functools.cache
def jitted_match(spec: PermutationSpec, **options: Any) -> Any:
    """`match(params_a, params_b, similarity)`: similarities are traced arguments."""

    def match(a: Any, b: Any, similarity: Similarity) -> Matching:
        return match_layerwise(spec, a, b, similarity=similarity, **options)

    return jax.jit(match)


def matcher(network: Any, spec: PermutationSpec, name: str) -> Any:
    """`match(params_a, params_b, inputs)` by the similarity of this name."""

    def match(a: Any, b: Any, inputs: Any) -> Matching:
        moments = measure(network)(a, b, inputs)
        return jitted_match(spec)(a, b, similarity_from_name(name, moments))

    return match


@functools.cache
def shuffler(spec: PermutationSpec, seed: int) -> Any:
    """Random permutations of given parameters, and the parameters permuted by them."""

    def shuffle(params: Any) -> Any:
        p = random_permutations(jax.random.key(seed), spec, params)
        return p, permute(spec, p, params)

    return jax.jit(shuffle)


@functools.cache
def realigner(spec: PermutationSpec) -> Any:
    """The shuffle undone: its composition with what was found, and the realigned parameters."""
    return jax.jit(
        lambda found, p, shuffled: (compose(spec, found, p), permute(spec, found, shuffled))
    )


@functools.cache
def barrier(network: Any) -> Any:
    def of_pair(a: Any, b: Any, inputs: Any, labels: Any) -> BarrierResult:
        loss = batched_loss(network.apply, cross_entropy_and_accuracy, (inputs, labels))
        return linear_barrier(loss, a, b, num_points=5)

    return jax.jit(of_pair)


act = jax.jit(permute, static_argnums=0)


def activations(params: Any, inputs: np.ndarray) -> list[np.ndarray]:
    """phi_0 ... phi_L of a ReLU MLP in float64."""
    phi = [np.asarray(inputs, np.float64)]
    for layer in list(params.values())[:-1]:
        phi.append(
            np.maximum(
                phi[-1] @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"]), 0
            )
        )
    return phi


def second_moment(phi: np.ndarray) -> np.ndarray:
    return phi.T @ phi / (len(phi) - 1)


class Layer(NamedTuple):
    """What a formula compares: weights with a row per neuron, activations with one per sample."""

    w_a: np.ndarray
    w_b: np.ndarray  # its columns in the order of the layer before
    seen: np.ndarray  # by A's layer
    phi_a: np.ndarray
    phi_b: np.ndarray


def off_diagonal(joint: np.ndarray) -> np.ndarray:
    """Of a matrix of A's neurons and B's: A's rows, B's columns."""
    size = len(joint) // 2
    return joint[:size, size:]


# The similarities that the paper has, and correlation
FORMULAS: dict[str, Callable[[Layer], np.ndarray]] = {
    "weights": lambda layer: layer.w_a @ layer.w_b.T,
    "covariance": lambda layer: layer.w_a @ second_moment(layer.seen) @ layer.w_b.T,
    "activations": lambda layer: off_diagonal(np.cov(layer.phi_a.T, layer.phi_b.T)),
    "correlation": lambda layer: off_diagonal(np.corrcoef(layer.phi_a.T, layer.phi_b.T)),
}


def reference(
    a: Any, b: Any, inputs: np.ndarray, similarity: str, include_bias: bool = False
) -> dict[str, Any]:
    """Section 6 of the paper: per layer the similarity matrix and its best permutation."""
    phi_a, phi_b = activations(a, inputs), activations(b, inputs)
    before, matched = np.arange(phi_a[0].shape[1]), {}
    for layer, name in enumerate(list(a)[:-1], start=1):
        w_a, w_b = (np.asarray(p[name]["kernel"], np.float64).T for p in (a, b))
        w_b, seen = w_b[:, before], phi_a[layer - 1]
        if include_bias:
            w_a, w_b = (np.column_stack([w, p[name]["bias"]]) for w, p in ((w_a, a), (w_b, b)))
            seen = np.column_stack([seen, np.ones(len(seen))])
        matrix = FORMULAS[similarity](Layer(w_a, w_b, seen, phi_a[layer], phi_b[layer]))
        before = linear_sum_assignment(matrix, maximize=True)[1]
        matched[name] = (matrix, before)
    return matched


def with_dead_neurons(params: Any) -> Any:
    """Two neurons of each hidden layer never fire."""
    copy = jax.tree.map(np.array, params)
    for layer in list(copy.values())[:-1]:
        layer["bias"][[3, 7]] = -100
    return jax.tree.map(jnp.asarray, copy)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_shuffled_copy_is_recovered(similarity: str, pair: Any) -> None:
    """Every neuron by its weights, every live one by its activations, and the barrier to the
    aligned copy is 0.
    """
    params = with_dead_neurons(pair.params_a)
    p, shuffled = shuffler(pair.spec, 5)(params)
    matching = matcher(pair.network, pair.spec, similarity)(params, shuffled, pair.inputs)
    back, realigned = realigner(pair.spec)(matching.permutations, p, shuffled)
    for name, phi in zip(pair.spec.groups, activations(params, pair.inputs)[1:], strict=True):
        live = np.flatnonzero(phi.std(0) > 0)
        assert 8 < len(live) <= phi.shape[1] - 2
        recovered = np.flatnonzero(np.asarray(back[name]) == np.arange(phi.shape[1]))
        assert set(live) <= set(recovered)
        by_activations = issubclass(SIMILARITIES[similarity], ActivationSimilarity)
        assert by_activations or len(recovered) == phi.shape[1]
    measured = functools.partial(barrier(pair.network), inputs=pair.inputs, labels=pair.labels)
    aligned = measured(params, realigned)
    assert float(aligned.height) < 1e-5
    assert np.ptp(aligned.losses) < 1e-5
    assert float(measured(params, shuffled).height) > 0.1
    assert require_finite(matching) is matching


@pytest.mark.parametrize("similarity", FORMULAS)
def test_equals_the_papers_formulas(similarity: str, pair: Any) -> None:
    matching = matcher(pair.network, pair.spec, similarity)(
        pair.params_a, pair.params_b, pair.inputs
    )
    expected = reference(pair.params_a, pair.params_b, pair.inputs, similarity)
    for group, (matrix, p) in expected.items():
        np.testing.assert_array_equal(matching.permutations[group], p)
        assert float(matching.similarity[group]) == pytest.approx(
            matrix[np.arange(len(p)), p].sum(), rel=1e-4
        )
        assert float(matching.identity_similarity[group]) == pytest.approx(
            np.trace(matrix), rel=1e-3, abs=1e-3
        )
        assert float(matching.similarity[group]) > float(matching.identity_similarity[group])
        assert matching.permutations[group].dtype == jnp.int32


def test_with_bias_equals_the_formula_with_a_column_appended(pair: Any) -> None:
    moments = measure(pair.network)(*pair[2:5])
    similarity = Covariance(moments, include_bias=True)
    matching = jitted_match(pair.spec)(*pair[2:4], similarity)
    expected = reference(*pair[2:5], "covariance", include_bias=True)
    for group, (matrix, p) in expected.items():
        np.testing.assert_array_equal(matching.permutations[group], p)
        assert float(matching.similarity[group]) == pytest.approx(
            matrix[np.arange(len(p)), p].sum(), rel=1e-4
        )
    without = reference(*pair[2:5], "covariance")
    assert any(not np.array_equal(expected[g][1], without[g][1]) for g in expected)


@pytest.mark.usefixtures("strict_promotion")
def test_covariance_matching_with_identity_moments_is_weight_matching(pair: Any) -> None:
    def identity(n: int) -> Moments:
        zeros, eye = np.zeros(n, np.float32), np.eye(n, dtype=np.float32)
        return Moments(np.float32(2), zeros, zeros, eye, eye, eye)  # divided by N - 1 = 1

    fan_in = {f"{name}/kernel": len(layer["kernel"]) for name, layer in pair.params_a.items()}
    moments = ActivationMoments({name: identity(n) for name, n in fan_in.items()}, {})
    match = jitted_match(pair.spec)
    by_covariance = match(*pair[2:4], Covariance(moments))
    by_weights = match(*pair[2:4], Weights())
    chex.assert_trees_all_close(by_covariance, by_weights, rtol=1e-5)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_shuffling_b_first_changes_nothing(similarity: str, pair: Any) -> None:
    """The aligned network is the same to the bit."""
    match = matcher(pair.network, pair.spec, similarity)
    _, shuffled = shuffler(pair.spec, 5)(pair.params_b)
    aligned = [
        act(pair.spec, match(pair.params_a, b, pair.inputs).permutations, b)
        for b in (pair.params_b, shuffled)
    ]
    chex.assert_trees_all_equal(*aligned)


def test_the_device_backend_finds_the_same(small_pairs: Any) -> None:
    """The first two layers alone are an MLP with one hidden layer."""
    a, b = (
        {
            name: jax.tree.map(lambda v: np.asarray(v)[0], side[name])
            for name in ("Dense_0", "Dense_1")
        }
        for side in small_pairs[2:4]
    )
    matches = [
        jitted_match(mlp_spec(1), backend=backend)(a, b, Weights())
        for backend in ("scipy", "device")
    ]
    chex.assert_trees_all_equal(*matches)


def test_half_precision_parameters_count_in_float32(pair: Any) -> None:
    half = [
        jax.tree.map(lambda v: np.asarray(v).astype(jnp.bfloat16), p)
        for p in (pair.params_a, pair.params_b)
    ]
    single = [jax.tree.map(lambda v: v.astype(np.float32), p) for p in half]
    matches = [jitted_match(pair.spec)(*p, Weights()) for p in (half, single)]
    chex.assert_trees_all_equal(*matches)
    chex.assert_trees_all_equal_dtypes(*matches)


def test_double_precision_stays_double(pair: Any, x64: None) -> None:
    a, b = (jax.tree.map(jnp.float64, p) for p in (pair.params_a, pair.params_b))
    matching = jitted_match(pair.spec)(a, b, Weights())
    for group, (matrix, p) in reference(a, b, pair.inputs, "weights").items():
        assert matching.similarity[group].dtype == jnp.float64
        assert float(matching.similarity[group]) == pytest.approx(
            matrix[np.arange(len(p)), p].sum(), rel=1e-12
        )


def convolutional(rng: np.random.Generator) -> dict[str, jax.Array]:
    """Two convolutions and a shortcut that write one group after another, as lists of axes say."""
    shapes = {"c1": (3, 3, 2, 6), "c2": (3, 3, 6, 5), "shortcut": (2, 5), "head": (5, 3)}
    return {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
    }


CONVOLUTIONAL = PermutationSpec.from_axes(
    {
        "c1": (None, None, None, writes("g")),
        "c2": (None, None, reads("g"), writes("h")),
        "shortcut": (None, writes("h")),
        "head": (reads("h"), None),
    }
)


@pytest.mark.usefixtures("strict_promotion")
def test_kernels_of_any_rank_and_several_per_group_add_up(rng: np.random.Generator) -> None:
    a, b = convolutional(rng), convolutional(rng)
    matching = jitted_match(CONVOLUTIONAL)(a, b, Weights())
    first = linear_sum_assignment(np.einsum("hwio,hwip->op", a["c1"], b["c1"]), maximize=True)[1]
    aligned = np.asarray(b["c2"])[:, :, first]
    both = np.einsum("hwio,hwip->op", a["c2"], aligned) + np.asarray(a["shortcut"]).T @ np.asarray(
        b["shortcut"]
    )
    np.testing.assert_array_equal(matching.permutations["g"], first)
    np.testing.assert_array_equal(
        matching.permutations["h"], linear_sum_assignment(both, maximize=True)[1]
    )
    similarity = layer_similarity(
        CONVOLUTIONAL, "h", a, b, similarity=Weights(), permutations=matching.permutations
    )
    np.testing.assert_allclose(similarity, both, rtol=1e-4, atol=1e-4)


def test_every_layers_assignment_is_certified(pair: Any) -> None:
    """With the earlier layers in place; the bound of the certificate is what was reached."""
    match = jitted_match(pair.spec, certify=True)
    matching = match(pair.params_a, pair.params_b, Weights())
    assert set(matching.certificates) == set(matching.permutations)
    for group, proof in matching.certificates.items():
        assert proof.optimal
        bound = float(proof.row_potentials.sum() + proof.column_potentials.sum())
        assert bound == pytest.approx(float(matching.similarity[group]), rel=1e-4)


def moments(n: int) -> Moments:
    """Of n features, of which nothing but the number matters."""
    vector = jnp.zeros(n)
    matrix = jnp.eye(n)
    return Moments(jnp.float32(9), vector, vector, matrix, matrix, matrix)


def of_kernels(sizes: dict[str, int]) -> ActivationMoments:
    return ActivationMoments({name: moments(n) for name, n in sizes.items()}, {})


GOOD = {"Dense_0/kernel": 12, "Dense_1/kernel": 24, "Dense_2/kernel": 20, "Dense_3/kernel": 16}
FIRST = {"Dense_0/kernel": 12}


@pytest.mark.usefixtures("unchecked", "strict_promotion")
@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        (
            "activations",
            FIRST,
            r"no moments.*activations of group 'Dense_0'.*\['Dense_0/kernel'\]",
        ),
        (
            "covariance",
            FIRST,
            r"no moments.*kernel 'Dense_1/kernel', only for \['Dense_0/kernel'\]",
        ),
        (
            "covariance",
            GOOD | {"Dense_1/kernel": 5},
            r"'Dense_1/kernel' has 24 inputs.* of 5",
        ),
        (
            "activations",
            GOOD | {"Dense_2/kernel": 5},
            r"'Dense_2/kernel' has 20 features.* of 5",
        ),
    ],
)
def test_options_and_moments_that_do_not_fit(
    name: str, sizes: dict[str, int], message: str, pair: Any
) -> None:
    """What is wrong shows when the matching is traced, before anything is computed."""
    similarity = similarity_from_name(name, of_kernels(sizes))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(jitted_match(pair.spec), pair.params_a, pair.params_b, similarity)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_backend_is_named(pair: Any) -> None:
    match = jitted_match(pair.spec, backend="gurobi")
    with pytest.raises(ValueError, match="'gurobi'"):
        jax.eval_shape(match, pair.params_a, pair.params_b, Weights())


@pytest.mark.usefixtures("unchecked")
def test_only_dense_layers_with_a_bias_include_it(pair: Any, rng: np.random.Generator) -> None:
    moments = of_kernels({"c1": 18, "c2": 54, "shortcut": 2, "head": 5})
    similarity = Covariance(moments, include_bias=True)
    a = convolutional(rng)
    message = r"one dense kernel and one bias for group 'g', not \['c1'\] and \[\]"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(jitted_match(CONVOLUTIONAL), a, a, similarity)


@pytest.mark.usefixtures("strict_promotion")
def test_numpy_parameters_are_parameters(rng: np.random.Generator) -> None:
    """As `safetensors.numpy.load_file` gives them; not jitted."""
    shapes = {
        "Dense_0/kernel": (3, 4),
        "Dense_0/bias": (4,),
        "Dense_1/kernel": (4, 2),
        "Dense_1/bias": (2,),
    }
    a, b = (
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        for _ in "ab"
    )
    expected = linear_sum_assignment(a["Dense_0/kernel"].T @ b["Dense_0/kernel"], maximize=True)[1]
    matching = match_layerwise(mlp_spec(1), a, b, similarity=Weights())
    np.testing.assert_array_equal(matching.permutations["Dense_0"], expected)


@pytest.mark.parametrize(
    ("axes", "shapes"),
    [
        (
            {"b": (writes("h"),), "w2": (reads("g"), writes("h")), "w1": (None, writes("g"))},
            {"w2": (3, 4), "w1": (2, 3), "b": (4,)},
        ),
        ({"w": (None, writes("g") * fixed(2))}, {"w": (3, 8)}),
        ({"w": (None, fixed(1) | writes("g"))}, {"w": (3, 8)}),
        ({"w": (fixed("layers"), None, writes("g", along="layers"))}, {"w": (2, 3, 4)}),
        ({"w": (both("g"),)}, {"w": (4,)}),
        ({"w": (reads("g"), writes("g")), "v": (None, writes("g"))}, {"w": (4, 4), "v": (3, 4)}),
    ],
    ids=["readers first", "blocks", "a segment", "stacked layers", "vectors only", "recurrent"],
)
@pytest.mark.slow
@pytest.mark.usefixtures("strict_promotion")
def test_specs_of_every_form_are_followed(axes: Any, shapes: Any, rng: np.random.Generator) -> None:
    """A shuffled copy is recovered exactly."""
    params = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
    }
    spec = PermutationSpec.from_axes(axes).bind(params)
    planted = random_permutations(jax.random.key(0), spec)
    shuffled = permute(spec, invert(spec, planted), params)
    matching = match_layerwise(spec, params, shuffled, similarity=Weights())
    chex.assert_trees_all_equal(matching.permutations, planted)
    assert matching.converged
