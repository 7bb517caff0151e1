"""Permutations of neurons, alone and acting on networks, against NumPy indexing."""

import itertools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcjax import (
    PermutationSpec,
    compose,
    identity_permutations,
    invert,
    mlp_spec,
    permute,
    random_permutations,
)
from lmcjax.symmetry import check_permutations, fixed, reads, writes

pytestmark = pytest.mark.usefixtures("strict_promotion")


draw = jax.jit(random_permutations, static_argnums=1)
act = jax.jit(permute, static_argnums=0)


class Layer(NamedTuple):
    kernel: Any
    bias: Any


def dense_stack(
    widths: tuple[int, ...], seed: int = 0
) -> tuple[PermutationSpec, dict[str, dict[str, np.ndarray]]]:
    """A NumPy MLP: its spec and parameters, `widths` from the inputs to the outputs."""
    rng = np.random.default_rng(seed)
    params = {
        f"Dense_{i}": {
            "kernel": rng.normal(size=(m, n)).astype(np.float32),
            "bias": rng.normal(size=n).astype(np.float32),
        }
        for i, (m, n) in enumerate(itertools.pairwise(widths))
    }
    return mlp_spec(len(widths) - 2), params


def assert_same_bits(actual: Any, expected: Any) -> None:
    chex.assert_trees_all_equal_structs(actual, expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


widths_and_seed = st.tuples(
    st.lists(st.sampled_from([1, 2, 4]), min_size=3, max_size=4).map(tuple),
    st.integers(0, 2**31 - 1),
)


@given(widths_and_seed)
@pytest.mark.slow
def test_permute_and_back_gives_the_same_bits(drawn: tuple[tuple[int, ...], int]) -> None:
    spec, params = dense_stack(*drawn)
    p = random_permutations(jax.random.key(drawn[1]), spec, params)
    assert_same_bits(permute(spec, invert(spec, p), permute(spec, p, params)), params)
    assert_same_bits(permute(spec, identity_permutations(spec, params), params), params)


@given(widths_and_seed)
def test_permuting_twice_is_permuting_by_the_composition(
    drawn: tuple[tuple[int, ...], int],
) -> None:
    spec, params = dense_stack(*drawn)
    key_p, key_q = jax.random.split(jax.random.key(drawn[1]))
    p = random_permutations(key_p, spec, params)
    q = random_permutations(key_q, spec, params)
    assert_same_bits(
        permute(spec, compose(spec, p, q), params), permute(spec, p, permute(spec, q, params))
    )
    chex.assert_trees_all_equal(
        compose(spec, p, invert(spec, p)), identity_permutations(spec, params)
    )
    chex.assert_trees_all_equal(
        invert(spec, compose(spec, p, q)), compose(spec, invert(spec, q), invert(spec, p))
    )


@given(widths_and_seed)
def test_permute_is_the_papers_product_of_matrices(drawn: tuple[tuple[int, ...], int]) -> None:
    """`P_l W_l P_{l-1}^T` and `P_l b_l`, with `P[i, p[i]] = 1`, and W the transposed kernel."""
    spec, params = dense_stack(*drawn)
    p = random_permutations(jax.random.key(drawn[1]), spec, params)
    permuted = permute(spec, p, params)
    before = np.eye(drawn[0][0])
    for i, width in enumerate(drawn[0][1:]):
        name = f"Dense_{i}"
        after = np.eye(width)[np.asarray(p[name])] if name in p else np.eye(width)
        expected = after @ params[name]["kernel"].T @ before.T
        np.testing.assert_array_equal(permuted[name]["kernel"].T, expected.astype(np.float32))
        np.testing.assert_array_equal(
            permuted[name]["bias"], (after @ params[name]["bias"]).astype(np.float32)
        )
        before = after


def test_the_networks_outputs_stay(pair: Any) -> None:
    p = draw(jax.random.key(3), pair.spec, pair.params_a)
    assert not any(np.array_equal(v, np.arange(len(v))) for v in p.values())
    with jax.numpy_dtype_promotion("standard"):
        apply = jax.jit(pair.network.apply)
        outputs = [apply(q, pair.inputs) for q in (pair.params_a, act(pair.spec, p, pair.params_a))]
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)


