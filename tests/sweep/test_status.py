"""What `lmcjax status` says about a sweep's folder."""

import os
import re
from pathlib import Path

import pytest

from lmcjax import cli
from lmcjax.sweep import run_sweep

pytestmark = pytest.mark.usefixtures("quick_compilation", "four_per_batch")


def test_status_and_resume_of_no_folder_are_one_line_and_create_nothing(error_line, tmp_path):
    for command in (["status"], ["sweep", "--resume"], ["plot"]):
        assert str(tmp_path / "none") in error_line(*command, tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def status(capsys: pytest.CaptureFixture, folder: Path) -> dict[str, str]:
    """What `lmcjax status` prints, by the first word of each line."""
    capsys.readouterr()
    cli.main(["status", str(folder)])
    _, *lines = re.split(r"\n  (?=[a-z])", capsys.readouterr().out)
    printed = {}
    for line in lines:
        first, *rest = line.split()
        printed[first] = " ".join(rest)
    return printed


def test_status_of_a_finished_sweep(finished, capsys):
    printed = status(capsys, finished.path)
    assert printed.keys() == {"done", "diverged", "left", "computing", "time"}
    assert printed["done"] == "16 networks in 4 of 4 batches"
    assert printed["diverged"] == "0 of these"
    assert printed["left"] == "0 networks in 0 batches"
    assert printed["computing"] == "nobody"
    assert re.match(r"\d+:\d\d:\d\d of computing; results in ", printed["time"])


@pytest.mark.usefixtures("unchecked")
def test_status_of_an_unfinished_sweep_with_a_damaged_batch(snapshot, finished, capsys):
    finished.batch_path(3).unlink()
    damaged = finished.batch_path(1)
    damaged.write_bytes(damaged.read_bytes()[:-7])
    stored = finished.read_batch(0)
    finished.write_batch(0, stored._replace(seconds={"train": 3000.0, "compare": 600.0}))
    finished.write_batch(2, finished.read_batch(2)._replace(seconds={"train": 3600.0}))
    before = snapshot(finished.path)
    printed = status(capsys, finished.path)
    assert printed["done"] == "8 networks in 2 of 4 batches"
    assert printed["left"] == "8 networks in 2 batches"
    assert "batches/00001.safetensors: truncated or damaged" in printed["damaged"]
    assert printed["computing"] == "nobody"
    work = [batch.operations for batch in finished.plan().batches]
    assert work[0] < work[2]
    assert printed["time"] == "2:00:00 of computing so far, about 2:00:00 to go"
    with finished.locks.hold():
        assert status(capsys, finished.path)["computing"].startswith(f"process {os.getpid()} on ")
    assert {**snapshot(finished.path), "lock": 0} == {**before, "lock": 0}


def test_status_gives_the_command_that_goes_on_in_one_piece(finished, capsys):
    finished.batch_path(3).unlink()
    name = "a [bold]folder with quite a long name" * 3
    folder = finished.path.rename(finished.path.with_name(name))
    capsys.readouterr()
    cli.main(["status", str(folder)])
    assert f"  go on     lmcjax sweep --resume '{folder}'\n" in capsys.readouterr().out


def test_status_before_anything_is_finished(sweep, error_line, fail, digits, capsys, tmp_path):
    with pytest.raises(RuntimeError, match="as if killed"):
        run_sweep(sweep, digits, tmp_path / "sweep", on_progress=lambda progress: fail())
    printed = status(capsys, tmp_path / "sweep")
    assert printed["done"] == "0 networks in 0 of 4 batches"
    assert printed["left"] == "16 networks in 4 batches"
    assert "time" not in printed
    assert "nothing is finished yet" in error_line("plot", tmp_path / "sweep")
