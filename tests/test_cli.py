"""The command line, as a user meets it."""

import shlex
import signal
from pathlib import Path
from typing import get_args

import pytest
import xarray as xr

from lmcjax import cli
from lmcjax.cli._figure2 import ModelName
from lmcjax.cli._plot import complain
from lmcjax.models import MODELS
from lmcjax.results import draw_picture

TINY = shlex.split(
    "figure2 --scale tiny --dataset digits --num-hidden-layers 1 --num-points 3 --repetitions 1"
)


def fails(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The error line of a command that must fail with one line and exit code 2."""
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("lmcjax: error: ")
    assert errors.count("\n") == 1
    return errors


def refuse_to_draw(
    monkeypatch: pytest.MonkeyPatch, plot: str, results: Path, capsys: pytest.CaptureFixture
) -> None:
    """From now on a picture fails, once the results are stored and the tables are on the screen."""

    def fail(*_: object) -> None:
        assert results.is_file()
        printed = capsys.readouterr().out
        assert "Test barrier" in printed
        assert printed.endswith(f"{results}\n")
        raise TypeError("no\nink")

    monkeypatch.setattr(f"lmcjax.results.{plot}", fail)


def test_figure2(tmp_path, capsys, monkeypatch):
    """Tables on the screen, three files; again nothing is computed, another is refused."""
    out = tmp_path / "out"
    command = [*TINY, "--out", str(out)]
    cli.main(command)
    done = capsys.readouterr().out
    assert "4 networks (mlp), 2 pairs on digits (1,442 training images), 56 steps each" in done
    for expected in ("no matching", "covariance", "4/4 networks, 100%", "Approximate dimension"):
        assert expected in done
    for name in ("results.nc", "figure2.png", "figure2.pdf"):
        assert (out / name).stat().st_size > 1000
        assert str(out / name) in done.replace("\n", "")
    batch = out / "batches" / "00000.safetensors"
    before = batch.stat().st_mtime_ns
    cli.main(command)
    assert batch.stat().st_mtime_ns == before
    assert capsys.readouterr().out.splitlines()[-10:] == done.splitlines()[-10:]
    other = fails(capsys, *command, "--width", "8")
    assert "holds another sweep: sweep.widths: [16] there, [8] here" in other

    refuse_to_draw(monkeypatch, "plot_figure2", out / "results.nc", capsys)
    cli.main(command)
    again = shlex.join(["lmcjax", "plot", str(out)])
    complaint = f"lmcjax: no picture figure2: TypeError: no ink; to draw it again: {again}\n"
    assert capsys.readouterr().err == complaint


@pytest.mark.slow
def test_overwrite_and_plot(tmp_path, capsys):
    (tmp_path / "results.nc").write_text("old")
    error = fails(capsys, *TINY, "--out", str(tmp_path))
    assert "not the folder of a sweep, it holds ['results.nc']" in error
    fails(capsys, *TINY, "--out", str(tmp_path), "--overwrite", "--batch-size", "5000")
    assert (tmp_path / "results.nc").read_text() == "old"
    cli.main([*TINY, "--out", str(tmp_path), "--overwrite"])
    results = xr.load_dataset(tmp_path / "results.nc", engine="h5netcdf")
    assert results["num_neurons"].squeeze() == 16
    (tmp_path / "figure2.png").unlink()
    capsys.readouterr()
    cli.main(["plot", str(tmp_path)])
    assert (tmp_path / "figure2.png").exists()
    assert "Test barrier" in capsys.readouterr().out


SWEEP = """
dataset = "digits"
seeds = 2
widths = [6, 8]
num_hidden_layers = 1
learning_rates = [0.1, 0.2]
matchings = ["weights"]
epochs = 1
num_points = 3
"""


def test_a_sweep_from_its_plan_to_its_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SWEEP)
    cli.main(["sweep", "small.toml", "--dry-run"])
    plan = capsys.readouterr().out
    assert "8 networks (mlp), 4 pairs on digits" in plan
    assert "zeros" in plan
    assert "compilations" in plan
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.toml"]

    def stop_the_sweep(_: object) -> str:
        signal.raise_signal(signal.SIGTERM)
        return ""

    with monkeypatch.context() as patch:
        patch.setattr("lmcjax.cli._progress.describe", stop_the_sweep)
        with pytest.raises(SystemExit) as stop:
            cli.main(["sweep", "small.toml"])
    assert stop.value.code == 143
    stopped = "lmcjax: stopped by SIGTERM; what is finished is stored in runs/small; go on with: "
    assert capsys.readouterr().err == f"{stopped}lmcjax sweep --resume runs/small\n"

    cli.main(["sweep", "small.toml"])
    printed = capsys.readouterr().out
    assert "8/8 networks, 100%" in printed
    assert "Test loss half-way" in printed
    for name in ("results.nc", "sweep.png", "sweep.pdf"):
        assert (Path("runs/small") / name).exists()
    cli.main(["status", "runs/small"])
    status = capsys.readouterr().out
    assert "done      8 networks in 1 of 1 batches" in status
    assert "left      0 networks" in status
    Path("runs/small/results.nc").unlink()
    Path("runs/small/sweep.png").unlink()
    cli.main(["plot", "runs/small"])
    assert "unfinished" in capsys.readouterr().out
    assert Path("runs/small/sweep.png").exists()
    cli.main(["sweep", "--resume", "runs/small"])
    assert Path("runs/small/results.nc").exists()

    refuse_to_draw(monkeypatch, "plot_sweep", Path("runs/small/results.nc"), capsys)
    complaint = (
        "lmcjax: no picture sweep: TypeError: no ink; to draw it again: lmcjax plot runs/small\n"
    )
    cli.main(["sweep", "small.toml"])  # the numbers are all there
    assert capsys.readouterr().err == complaint
    with pytest.raises(SystemExit) as stop:
        cli.main(["plot", "runs/small"])  # the picture is what was asked for
    assert stop.value.code == 1
    assert capsys.readouterr().err == complaint


def test_options_override_the_scale():
    sweep = cli.Figure2(scale="paper", width=64, learning_rates=("0.1", "1e-3:1e-2:2")).sweep()
    assert sweep.widths == (64,)
    assert sweep.epochs == 50
    assert sweep.batch_size == 500
    assert len(sweep.pairs) == 4
    assert sweep.learning_rates == (0.1, 0.001, 0.01)
    assert cli.Figure2().sweep().learning_rates == (0.0001, 0.000398, 0.00158, 0.00631, 0.0251, 0.1)


def test_other_models_have_scales_of_their_own():
    sweep = cli.Figure2(model="vgg", epochs=2).sweep()
    assert sweep.widths == (8,)
    assert sweep.epochs == 2
    assert sweep.optimizers == ("adam",)
    assert sweep.moment_samples == 500
    transformer = cli.Figure2(model="transformer", num_hidden_layers=2).sweep()
    assert transformer.num_hidden_layers == (2,)
    own = "docs.examples.row_reader:apply"
    assert cli.Figure2(apply=own).sweep().model == own


def test_the_models_on_offer_are_those_that_there_are():
    assert get_args(ModelName) == MODELS


def test_interrupt_is_clean(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lmcjax.sweep.run_sweep", interrupted)
    with pytest.raises(SystemExit) as stop:
        cli.main([*TINY, "--out", str(tmp_path)])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "lmcjax: interrupted, nothing was written\n"
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_during_a_picture_says_that_the_numbers_are_there(
    tmp_path, capsys, monkeypatch
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    def with_its_picture(arguments):
        draw_picture(interrupted, tmp_path / "figure2", complain("lmcjax plot runs"))

    monkeypatch.setattr(cli.Plot, "run", with_its_picture)
    with pytest.raises(SystemExit) as stop:
        cli.main(["plot", str(tmp_path)])
    assert stop.value.code == 130
    assert capsys.readouterr().err == (
        "lmcjax: no picture figure2: interrupted; to draw it again: lmcjax plot runs\n"
        "lmcjax: interrupted; the numbers are stored\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected one of"),
        (["figure3"], "figure3"),
        (["figure2", "--wdth", "3"], "--wdth"),
        (["figure2", "--width", "wide"], "--width"),
        (["figure2", "--width", "0"], "widths are at least 1, not (0,)"),
        (["figure2", "--optimizer", "lion"], "invalid choice 'lion'"),
        (
            ["figure2", "--learning-rates", "1e-4:1e-1"],
            "'1e-4:1e-1' is neither a number nor a range",
        ),
        (
            ["figure2", "--learning-rates", "1e-4:1e-1:1"],
            "'1e-4:1e-1:1' is neither a number nor a range",
        ),
        (["figure2", "--learning-rates=-1"], "learning rates are positive"),
        (["figure2", "--dataset", "no-such-data"], "unknown data set 'no-such-data'"),
        (["figure2", "--seed", "-1"], "seeds lie between 0 and 2^32 - 1"),
        (["figure2", "--repetitions", "0"], "repetitions is at least 1, not 0"),
        (["sweep"], "sweep needs either CONFIG.toml or --resume FOLDER"),
        (["sweep", "a.toml", "--resume", "b"], "sweep needs either CONFIG.toml or --resume FOLDER"),
        (["sweep", "--resume", "a", "--out", "b"], "--resume names the folder already"),
        (["sweep", "no-such.toml"], "No such file or directory: 'no-such.toml'"),
        (["sweep", "--resume", "no-such-folder"], "no sweep has been started here"),
        (
            ["sweep", "--resume", "a", "--checkpoint-minutes", "0"],
            "--checkpoint-minutes is positive, not 0",
        ),
        (["sweep", "--resume", "a", "--coordinator", "b:1"], "belong to --distributed"),
        (["status", "no-such-folder"], "no sweep has been started here"),
        (
            ["figure2", "--dataset", "digits", "--batch-size", "5000"],
            "batch size 5000 is larger than the training set",
        ),
        (["figure2", "--model", "alexnet"], "invalid choice 'alexnet'"),
        (["figure2", "--apply", "no.module:f"], "cannot import 'no.module'"),
        (
            ["figure2", "--apply", "math:sqrt", "--width", "3"],
            "leave out --model, --width and --num-hidden-layers",
        ),
        (
            ["figure2", "--model", "vgg", "--scale", "paper"],
            "--scale paper is of the mlp; others have tiny, default",
        ),
        (
            ["figure2", "--model", "vgg", "--num-hidden-layers", "2"],
            "is of the mlp and the transformer, not of vgg",
        ),
        (
            ["plot", "no-such-folder"],
            "no sweep has been started here, there is no such file: 'no-such-folder/sweep.json'",
        ),
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
    assert "results.nc: not results of a sweep, it lacks" in fails(capsys, "plot", str(tmp_path))


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["figure2", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("--dataset", "--scale", "--learning-rates", "--optimizer", "--seed", "--out"):
        assert option in text