def test_any_pytree() -> None:
    """A NamedTuple in a list in a tuple in a dict, leaves of any dtype: the structure stays."""
    p = {"g": jnp.array([2, 0, 1])}
    tree = {
        "net": (
            [Layer(jnp.arange(6).reshape(2, 3), jnp.array([True, False, False]))],
            {"out": jnp.arange(3.0)},
        )
    }
    axes = {
        "net/0/0/kernel": (None, writes("g")),
        "net/0/0/bias": (writes("g"),),
        "net/1/out": (reads("g"),),
    }
    permuted = permute(PermutationSpec.from_axes(axes), p, tree)
    expected = {
        "net": ([Layer(np.array([[2, 0, 1], [5, 3, 4]], np.int32), np.array([False, True, False]))],
                {"out": np.array([2.0, 0.0, 1.0], np.float32)})
    }  # fmt: skip
    assert_same_bits(permuted, expected)


@given(
    outer=st.integers(1, 3), n=st.integers(1, 4), inner=st.integers(1, 3), seed=st.integers(0, 1000)
)
def test_blocks_permute_the_middle_factor(outer: int, n: int, inner: int, seed: int) -> None:
    """A flatten before a dense layer, against reshape, index, reshape."""
    p = np.random.default_rng(seed).permutation(n)
    x = np.random.default_rng(seed).normal(size=(2, outer * n * inner)).astype(np.float32)
    spec = PermutationSpec.from_axes(
        {"b": (writes("g"),), "w": (None, fixed(outer) * reads("g") * fixed(inner))}
    )
    permuted = act(spec, {"g": p}, {"b": np.arange(n), "w": x})
    np.testing.assert_array_equal(
        permuted["w"], x.reshape(2, outer, n, inner)[:, :, p].reshape(x.shape)
    )
    np.testing.assert_array_equal(permuted["b"], p)


@given(left=st.integers(1, 3), n=st.integers(1, 4), m=st.integers(1, 4), seed=st.integers(0, 1000))
def test_concatenations_permute_each_stretch_on_its_own(
    left: int, n: int, m: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    p, q = rng.permutation(n), rng.permutation(m)
    x = rng.normal(size=(left + n + 1 + 2 * m, 2)).astype(np.float32)
    axis = fixed(left) | reads("g") | fixed(1) | fixed(2) * reads("h")
    spec = PermutationSpec.from_axes({"g": (writes("g"),), "h": (writes("h"),), "w": (axis, None)})
    permuted = act(spec, {"g": p, "h": q}, {"g": np.zeros(n), "h": np.zeros(m), "w": x})["w"]
    parts = np.split(x, np.cumsum([left, n, 1, m]))
    np.testing.assert_array_equal(
        permuted, np.concatenate([parts[0], parts[1][p], parts[2], parts[3][q], parts[4][q]])
    )


@pytest.mark.parametrize(("batch_axis", "axis"), [(0, 1), (0, 2), (1, 0), (2, 1)])
def test_a_batch_axis_permutes_each_layer_by_its_own(batch_axis: int, axis: int) -> None:
    """Layers stacked by `scan`, against a loop over the layers."""
    rng = np.random.default_rng(0)
    shape = [5, 5, 5]
    shape[batch_axis] = 3
    shape[axis] = 2 * 4
    x = rng.normal(size=shape).astype(np.float32)
    p = np.stack([rng.permutation(4) for _ in range(3)])
    axes: list[Any] = [None, None, None]
    axes[batch_axis] = fixed("layers")
    axes[axis] = writes("g", along="layers") * fixed(2)
    permuted = np.asarray(permute(PermutationSpec.from_axes({"w": axes}), {"g": p}, {"w": x})["w"])
    for layer in range(3):
        index = (2 * p[layer][:, None] + np.arange(2)).reshape(-1)
        expected = np.take(np.take(x, layer, batch_axis), index, axis - (batch_axis < axis))
        np.testing.assert_array_equal(np.take(permuted, layer, batch_axis), expected)


def test_two_batch_axes_in_any_order() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 3)).astype(np.float32)
    p = np.stack(
        [[rng.permutation(4) for _ in range(2)] for _ in range(3)]
    )  # [batch axis 2, batch axis 0, n]
    spec = PermutationSpec.from_axes(
        {"w": (fixed("first"), writes("g", along=("last", "first")), fixed("last"))}
    )
    permuted = permute(spec, {"g": p}, {"w": x})["w"]
    for i in range(2):
        for j in range(3):
            np.testing.assert_array_equal(permuted[i, :, j], x[i, p[j, i], j])
    q = random_permutations(jax.random.key(0), spec, {"w": x})
    chex.assert_trees_all_equal(
        compose(spec, q, invert(spec, q)), identity_permutations(spec, {"w": x})
    )


