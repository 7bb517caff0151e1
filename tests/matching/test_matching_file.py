"""A matching in a file, and what the matching functions refuse."""

import functools
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.optimize import linear_sum_assignment

from lmcjax import (
    ActivationMoments,
    Matching,
    Moments,
    PermutationSpec,
    approximate_dimensions,
    invert,
    match_layerwise,
    mlp_spec,
    permute,
    random_permutations,
)
from lmcjax.symmetry import both, fixed, reads, writes

pytestmark = pytest.mark.usefixtures("strict_promotion")


@pytest.fixture(scope="module")
def matching(pair: Any) -> Matching:
    """With all that a matching can hold."""
    match = jax.jit(
        functools.partial(match_layerwise, pair.spec, similarity="weights", certify=True)
    )
    found = match(pair.params_a, pair.params_b)
    totals = jnp.array([1.0, 3.0, 2.0])
    return found._replace(
        total_objective=totals[1], total_identity_objective=totals[0], restart_objectives=totals
    )


def test_every_layers_assignment_is_certified(matching: Matching) -> None:
    """`layer_similarity` with the earlier layers in place is what was solved; the bound is what was
    reached.
    """
    assert set(matching.certificate) == set(matching.permutations)
    for group, proof in matching.certificate.items():
        assert proof.optimal
        bound = float(proof.row_potentials.sum() + proof.column_potentials.sum())
        assert bound == pytest.approx(float(matching.objective[group]), rel=1e-4)


@pytest.mark.parametrize("as_path", [str, Path])
def test_what_is_saved_is_loaded(
    as_path: Any, matching: Matching, pair: Any, tmp_path: Path
) -> None:
    """Every field with its shape, dtype and bits; what is loaded can be used."""
    path = as_path(tmp_path / "matching.safetensors")
    matching.save(path)
    loaded = Matching.load(path)
    assert isinstance(loaded, Matching)
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded, matching)
    chex.assert_trees_all_equal(loaded, matching)
    chex.assert_trees_all_equal(
        *(permute(pair.spec, m.permutations, pair.params_b) for m in (loaded, matching))
    )


def test_a_batch_and_odd_names_are_loaded(tmp_path: Path) -> None:
    """Stacked matchings, a spoilt one among them, groups named like paths."""
    objective = {"blocks/0/mlp": jnp.array([1.0, jnp.nan]), "h": jnp.array([2.0, -3.0])}
    permutations = {
        "blocks/0/mlp": jnp.array([[1, 0], [0, 1]]),
        "h": jnp.array([[0, 1, 2], [2, 0, 1]]),
    }
    flags = jnp.array([True, False])
    batch = Matching(permutations, objective, objective, jnp.array([1, 1]), flags, flags)
    batch.save(tmp_path / "batch")
    loaded = Matching.load(tmp_path / "batch")
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded, batch)
    chex.assert_trees_all_equal(loaded, batch)


def test_a_file_is_never_overwritten(matching: Matching, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="kept"):
        matching.save(path)
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_an_error(keep: int, matching: Matching, tmp_path: Path) -> None:
    path = tmp_path / "short"
    matching.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"short is not a readable safetensors file"):
        Matching.load(path)


def test_a_foreign_file_is_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "foreign.npz", permutations=np.arange(3))
    with pytest.raises(ValueError, match=r"foreign\.npz is not a readable safetensors file"):
        Matching.load(tmp_path / "foreign.npz")
    with pytest.raises(FileNotFoundError):
        Matching.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"Dense_0/kernel": np.zeros((2, 2))}, "no saved matching.*'Dense_0/kernel'"),
        ({"permutations": np.arange(3)}, "no saved matching.*'permutations'"),
        ({"finite/g": np.array(True)}, "no saved matching.*'finite/g'"),
        ({"certificate/g": np.zeros(3)}, "no saved matching.*'certificate/g'"),
        ({"certificate.gap/g": np.zeros(())}, r"lacks .*'certificate\.row_potentials/g'"),
        ({"permutations/g": np.arange(3)}, r"lacks \['iterations', 'converged', 'finite'\]"),
    ],
)
def test_foreign_tensors_are_an_error(
    tensors: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "other")
    with pytest.raises(ValueError, match=message):
        Matching.load(tmp_path / "other")


