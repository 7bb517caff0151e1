"""A sweep's folder: damaged, of another format, or not its own."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lmcjax.sweep import SweepFolder, run_sweep
from lmcjax.sweep._files import write_arrays

pytestmark = pytest.mark.usefixtures("quick_compilation", "four_per_batch")


def truncate(folder: SweepFolder) -> None:
    path = folder.batch_path(1)
    path.write_bytes(path.read_bytes()[:-7])


def empty(folder: SweepFolder) -> None:
    folder.batch_path(1).write_bytes(b"")


def put_a_foreign_one(folder: SweepFolder) -> None:
    """The same arrays under the same number, but stored by another sweep."""
    stored = folder.read_batch(1)
    other = SweepFolder(folder.path.parent / "other")
    (other.path / "batches").mkdir(parents=True)
    identity = folder.identity()
    identity["sweep"]["learning_rates"] = [0.03, 0.2]
    (other.path / "sweep.json").write_text(json.dumps(identity))
    other.write_batch(1, stored)
    shutil.copy(other.batch_path(1), folder.batch_path(1))


def put_another_one(folder: SweepFolder) -> None:
    shutil.copy(folder.batch_path(2), folder.batch_path(1))


# What damages a batch, or the byte that is flipped in it, and what the error says
DAMAGES: dict[str, tuple[Callable[[SweepFolder], None] | int | bytes, str]] = {
    "truncated": (truncate, "truncated or damaged"),
    "empty": (empty, "truncated or damaged"),
    "a byte of an array": (-9, "damaged"),
    "a byte of the header": (0, "damaged"),
    "a byte of the time it took": (rb"\"train\": 0.", "damaged"),
    "a byte of a name in the header": (b'"train', "damaged"),
    "foreign": (put_a_foreign_one, "not batch 1 of this sweep"),
    "renamed": (put_another_one, "not batch 1 of this sweep"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_batch_is_named_and_resuming_computes_it_alone(
    sweep, snapshot, flip, kind, finished, digits, alike, calls, caplog
):
    damage, message = DAMAGES[kind]
    if callable(damage):
        damage(finished)
    else:
        flip(finished.batch_path(1), damage)
    name = str(finished.batch_path(1))
    before = snapshot(finished.path)
    with pytest.raises(ValueError, match=re.escape(name)) as error:
        run_sweep(sweep, digits, finished.path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    after = snapshot(finished.path)
    assert {**after, "lock": 0} == {**before, "lock": 0}
    assert calls == []
    with caplog.at_level(logging.WARNING):
        assert alike(run_sweep(sweep, digits, finished.path, resume=True))
    assert name in caplog.text
    assert len(calls) == sweep.epochs
    again = snapshot(finished.path / "batches")
    changed = {path for path, held in again.items() if held != before[f"batches/{path}"]}
    assert changed == {"00001.safetensors"}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["sweep.json", "plan.json"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"null", b"{}", b"\xff\xfe"])
def test_a_damaged_description_or_plan_is_named(
    sweep, snapshot, error_line, name, content, finished, digits
):
    path = finished.path / name
    path.write_bytes(path.read_bytes()[:50] if content is None else content)
    before = snapshot(finished.path)
    with pytest.raises(ValueError, match=re.escape(str(finished.path))):
        run_sweep(sweep, digits, finished.path, resume=True)
    assert str(path) in error_line("status", finished.path)
    assert {**snapshot(finished.path), "lock": 0} == {**before, "lock": 0}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("units", [[0, 1], [0, 3], [2, 4]])
def test_a_plan_that_does_not_cover_the_sweep_once_is_named(sweep, units, finished, digits):
    path = finished.path / "plan.json"
    plan = json.loads(path.read_text())
    plan["batches"][0]["units"] = units
    path.write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        run_sweep(sweep, digits, finished.path, resume=True)


@pytest.mark.parametrize("name", ["notes.txt", "plan.json", "batches/notes.txt"])
def test_a_folder_that_holds_other_things_is_refused(
    sweep, snapshot, error_line, name, digits, tmp_path
):
    folder = tmp_path / "mine"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("mine")
    if name == "plan.json":
        (folder / "notes.txt").write_text("mine")
    before = snapshot(folder)
    with pytest.raises(FileExistsError, match="not the folder of a sweep, it holds") as error:
        run_sweep(sweep, digits, folder)
    assert str(folder) in str(error.value)
    assert snapshot(folder) == before
    message = f"no sweep has been started here, there is no such file: '{folder / 'sweep.json'}'"
    for command in (["sweep", "--resume", folder], ["status", folder]):
        assert message in error_line(*command)
    assert snapshot(folder) == before


def test_of_data_that_no_name_finds_the_command_says_which(error_line, finished):
    about = finished.identity()
    about["data"]["source"] = ""
    (finished.path / "sweep.json").write_text(json.dumps(about))
    assert "few digits" in error_line("sweep", "--resume", finished.path)


# Other formats


def set_format(path: Path, number: int | None) -> None:
    """Give a JSON file another format number, or take it away, as format 1 had it in its plans."""
    values = json.loads(path.read_text())
    values["format"] = number
    if number is None:
        del values["format"]
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("name", ["sweep.json", "plan.json"])
@pytest.mark.parametrize(("number", "found"), [(1, "format 1"), (None, "no format number")])
def test_a_description_or_plan_of_another_format_is_refused_by_name(
    sweep, snapshot, error_line, name, number, found, finished, digits
):
    path = finished.path / name
    set_format(path, number)
    before = snapshot(finished.path)
    message = f"{path}: written by another version of lmcjax: it has {found}, and this version"
    with pytest.raises(ValueError, match=re.escape(message)):
        run_sweep(sweep, digits, finished.path, resume=True)
    assert message in error_line("status", finished.path)
    assert snapshot(finished.path) == before


def test_a_batch_of_another_format_is_refused_by_name(sweep, monkeypatch, finished, digits, alike):
    path = finished.batch_path(1)
    stored = finished.read_batch(1)
    with monkeypatch.context() as patch:
        patch.setattr("lmcjax.sweep._files.FORMAT", 1)
        # By its digest of the folder, it is the right batch of the right sweep
        about = {"sweep": finished.digest, "batch": 1, "seconds": stored.seconds}
        write_arrays(path, stored.arrays, about)
    message = f"{path}: written by another version of lmcjax: it has format 1, and this version"
    with pytest.raises(ValueError, match=re.escape(message)):
        run_sweep(sweep, digits, finished.path)
    assert alike(run_sweep(sweep, digits, finished.path, resume=True))