def test_random_permutations_are_uniform_and_independent() -> None:
    """Three neurons in each of two groups have 36 outcomes: chi-squared below its 99.9 % point."""
    spec = PermutationSpec.from_axes({"a": (writes("g"),), "b": (writes("h"),)}).bind(
        {"a": np.zeros(3), "b": np.zeros(3)}
    )
    keys = jax.random.split(jax.random.key(0), 7200)
    drawn = jax.jit(jax.vmap(lambda key: random_permutations(key, spec)))(keys)
    outcome = np.asarray(
        sum(drawn[g][:, i] * 3 ** (i + 2 * j) for j, g in enumerate("gh") for i in range(2))
    )
    counts = np.unique_counts(outcome).counts
    assert len(counts) == 36
    assert ((counts - 200) ** 2 / 200).sum() < 66.6


def test_random_permutations_of_a_batch_are_independent() -> None:
    spec = PermutationSpec.from_axes({"a": (fixed("layers"), writes("g", along="layers"))})
    drawn = random_permutations(jax.random.key(0), spec, {"a": np.zeros((4, 30))})["g"]
    assert len({tuple(row) for row in drawn.tolist()}) == 4
    assert drawn.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(drawn, axis=-1), np.broadcast_to(np.arange(30), (4, 30)))


def test_a_draw_depends_on_its_own_group_only() -> None:
    narrow = random_permutations(jax.random.key(1), *dense_stack((2, 6, 4, 3)))
    wide = random_permutations(jax.random.key(1), *dense_stack((2, 6, 9, 3)))
    np.testing.assert_array_equal(narrow["Dense_0"], wide["Dense_0"])
    other = random_permutations(jax.random.key(2), *dense_stack((2, 6, 4, 3)))
    assert not np.array_equal(narrow["Dense_0"], other["Dense_0"])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("permutation", "message"),
    [
        ([0, 1, 2], r"'Dense_0' has shape \(3,\), expected \(4,\)"),
        ([[0, 1, 2, 3]], r"'Dense_0' has shape \(1, 4\), expected \(4,\)"),
        ([0, 1, 2, 2], r"'Dense_0' is not a bijection of 0\.\.3: \[0 1 2 2\]"),
        ([1, 2, 3, 4], r"'Dense_0' is not a bijection of 0\.\.3: \[1 2 3 4\]"),
        ([0.0, 1.0, 2.0, 3.0], "'Dense_0' has dtype float32, expected integers"),
    ],
)
def test_what_is_no_permutation_is_an_error(permutation: list, message: str) -> None:
    spec, params = dense_stack((2, 4, 3))
    array = np.array(permutation, np.float32 if isinstance(permutation[0], float) else np.int32)
    with pytest.raises(ValueError, match=message):
        permute(spec, {"Dense_0": array}, params)
    with pytest.raises(ValueError, match=message):
        check_permutations(spec.bind(params), {"Dense_0": array})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("permutation", "message"),
    [
        ([0, 1, 2, 2], r"'Dense_0' is not a bijection of 0\.\.3: \[0 1 2 2\]"),
        ([-1, 0, 1, 2], r"'Dense_0' is not a bijection of 0\.\.3: \[-1  0  1  2\]"),
        ([0.0, 1.0, 2.0, 3.0], "'Dense_0' has dtype float32, expected integers"),
        ([0, 1, 2], r"'Dense_0' has shape \(3,\), expected \(4,\)"),
        ([0, 3], r"'Dense_0' is not a bijection of 0\.\.1: \[0 3\]"),
    ],
)
def test_what_is_no_permutation_is_neither_composed_nor_inverted(
    permutation: list, message: str
) -> None:
    """A bound spec knows the length; else a short one shows if it names neurons it lacks."""
    free, params = dense_stack((2, 4, 3))
    spec = free.bind(params) if "shape" in message else free
    array = np.array(permutation, np.float32 if isinstance(permutation[0], float) else np.int32)
    wrong, right = {"Dense_0": array}, {"Dense_0": np.arange(len(array))}
    for call in (
        lambda: compose(spec, wrong, right),
        lambda: compose(spec, right, wrong),
        lambda: invert(spec, wrong),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="no group 'Dense_7'"):
        invert(spec, {"Dense_7": np.arange(4)})
    if "float" in message:  # what can be seen without values is an error inside a program, too
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda p: invert(spec, p), wrong)


