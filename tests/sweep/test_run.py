"""A sweep that is stopped, killed or short of memory, and run again."""

import logging
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest

from lmcjax.sweep import SweepFolder, SweepInterrupted, SweepProgress, _batch_training, run_sweep

pytestmark = pytest.mark.usefixtures("quick_compilation", "four_per_batch")


def test_stopped_while_it_compares_it_loses_one_batch_at_most(
    sweep, stop, digits, alike, calls, tmp_path
):
    def stop_while_comparing(progress: SweepProgress) -> None:
        if progress.stage == "compare":
            stop()

    with pytest.raises(SweepInterrupted):
        run_sweep(sweep, digits, tmp_path / "sweep", on_progress=stop_while_comparing)
    assert len(calls) == sweep.epochs
    assert alike(run_sweep(sweep, digits, tmp_path / "sweep"))
    assert len(calls) <= 5 * sweep.epochs


def test_a_finished_sweep_is_not_computed_again(sweep, snapshot, finished, digits, alike, calls):
    before = snapshot(finished.path / "batches")
    finished.results.unlink()
    assert alike(run_sweep(sweep, digits, finished.path))
    assert calls == []
    assert snapshot(finished.path / "batches") == before


@pytest.mark.parametrize(
    "left",
    [
        ("lock",),
        ("lock", "changing.lock", "batches"),
        ("lock", "changing.lock", "batches", "plan.json.99.part"),
        ("lock", "changing.lock", "batches", "plan.json"),
        ("lock", "changing.lock", "batches", "plan.json", "sweep.json.99.part"),
    ],
)
def test_killed_while_it_began_it_begins_again(sweep, left, finished, digits, alike, tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in left:
        if name == "batches":
            (begun / name).mkdir()
        else:
            shutil.copy(finished.path / name.removesuffix(".99.part"), begun / name)
    assert alike(run_sweep(sweep, digits, begun))


@pytest.mark.parametrize("left", ["batches/00001.safetensors.99.part", "results.nc.99.part"])
def test_what_was_half_written_when_it_was_killed_does_no_harm(
    sweep, left, finished, digits, alike
):
    (finished.path / left).write_bytes(b"half")
    finished.batch_path(1).unlink()
    assert alike(run_sweep(sweep, digits, finished.path))


# Memory


@pytest.fixture
def memory_for(monkeypatch) -> Callable[..., list[tuple[int, int]]]:
    """`memory_for(networks, folder)` makes larger calls of training fail.

    It gives a list of the calls that were tried: their networks, and the `calls` planned for the
    batch.
    """
    train_in_calls = _batch_training.train_in_calls

    def limit(
        most: int,
        folder: SweepFolder,
        message: str = "RESOURCE_EXHAUSTED: Out of memory allocating",
    ) -> list[tuple[int, int]]:
        tried: list[tuple[int, int]] = []

        def limited(states: Any, *args: Any, **options: Any) -> Iterator[Any]:
            num_networks = len(states.step)
            num_finished = len(list((folder.path / "batches").glob("*.safetensors")))
            tried.append((num_networks, folder.plan().batches[num_finished].calls))
            if num_networks > most:
                raise jax.errors.JaxRuntimeError(message)
            yield from train_in_calls(states, *args, **options)

        monkeypatch.setattr(_batch_training, "train_in_calls", limited)
        return tried

    return limit


@pytest.fixture
def compiled_once(monkeypatch) -> None:
    """Keep what is compiled where memory falls short: the tests have enough."""
    monkeypatch.setattr(jax, "clear_caches", lambda: None)


def test_out_of_memory_halves_the_calls_and_changes_no_bit(
    sweep, memory_for, digits, alike, caplog, tmp_path
):
    folder = SweepFolder(tmp_path / "sweep")
    tried = memory_for(2, folder)
    with caplog.at_level(logging.WARNING):
        assert alike(run_sweep(sweep, digits, folder.path))
    # The plan was changed before the smaller call, and for what follows
    assert tried == [(4, 1)] + 8 * [(2, 2)]
    assert [batch.calls for batch in folder.plan().batches] == [2, 2, 2, 2]
    assert caplog.text.count("4 networks do not fit into the memory; half as many from now on") == 1


@pytest.mark.usefixtures("compiled_once")
@pytest.mark.slow
def test_out_of_memory_in_the_middle_halves_what_follows(
    sweep, digits, alike, monkeypatch, tmp_path
):

    folder, train_in_calls, networks = (
        SweepFolder(tmp_path / "sweep"),
        _batch_training.train_in_calls,
        [],
    )

    def limited(states: Any, *args: Any, **options: Any) -> Iterator[Any]:
        networks.append(len(states.step))
        for epoch, result in enumerate(train_in_calls(states, *args, **options)):
            if networks == [4, 4] and epoch == 2:
                raise jax.errors.JaxRuntimeError(
                    "RESOURCE_EXHAUSTED: Out of memory allocating 1 byte."
                )
            yield result

    monkeypatch.setattr(_batch_training, "train_in_calls", limited)
    assert alike(run_sweep(sweep, digits, folder.path, checkpoint_seconds=0.0))
    assert networks == [4, 4] + 6 * [2]
    assert [batch.calls for batch in folder.plan().batches] == [1, 2, 2, 2]
    assert list((folder.path / "checkpoints").iterdir()) == []


@pytest.mark.usefixtures("compiled_once")
def test_out_of_memory_with_one_network_per_device_is_an_error(sweep, memory_for, digits, tmp_path):
    folder = SweepFolder(tmp_path / "sweep")
    tried = memory_for(1, folder)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        run_sweep(sweep, digits, folder.path)
    assert tried == [(4, 1), (2, 2)]


def test_other_errors_of_jax_are_not_taken_for_a_lack_of_memory(
    sweep, memory_for, digits, tmp_path
):
    folder = SweepFolder(tmp_path / "sweep")
    tried = memory_for(2, folder, "INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: something else"):
        run_sweep(sweep, digits, folder.path)
    assert tried == [(4, 1)]
    assert {batch.calls for batch in folder.plan().batches} == {1}