def moments(n: int) -> Moments:
    vector, matrix = np.zeros(n, np.float32), np.eye(n, dtype=np.float32)
    return jax.tree.map(jnp.asarray, Moments(np.float32(9), vector, vector, matrix, matrix, matrix))


def trace(spec: PermutationSpec, a: Any, b: Any, **options: Any) -> Any:
    """What is wrong shows when `match_layerwise` is traced, before anything is computed."""
    return jax.eval_shape(functools.partial(match_layerwise, spec, **options), a, b)


GOOD = {"Dense_0/kernel": 12, "Dense_1/kernel": 24, "Dense_2/kernel": 20, "Dense_3/kernel": 16}
FIRST = {"Dense_0/kernel": 12}


def of_kernels(sizes: dict[str, int]) -> ActivationMoments:
    return ActivationMoments({name: moments(n) for name, n in sizes.items()}, {})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "sizes", "message"),
    [
        ({"similarity": "cosine"}, GOOD, "'cosine' is not one of .*'weights'"),
        ({"similarity": "weights", "backend": "gurobi"}, GOOD, "'gurobi'"),
        (
            {"similarity": "covariance"},
            None,
            "'covariance' needs moments.*None.*activation_moments",
        ),
        (
            {"similarity": "weights", "include_bias": True},
            GOOD,
            "include_bias.*'covariance' only, not 'weights'",
        ),
        (
            {"similarity": "activations"},
            FIRST,
            r"no moments.*activations of group 'Dense_0'.*\['Dense_0/kernel'\]",
        ),
        (
            {"similarity": "covariance"},
            FIRST,
            r"no moments.*kernel 'Dense_1/kernel', only for \['Dense_0/kernel'\]",
        ),
        (
            {"similarity": "covariance"},
            GOOD | {"Dense_1/kernel": 5},
            r"'Dense_1/kernel' has 24 inputs.* of 5",
        ),
        (
            {"similarity": "activations"},
            GOOD | {"Dense_2/kernel": 5},
            r"'Dense_2/kernel' has 20 features.* of 5",
        ),
    ],
)
def test_options_and_moments_that_do_not_fit(
    options: Any, sizes: Any, message: str, pair: Any
) -> None:
    given = None if sizes is None else of_kernels(sizes)
    with pytest.raises(ValueError, match=message):
        trace(pair.spec, pair.params_a, pair.params_b, moments=given, **options)


@pytest.mark.usefixtures("unchecked")
def test_dimensions_refuse_what_has_none(pair: Any) -> None:
    given = of_kernels(GOOD)
    with pytest.raises(ValueError, match="'correlation' has no approximate dimension"):
        approximate_dimensions(pair.spec, pair.params_a, similarity="correlation", moments=given)
    with pytest.raises(ValueError, match="'activations' needs moments"):
        approximate_dimensions(pair.spec, pair.params_a, similarity="activations")


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
    matching = match_layerwise(mlp_spec(1), a, b, similarity="weights")
    np.testing.assert_array_equal(matching.permutations["Dense_0"], expected)


@pytest.mark.parametrize(
    ("axes", "shapes"),
    [
        (
            {"b": (writes("h"),), "w2": (reads("g"), writes("h")), "w1": (None, writes("g"))},
            {"w2": (3, 4), "w1": (2, 3), "b": (4,)},
        ),
        ({"w": (None, writes("g", inner=2))}, {"w": (3, 8)}),
        ({"w": (None, (fixed(1), writes("g")))}, {"w": (3, 8)}),
        ({"w": (None, None, writes("g", batch_axes=(0,)))}, {"w": (2, 3, 4)}),
        ({"w": (both("g"),)}, {"w": (4,)}),
        ({"w": (reads("g"), writes("g")), "v": (None, writes("g"))}, {"w": (4, 4), "v": (3, 4)}),
    ],
    ids=["readers first", "blocks", "a segment", "stacked layers", "vectors only", "recurrent"],
)
@pytest.mark.slow
def test_specs_of_every_form_are_followed(axes: Any, shapes: Any, rng: np.random.Generator) -> None:
    """A shuffled copy is recovered exactly."""
    params = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
    }
    spec = PermutationSpec.from_axes(axes).bind(params)
    planted = random_permutations(jax.random.key(0), spec)
    matching = match_layerwise(
        spec, params, permute(spec, invert(spec, planted), params), similarity="weights"
    )
    chex.assert_trees_all_equal(matching.permutations, planted)
    assert matching.converged
