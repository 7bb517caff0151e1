"""Alignments by matrices, of which permutations are a special case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmcjax
from lmcjax.symmetry import (
    PermutationSpec,
    apply_soft,
    as_alignments,
    both,
    fixed,
    permute,
    random_permutations,
    reads,
    writes,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

# a flatten, a concatenation, a stream, stacked layers, heads with channels of their own
SPEC = PermutationSpec.from_axes(
    {
        "conv": (None, writes("c")),
        "dense": (fixed(2) * reads("c") * fixed(3) | reads("s"), writes("h")),
        "stream": (both("s"), writes("s")),
        "stack": (fixed("layers"), reads("h"), writes("k", along="layers")),
        "query": (reads("h"), writes("heads"), writes("q", along="heads")),
    }
)
SIZES = {"c": 4, "h": 5, "s": 3, "k": 6, "heads": 2, "q": 4}
SHAPES = {
    "conv": (3, 4),
    "dense": (2 * 4 * 3 + 3, 5),
    "stream": (3, 3),
    "stack": (2, 5, 6),
    "query": (5, 2, 4),
}


@pytest.fixture
def params(rng):
    return {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()
    }


def test_permutations_are_a_special_case(params):
    permutations = random_permutations(jax.random.key(0), SPEC, params)
    assert {group: p.shape[-1] for group, p in permutations.items()} == SIZES
    mixed = apply_soft(SPEC, as_alignments(permutations), params)
    expected = permute(SPEC, permutations, params)
    for name in params:
        np.testing.assert_allclose(mixed[name], expected[name], atol=1e-6, err_msg=name)


def test_the_papers_formula_with_another_number_of_neurons(rng):
    """`T_l W_l T_{l-1}^T n_b / n_a`, written out."""
    spec = lmcjax.mlp_spec(2)
    widths = (3, 6, 8, 2)
    params = {
        f"Dense_{i}": {
            "kernel": rng.normal(size=widths[i : i + 2]),
            "bias": rng.normal(size=widths[i + 1]),
        }
        for i in range(3)
    }
    t0, t1 = rng.uniform(size=(4, 6)), rng.uniform(size=(5, 8))
    found = apply_soft(spec, {"Dense_0": t0, "Dense_1": t1}, params)
    expected = {
        "Dense_0": {
            "kernel": params["Dense_0"]["kernel"] @ t0.T,
            "bias": t0 @ params["Dense_0"]["bias"],
        },
        "Dense_1": {
            "kernel": 6 / 4 * t0 @ params["Dense_1"]["kernel"] @ t1.T,
            "bias": t1 @ params["Dense_1"]["bias"],
        },
        "Dense_2": {
            "kernel": 8 / 5 * t1 @ params["Dense_2"]["kernel"],
            "bias": params["Dense_2"]["bias"],
        },
    }
    for (path, leaf), other in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, err_msg=str(path))


@pytest.mark.parametrize("split", [2, 3])
@pytest.mark.slow
def test_splitting_neurons_and_joining_them_keeps_the_function(split, pair):
    """Each neuron becomes `split` equal copies with outgoing weights divided, and one again."""
    copies = {
        group: np.repeat(np.eye(shape[-1], dtype=np.float32), split, axis=0)
        for group, shape in pair.spec.bind(pair.params_b).group_shapes().items()
    }
    wide = apply_soft(pair.spec, copies, pair.params_b)
    outputs = pair.network.apply(pair.params_b, pair.inputs)
    network = lmcjax.FlaxNetwork(
        lmcjax.MLP((24 * split, 20 * split, 16 * split), 5), input_shape=(12,)
    )
    np.testing.assert_allclose(network.apply(wide, pair.inputs), outputs, atol=1e-5)
    back = apply_soft(pair.spec, {group: t.T / split for group, t in copies.items()}, wide)
    for leaf, other in zip(jax.tree.leaves(back), jax.tree.leaves(pair.params_b), strict=True):
        np.testing.assert_allclose(leaf, other, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {g: m for g, m in a.items() if g != "h"}, "group 'h' is not in both"),
        (lambda a: a | {"h": a["h"][:, :4]}, r"'h' has shape \(5, 4\), expected \('n_a', 5\)"),
        (lambda a: a | {"k": a["k"][0]}, r"'k' has shape \(6, 6\), expected \(2, 'n_a', 6\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message, params):
    alignments = as_alignments(random_permutations(jax.random.key(0), SPEC, params))
    with pytest.raises(ValueError, match=message):
        apply_soft(SPEC, change(alignments), params)
