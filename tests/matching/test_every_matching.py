"""What every matching keeps to: one result type, valid permutations, saved and loaded, and a nan that stays alone."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import (
    Matching,
    PermutationSpec,
    activation_moments,
    identity_permutations,
    invert,
    matching,
    permute,
    random_permutations,
    require_finite,
)
from lmcjax.symmetry import apply_soft

pytestmark = pytest.mark.usefixtures("quick_compilation")

SEARCHES = {
    "sinkhorn": functools.partial(matching.match_sinkhorn, num_steps=60, temperature=0.6),
    "straight-through": functools.partial(matching.match_straight_through, num_steps=5),
    "annealing": functools.partial(matching.match_annealing, num_steps=2000),
}
MATCHINGS: dict[
    str, Callable[..., Matching]
] = {  # match(spec, params_a, params_b, key=..., moments=...)
    "layerwise, weights": lambda *pair, key, moments: matching.match_layerwise(
        *pair, similarity="weights"
    ),
    **{
        f"layerwise, {similarity}": functools.partial(
            lambda *pair, key, moments, similarity: matching.match_layerwise(
                *pair, similarity=similarity, moments=moments, certify=True
            ),
            similarity=similarity,
        )
        for similarity in ("covariance", "activations", "correlation")
    },
    "weights": lambda *pair, key, moments: matching.match_weights(
        *pair, key=key, order=pair[0].groups, restarts=5
    ),
    "weights, metric": lambda *pair, key, moments: matching.match_weights(*pair, metric=moments),
    "frank-wolfe": lambda *pair, key, moments: matching.match_frank_wolfe(
        *pair, key=key, init="random"
    ),
    "soft": lambda *pair, key, moments: matching.match_soft(*pair, similarity="weights"),
    "soft, entropic": lambda *pair, key, moments: matching.match_soft(
        *pair, similarity="weights", temperature=0.3
    ),
    "sinkhorn, covariance": lambda *pair, key, moments: matching.match_sinkhorn(
        *pair,
        objective=matching.covariance_distance(pair[0], moments),
        num_steps=100,
        temperature=0.6,
    ),
    **{
        name: functools.partial(
            lambda *pair, key, moments, search: search(*pair, key=key), search=search
        )
        for name, search in SEARCHES.items()
    },
}


@functools.cache
def batch(name: str, spec: Any) -> Callable[..., Matching]:
    """Of pairs, in one program."""
    return jax.jit(
        jax.vmap(lambda a, b, key, moments: MATCHINGS[name](spec, a, b, key=key, moments=moments))
    )


@pytest.fixture(scope="module")
def three(small_pairs: Any) -> tuple[Any, ...]:
    """A network and itself shuffled, and two ordinary pairs; the shuffle, moments, and moments with a nan.

    Among the parameters are a random key and a counter, which no group touches.
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
    match, keys = batch(name, spec), jax.random.split(jax.random.key(0), 3)
    clean, spoilt = match(a, b, keys, moments), match(a, spoilt_b, keys, spoilt_moments)

    # one type, in which a nan in one pair is said, and has changed no bit of the others
    assert isinstance(clean, Matching)
    assert clean.finite.tolist() == clean.converged.tolist() == [True, True, True]
    assert spoilt.finite.tolist() == spoilt.converged.tolist() == [True, False, True]
    chex.assert_trees_all_equal(
        *(jax.tree.map(lambda v: np.asarray(v)[::2], m) for m in (spoilt, clean))
    )
    with pytest.raises(ValueError, match=r"finite is False at \[1\]"):
        require_finite(spoilt)

    # permutations, of a nan too, or alignments; the shuffle is undone
    assert set(clean.objective) == set(spec.groups)
    assert clean.iterations.shape == (3,)
    assert (clean.iterations >= 1).all()
    for group in clean.permutations:
        for found in (clean, spoilt):
            assert (
                np.sort(found.permutations[group]) == np.arange(found.permutations[group].shape[-1])
            ).all()
        np.testing.assert_array_equal(clean.permutations[group][0], planted[group])
    if clean.alignments is not None:
        for matrix in clean.alignments.values():
            np.testing.assert_allclose(matrix[::2].sum(-1), 1, atol=2e-3)
            np.testing.assert_allclose(matrix[::2].sum(-2), 1, atol=2e-3)
    if name == "soft":
        joined = apply_soft(
            spec, jax.tree.map(lambda v: v[0], clean.alignments), jax.tree.map(lambda v: v[0], b)
        )
        assert (joined["rng"], joined["step"]) == (b["rng"][0], b["step"][0])
        for layer in ("Dense_0", "Dense_1", "Dense_2"):
            chex.assert_trees_all_close(
                joined[layer], jax.tree.map(lambda v: v[0], a[layer]), atol=1e-4
            )

    # what was made large or small is better than with B left alone
    if clean.loss is not None:
        assert (clean.loss <= clean.identity_loss)[::2].all()
        assert float(clean.loss[0]) == pytest.approx(0, abs=1e-6)
        assert clean.trace.ndim == 2
    elif clean.total_objective is not None:
        assert (clean.total_objective >= clean.total_identity_objective).all()
    else:
        assert all(
            (clean.objective[g] >= clean.identity_objective[g] - 1e-4).all()
            for g in clean.identity_objective
        )
    if clean.certificate is not None:
        assert all(proof.optimal[::2].all() for proof in clean.certificate.values())

    clean.save(tmp_path / "matching")
    chex.assert_trees_all_equal(Matching.load(tmp_path / "matching"), clean)


