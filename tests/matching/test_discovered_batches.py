"""Matching discovered networks in batches: planted permutations, NaNs, gradients."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import (
    VGG,
    Covariance,
    FlaxNetwork,
    Matching,
    PermutationSpec,
    Weights,
    activation_moments,
    discover,
    invert,
    match_layerwise,
    permute,
    resnet20,
)
from lmcjax.matching import layer_similarity
from lmcjax.symmetry import perturb

pytestmark = pytest.mark.usefixtures("quick_compilation")


def recovers(
    spec: PermutationSpec, match: Callable[[Any, Any], dict[str, Matching]], params: Any
) -> None:
    """Ten networks, ten planted permutations; all come back exactly."""
    rng = np.random.default_rng(6)
    identity = {
        group: np.broadcast_to(np.arange(shape[-1]), (10, *shape)) for group, shape in spec.shapes
    }
    planted = {group: rng.permuted(p, axis=-1).astype(np.int32) for group, p in identity.items()}
    inverse = jax.vmap(functools.partial(invert, spec))(
        planted
    )  # of channels, after that of their heads
    networks = jax.vmap(perturb, (0, None))(jax.random.split(jax.random.key(0), 10), params)
    for matching in jax.jit(jax.vmap(lambda a, q: match(a, permute(spec, q, a))))(
        networks, inverse
    ).values():
        chex.assert_trees_all_equal(matching.permutations, planted)
        assert matching.converged.all()


@pytest.mark.parametrize(
    "module",
    [pytest.param(resnet20(4, 3), marks=pytest.mark.slow), VGG(((3, 4), (5,)), (7,), 3)],
    ids=["ResNet-20", "VGG"],
)
@pytest.mark.slow
def test_planted_permutations_of_flax_networks_come_back(module: Any, generic_like: Any) -> None:
    network = FlaxNetwork(module, (6, 5, 2))
    params = generic_like(jax.eval_shape(network.init, jax.random.key(0)))
    spec = discover(network.apply, params, jax.ShapeDtypeStruct((2, 6, 5, 2), jnp.float32))

    def match(a: Any, b: Any) -> dict[str, Matching]:
        return {"weights": match_layerwise(spec, a, b, similarity=Weights())}

    recovers(spec, match, params)


SLOW = (
    pytest.param(name, marks=pytest.mark.slow) for name in ("convolutional", "stacked", "attention")
)


@pytest.mark.parametrize("name", ["experts", *SLOW])
def test_planted_permutations_come_back(name: str, cases: Any) -> None:
    """Of heads and experts together with the channels inside each."""
    case = cases[name]
    similarities = ("weights", "covariance", "activations", "correlation")
    recovers(case.spec, functools.partial(case.match, similarities=similarities), case.params(0))


@pytest.mark.slow
def test_planted_permutations_of_stacked_experts_come_back(cases: Any) -> None:
    """By what is seen, also where no kernel reads a group. The first pass by weights is not always
    enough here.
    """
    case = cases["expert stack"]
    similarities = ("covariance", "activations", "correlation")
    recovers(case.spec, functools.partial(case.match, similarities=similarities), case.params(0))


def check_spoilt(spoilt: Matching, clean: Matching) -> None:
    """Pair 1 of 4 has a NaN."""
    assert clean.finite.all()
    assert spoilt.finite.tolist() == [True, False, True, True]
    assert not spoilt.converged[1]
    chex.assert_trees_all_equal(
        *(jax.tree.map(lambda v: np.asarray(v)[[0, 2, 3]], m) for m in (spoilt, clean))
    )
    for p in spoilt.permutations.values():
        assert sorted(p[1].tolist()) == list(range(p.shape[1]))


@pytest.mark.slow
def test_batches_of_streams(cases: Any) -> None:
    """`vmap` is a loop; a NaN flags its pair and leaves the others' bits, however many passes they
    take.
    """
    case = cases["residual"]
    match = functools.partial(match_layerwise, case.spec, similarity=Weights())
    a, b = case.batch((11, 12, 13, 16)), case.batch((111, 112, 113, 116))
    batched, single = jax.jit(jax.vmap(match)), jax.jit(match)
    clean = batched(a, b)
    assert len(set(clean.iterations.tolist())) > 1
    alone = [
        single(*({name: leaf[i] for name, leaf in side.items()} for side in (a, b)))
        for i in range(4)
    ]
    chex.assert_trees_all_close(
        clean, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone), rtol=1e-5
    )
    for name in ("in", "down1"):  # the first pass does not look at the second of them
        spoilt = {**b, name: b[name].copy()}
        spoilt[name][1].flat[0] = np.nan
        check_spoilt(batched(a, spoilt), clean)


@pytest.mark.slow
def test_batches_of_convolutional_networks(cases: Any) -> None:
    """Jit is eager, and a NaN spoils its own pair only, moments included."""
    case = cases["convolutional"]

    def match(a: Any, b: Any) -> tuple[Any, Matching]:
        moments = case.moments(a, b)
        return moments, match_layerwise(case.spec, a, b, similarity=Covariance(moments))

    a, b = case.batch(range(4)), case.batch(range(100, 104))
    batched = jax.jit(jax.vmap(match))
    moments, clean = batched(a, b)
    first_a, first_b, first_moments, first = jax.tree.map(
        lambda leaf: leaf[0], (a, b, moments, clean)
    )
    eager = match_layerwise(case.spec, first_a, first_b, similarity=Covariance(first_moments))
    chex.assert_trees_all_close(first, eager, rtol=1e-4)
    b["c2"][1].flat[0] = np.nan
    check_spoilt(batched(a, b)[1], clean)


@pytest.mark.slow
def test_gradients_of_the_similarity(cases: Any, finite_difference: Any, x64: None) -> None:
    """Through the weights of A and through the moments of what they see."""
    case = cases["convolutional"]
    group = case.group("c2", -1)
    rng = np.random.default_rng(5)
    a, b = (jax.tree.map(np.float64, case.params(seed)) for seed in (1, 2))
    directions = {name: rng.normal(size=(4, *leaf.shape)) for name, leaf in a.items()}
    weights = rng.normal(size=(5, 5))

    def total(a: Any) -> Any:
        moments = activation_moments(case.apply, case.spec, a, b, np.float64(case.x), batch_size=10)
        matrix = layer_similarity(case.spec, group, a, b, similarity=Covariance(moments))
        return (weights * matrix).sum()

    gradient = jax.jit(jax.grad(total))(a)
    assert all(np.isfinite(leaf).all() for leaf in gradient.values())
    assert {name for name, leaf in gradient.items() if leaf.any()} == {"c1", "b1", "c2"}
    found = sum(np.tensordot(directions[name], leaf, leaf.ndim) for name, leaf in gradient.items())
    along = jax.jit(
        lambda t: total({name: a[name] + jnp.tensordot(t, d, 1) for name, d in directions.items()})
    )
    expected = finite_difference(lambda t: float(along(t)), np.zeros(4), step=1e-7)
    assert np.abs(expected).min() > 1e-2
    np.testing.assert_allclose(found, expected, rtol=1e-5)
