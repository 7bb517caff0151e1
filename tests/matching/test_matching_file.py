"""A matching in a file."""

import functools
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lmcjax import Matching, Weights, load_matching, match_layerwise, permute, save_matching
from lmcjax.matching import Search, TotalSimilarity

pytestmark = pytest.mark.usefixtures("strict_promotion")


@pytest.fixture(scope="module")
def matching(pair: Any) -> Matching:
    """With all that a matching can hold."""
    match = jax.jit(
        functools.partial(match_layerwise, pair.spec, similarity=Weights(), certify=True)
    )
    found = match(pair.params_a, pair.params_b)
    values = jnp.array([1.0, 3.0, 2.0])
    return found._replace(
        total=TotalSimilarity(values[1], values[0], restarts=values),
        search=Search(values[2], values[1], trace=values[:2]),
    )


@pytest.mark.parametrize("as_path", [str, Path])
def test_what_is_saved_is_loaded(
    as_path: Any, matching: Matching, pair: Any, tmp_path: Path
) -> None:
    """Every field with its shape, dtype and bits; what is loaded can be used."""
    path = as_path(tmp_path / "matching.safetensors")
    save_matching(path, matching)
    loaded = load_matching(path)
    assert isinstance(loaded, Matching)
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded, matching)
    chex.assert_trees_all_equal(loaded, matching)
    chex.assert_trees_all_equal(
        *(permute(pair.spec, m.permutations, pair.params_b) for m in (loaded, matching))
    )


def test_a_batch_and_odd_names_are_loaded(tmp_path: Path) -> None:
    """Stacked matchings, a spoilt one among them, groups named like paths."""
    similarity = {"blocks/0/mlp": jnp.array([1.0, jnp.nan]), "h": jnp.array([2.0, -3.0])}
    permutations = {
        "blocks/0/mlp": jnp.array([[1, 0], [0, 1]]),
        "h": jnp.array([[0, 1, 2], [2, 0, 1]]),
    }
    flags = jnp.array([True, False])
    batch = Matching(permutations, similarity, similarity, jnp.array([1, 1]), flags, flags)
    save_matching(tmp_path / "batch", batch)
    loaded = load_matching(tmp_path / "batch")
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded, batch)
    chex.assert_trees_all_equal(loaded, batch)


def test_a_file_is_never_overwritten(matching: Matching, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="kept"):
        save_matching(path, matching)
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_an_error(keep: int, matching: Matching, tmp_path: Path) -> None:
    path = tmp_path / "short"
    save_matching(path, matching)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"short is not a readable safetensors file"):
        load_matching(path)


def test_a_foreign_file_is_an_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "foreign.npz", permutations=np.arange(3))
    with pytest.raises(ValueError, match=r"foreign\.npz is not a readable safetensors file"):
        load_matching(tmp_path / "foreign.npz")
    with pytest.raises(FileNotFoundError):
        load_matching(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"Dense_0/kernel": np.zeros((2, 2))}, "no saved matching.*'Dense_0/kernel'"),
        ({"permutations": np.arange(3)}, "no saved matching.*'permutations'"),
        ({"finite/g": np.array(True)}, "no saved matching.*'finite/g'"),
        ({"finite.gap": np.array(True)}, "no saved matching.*'finite.gap'"),
        ({"certificates/g": np.zeros(3)}, "no saved matching.*'certificates/g'"),
        ({"certificates.gap/g": np.zeros(())}, r"certificates/g lacks .*'row_potentials'"),
        ({"total/g": np.zeros(())}, "no saved matching.*'total/g'"),
        ({"total.loss": np.zeros(())}, "no saved matching.*'total.loss'"),
        ({"total.reached": np.zeros(())}, r"total lacks \['identity', 'restarts'\]"),
        ({"search.loss": np.zeros(())}, r"search lacks \['identity_loss', 'trace'\]"),
        ({"permutations/g": np.arange(3)}, r"lacks \['iterations', 'converged', 'finite'\]"),
    ],
)
def test_foreign_tensors_are_an_error(
    tensors: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    metadata = {"format": "lmcjax.Matching", "version": "2"}
    save_file(tensors, tmp_path / "other", metadata=metadata)
    with pytest.raises(ValueError, match=message):
        load_matching(tmp_path / "other")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_file_of_another_format_is_an_error(
    metadata: dict[str, str] | None, tmp_path: Path
) -> None:
    save_file({"finite": np.array(True)}, tmp_path / "other", metadata=metadata)
    given = None if metadata is None else metadata["format"]
    with pytest.raises(ValueError, match=f"other is no saved matching: its format is {given!r}"):
        load_matching(tmp_path / "other")


def test_a_file_of_another_version_is_named(matching: Matching, tmp_path: Path) -> None:
    """Version 1 had other names; one from the future is not guessed at either."""
    save_matching(tmp_path / "now", matching)
    tensors = load_file(tmp_path / "now")
    for version in ("1", "3"):
        path = tmp_path / f"of_version_{version}"
        save_file(tensors, path, metadata={"format": "lmcjax.Matching", "version": version})
        message = f"of_version_{version} is a matching of version {version}, .* reads version 2"
        with pytest.raises(ValueError, match=message):
            load_matching(path)