EXACT = ("layerwise, weights", "layerwise, covariance", "weights", "weights, metric", "frank-wolfe")
UNITS = {  # powers of two that multiply A, and B, of three copies of one pair
    "smallest and largest": ((0, -100, 100), (0, -100, 100)),
    "squares at the ends of float32": ((0, -63, 63), (0, -63, 63)),
    "near one": ((0, -10, 10), (0, -10, 10)),
    "one network far from the other": ((0, 100, -100), (0, -100, 0)),
}


def multiplied(networks: Any, chosen: list[int], factors: Any) -> Any:
    """Some networks of a batch, each times its own factor."""

    def scale(leaf: Any) -> np.ndarray:
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
    """Nothing but the exponents of the objectives, to the last bit."""
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
    totals = [found.total_objective, found.total_identity_objective]
    for value in (*found.objective.values(), *found.identity_objective.values(), *totals):
        if value is not None:
            exact = np.ldexp(np.float64(value[0]), powers_a + powers_b)
            np.testing.assert_array_equal(value, written_in_float32(exact))
    for proof in (found.certificate or {}).values():
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
        assert np.isnan(found.objective[group][0])
    for proof in (found.certificate or {}).values():
        assert proof.optimal.all()


@pytest.mark.parametrize("name", EXACT)
def test_networks_of_zeros_have_objectives_of_exactly_zero(name: str, three: Any) -> None:
    """Both, or one of them, which is tiny or huge; no nan, which would say that something was lost."""
    spec, a, b, _, _, moments, _ = three
    found = batch(name, spec)(
        multiplied(a, [0, 1, 2], [0, 0, 1e19]),
        multiplied(b, [0, 1, 2], [0, 1e-22, 0]),
        jax.random.split(jax.random.key(0), 3),
        moments,
    )
    assert found.finite.tolist() == found.converged.tolist() == [True, True, True]
    for value in (*found.objective.values(), *found.identity_objective.values()):
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
        exact = np.ldexp(np.float64(found.objective[group][0]), 2 * (of_weights + of_moments))
        np.testing.assert_allclose(found.objective[group], exact, rtol=1e-6)
        assert found.certificate[group].optimal.all()


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


COMPARED: dict[
    str, Callable[..., Any]
] = {  # compare(spec, params_a, params_b, key=..., moments=...)
    "weight_distance": lambda spec, a, b, key, moments: matching.weight_distance(a, b),
    "covariance_distance": lambda spec, a, b, key, moments: matching.covariance_distance(
        spec, moments
    )(a, b),
    "weight_inner_product": lambda spec, a, b, key, moments: matching.weight_inner_product(
        spec, identity_permutations(spec, a), a, b
    ),
    "weight_similarity": lambda spec, a, b, key, moments: matching.weight_similarity(
        spec, "Dense_0", a, b, permutations=identity_permutations(spec, a)
    ),
    "layer_similarity": lambda spec, a, b, key, moments: matching.layer_similarity(
        spec, "Dense_0", a, b, similarity="weights"
    ),
    "approximate_dimensions": lambda spec, a, b, key, moments: [
        matching.approximate_dimensions(spec, params, similarity="weights") for params in (a, b)
    ],
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
    with pytest.raises(ValueError, match="complex64"):
        matching.match_weights(spec, a, b, leaf_weights={"Dense_0/kernel": np.complex64(1j)})


@pytest.mark.parametrize(
    "count", ["num_steps", "num_passes", "max_passes", "max_iterations", "restarts"]
)
def test_nothing_is_done_less_than_once(count: str, three: Any) -> None:
    spec, a, b, *_ = jax.tree.map(lambda v: v[0] if hasattr(v, "dtype") else v, three)
    takers = {
        "num_steps": [
            matching.match_sinkhorn,
            matching.match_straight_through,
            matching.match_annealing,
        ],
        "num_passes": [
            matching.match_straight_through,
            functools.partial(matching.match_soft, similarity="weights"),
        ],
        "max_passes": [
            matching.match_weights,
            functools.partial(matching.match_layerwise, similarity="weights"),
        ],
        "max_iterations": [matching.match_frank_wolfe],
        "restarts": [matching.match_weights],
    }[count]
    for match in takers:
        key = {"key": jax.random.key(0)} if match is matching.match_annealing else {}
        with pytest.raises(ValueError, match=f"{count} is at least 1, not 0"):
            match(spec, a, b, **{count: 0}, **key)