@pytest.mark.usefixtures("unchecked")
def test_groups_that_differ_are_named() -> None:
    spec, params = dense_stack((2, 4, 3))
    p = identity_permutations(spec, params)
    for other, name in (({**p, "Dense_7": p["Dense_0"]}, "Dense_7"), ({}, "Dense_0")):
        with pytest.raises(
            ValueError, match=rf"group '{name}' is not in both.*spec has \['Dense_0'\]"
        ):
            permute(spec, other, params)
        with pytest.raises(ValueError, match=r"different groups: \['Dense_0'\] and "):
            compose(spec, p, other)
    with pytest.raises(ValueError, match=r"'Dense_0' has shapes \(4,\) and \(3,\)"):
        compose(spec, p, {"Dense_0": jnp.arange(3)})


def test_the_order_of_the_groups_in_a_dict_does_not_matter() -> None:
    """Jitted functions return dicts sorted by name."""
    spec, params = dense_stack((2, 4, 3, 2))
    p = random_permutations(jax.random.key(0), spec, params)
    q = {group: p[group] for group in reversed(p)}
    assert_same_bits(permute(spec, q, params), permute(spec, p, params))
    chex.assert_trees_all_equal(
        compose(spec, p, invert(spec, q)), identity_permutations(spec, params)
    )


def test_stretches_of_one_axis_may_vary_along_others() -> None:
    axes = {
        "w": (fixed("layers"), writes("g", along="layers") | fixed(1) | writes("h")),
        "h": (writes("h"),),
    }
    w = np.arange(10).reshape(2, 5)
    permutations = {"g": np.array([[0, 1], [1, 0]]), "h": np.array([1, 0])}
    permuted = permute(PermutationSpec.from_axes(axes), permutations, {"w": w, "h": np.zeros(2)})[
        "w"
    ]
    np.testing.assert_array_equal(permuted, [[0, 1, 2, 4, 3], [6, 5, 7, 9, 8]])


def heads_and_channels() -> tuple[PermutationSpec, dict[str, jax.Array]]:
    """Each of three heads permutes its own channels; another leaf is a stack of layers."""
    axes = {
        "q": (None, writes("head"), writes("channel", along="head")),
        "o": (reads("channel", along="head"), reads("head"), None),
        "deep": (
            fixed("layers"),
            writes("layered", along="layers"),
            writes("inner", along=("layers", "layered")),
        ),
    }
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 3, 4), "o": (4, 3, 2), "deep": (2, 3, 5)}
    params = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
    }
    return PermutationSpec.from_axes(axes).bind(params), params


@pytest.mark.slow
def test_channels_are_permuted_within_the_heads_where_they_arrive() -> None:
    spec, params = heads_and_channels()
    assert spec.group_shapes() == {
        "head": (3,),
        "channel": (3, 4),
        "layered": (2, 3),
        "inner": (2, 3, 5),
    }
    assert spec.guests("head") == ("channel",)
    assert spec.guests("layered") == ("inner",)
    p = jax.tree.map(np.asarray, random_permutations(jax.random.key(1), spec))
    permuted = permute(spec, p, params)
    q, o, deep = (np.asarray(params[name]) for name in ("q", "o", "deep"))
    for h in range(3):
        source, channels = p["head"][h], p["channel"][h]
        np.testing.assert_array_equal(permuted["q"][:, h], q[:, source][:, channels])
        np.testing.assert_array_equal(permuted["o"][:, h], o[:, source][channels])
        for layer in range(2):
            source = p["layered"][layer, h]
            np.testing.assert_array_equal(
                permuted["deep"][layer, h], deep[layer, source][p["inner"][layer, h]]
            )


def test_heads_and_channels_are_a_group() -> None:
    spec, params = heads_and_channels()
    p = random_permutations(jax.random.key(1), spec)
    q = random_permutations(jax.random.key(2), spec)
    r = random_permutations(jax.random.key(3), spec)
    assert_same_bits(
        permute(spec, compose(spec, p, q), params), permute(spec, p, permute(spec, q, params))
    )
    assert_same_bits(permute(spec, invert(spec, p), permute(spec, p, params)), params)
    chex.assert_trees_all_equal(compose(spec, p, invert(spec, p)), identity_permutations(spec))
    chex.assert_trees_all_equal(
        compose(spec, compose(spec, p, q), r), compose(spec, p, compose(spec, q, r))
    )
