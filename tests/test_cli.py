"""The command line, as a user meets it."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import xarray as xr

from lmcjax import cli
from lmcjax.models import MODELS

TINY = [
    "figure2",
    "--scale",
    "tiny",
    "--dataset",
    "digits",
    "--num-hidden-layers",
    "1",
    "--num-points",
    "3",
    "--repetitions",
    "1",
]


def fails(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The error line of a command that must fail with one line and exit code 2."""
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("lmcjax: error: ")
    assert errors.count("\n") == 1
    return errors


def test_figure2_in_a_fresh_process(tmp_path: Path):
    """The command as installed: tables on the screen, three files, then never silently over them."""
    command = [Path(sys.executable).with_name("lmcjax"), *TINY, "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 networks (mlp, 16 neurons in 1 groups) on digits" in " ".join(done.stdout.split())
    for expected in ("no matching", "covariance", "walk between networks", "100%"):
        assert expected in done.stdout
    for name in ("results.nc", "figure2.png", "figure2.pdf"):
        assert (tmp_path / "out" / name).stat().st_size > 1000
        assert str(tmp_path / "out" / name) in done.stdout.replace("\n", "")
    before = (tmp_path / "out" / "results.nc").read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "already holds results.nc" in again.stderr
    assert (tmp_path / "out" / "results.nc").read_bytes() == before


def test_overwrite_and_plot(tmp_path, capsys):
    (tmp_path / "results.nc").write_text("old")
    cli.main([*TINY, "--out", str(tmp_path), "--overwrite"])
    results = xr.load_dataset(tmp_path / "results.nc", engine="h5netcdf")
    assert results.sizes["neuron"] == 16
    (tmp_path / "figure2.png").unlink()
    capsys.readouterr()
    cli.main(["plot", str(tmp_path)])
    assert (tmp_path / "figure2.png").exists()
    assert "Test barrier" in capsys.readouterr().out


def test_options_override_the_scale():
    config = cli.Figure2(scale="paper", width=64, learning_rates=("0.1", "1e-3:1e-2:2")).config()
    assert (config.width, config.epochs, config.batch_size, config.repetitions) == (64, 50, 500, 4)
    assert config.learning_rates == (0.1, 0.001, 0.01)
    assert cli.Figure2().config().learning_rates == (0.0001, 0.000398, 0.00158, 0.00631, 0.0251, 0.1)


def test_other_models_have_scales_of_their_own():
    config = cli.Figure2(model="vgg", epochs=2).config()
    assert (config.width, config.epochs, config.optimizer, config.moment_samples) == (8, 2, "adam", 500)
    assert cli.Figure2(model="transformer", num_hidden_layers=2).config().num_hidden_layers == 2
    assert cli.Figure2(apply="some.module:apply").config().model == "some.module:apply"


def test_the_models_on_offer_are_those_that_there_are():
    assert get_args(cli.ModelName) == MODELS


def test_interrupt_is_clean(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lmcjax.experiments.figure2.run_figure2", interrupted)
    with pytest.raises(SystemExit) as stop:
        cli.main([*TINY, "--out", str(tmp_path)])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "lmcjax: interrupted, nothing was written\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected one of"),
        (["figure3"], "figure3"),
        (["figure2", "--wdth", "3"], "--wdth"),
        (["figure2", "--width", "wide"], "--width"),
        (["figure2", "--width", "0"], "width is at least 1, not 0"),
        (["figure2", "--optimizer", "lion"], "invalid choice 'lion'"),
        (["figure2", "--learning-rates", "1e-4:1e-1"], "'1e-4:1e-1' is neither a number nor a range"),
        (["figure2", "--learning-rates", "1e-4:1e-1:1"], "'1e-4:1e-1:1' is neither a number nor a range"),
        (["figure2", "--learning-rates=-1"], "learning rates are positive"),
        (["figure2", "--dataset", "no-such-data"], "unknown data set 'no-such-data'"),
        (["figure2", "--dataset", "digits", "--batch-size", "5000"], "batch size 5000 is larger than the training set"),
        (["figure2", "--model", "alexnet"], "invalid choice 'alexnet'"),
        (["figure2", "--apply", "no.module:f"], "cannot import 'no.module'"),
        (["figure2", "--apply", "math:sqrt", "--width", "3"], "leave out --model, --width and --num-hidden-layers"),
        (["figure2", "--model", "vgg", "--scale", "paper"], "--scale paper is of the mlp; others have tiny, default"),
        (["figure2", "--model", "vgg", "--num-hidden-layers", "2"], "is of the mlp and the transformer, not of vgg"),
        (["plot", "no-such-folder"], "no-such-folder/results.nc: no such file"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_damaged_results(capsys, tmp_path):
    (tmp_path / "results.nc").write_bytes(b"not netCDF")
    assert "results.nc: not a readable netCDF file" in fails(capsys, "plot", str(tmp_path))
    xr.Dataset({"x": 1}).to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    assert "results.nc: not results of figure2, it lacks" in fails(capsys, "plot", str(tmp_path))


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["figure2", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("--dataset", "--scale", "--learning-rates", "--optimizer", "--networks-per-batch", "--out"):
        assert option in text
