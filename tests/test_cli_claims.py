"""`lmcjax claims` on results that are stored already."""

import dataclasses
import shlex
from pathlib import Path

import pytest
import xarray as xr
from matplotlib.figure import Figure

from lmcjax import cli
from lmcjax.experiments.claims import Claim, Estimate, Experiment, Limits
from lmcjax.experiments.claims import _page as claims

CLAIM = Claim(
    "Twelve is much.",
    "ours",
    "x",
    Limits(10.0, 20.0),
    lambda results: Estimate(float(results["x"]), 11.0, 13.0, 5),
)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of the first of two experiments that are made up, and cannot be run."""

    def refuse(*_: object) -> xr.Dataset:
        raise AssertionError("nothing is run")

    made_up = []
    for name in ("one", "two"):
        experiment = Experiment(
            name=name,
            title=name,
            about="About.",
            sizes={},
            measure=refuse,
            claims=(CLAIM,),
            draw=lambda _: Figure((1, 1)),
        )
        made_up.append(experiment)
    monkeypatch.setattr(claims, "EXPERIMENTS", tuple(made_up))
    path = tmp_path / "out" / "claims" / "one-small.nc"
    path.parent.mkdir(parents=True)
    results = xr.Dataset(
        {"x": 12.0}, attrs={"size": "small", "seconds": 12.3, "devices": "2 x cpu"}
    )
    results.to_netcdf(path, engine="h5netcdf")
    return path


def fails(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line of error of a command that must end with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("lmcjax: error: ")
    assert errors.count("\n") == 1
    return errors


def test_the_page_alone(stored, capsys):
    """Nothing is run: the page and the figures of what is stored."""
    out = stored.parents[1]
    cli.main(["claims", "--page-only", "--out", str(out)])
    written = [out / "claims.md", stored.with_name("one.png"), stored.with_name("one.pdf")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in written]
    page = written[0].read_text("utf-8")
    assert "(small size, 12 s on 2 x cpu.)" in page
    row = "| Twelve is much. | ours | x | 10 to 20 | 12 [11, 13] | 5 | small | **reproduced** |"
    assert row in page
    assert page.count("Not run yet.") == 1
    assert set(stored.parent.iterdir()) == {stored, *written[1:]}


def test_a_picture_that_fails_costs_a_line(stored, capsys, monkeypatch):
    """The page is there before it, and the other pictures are drawn."""
    out = stored.parents[1]
    page = out / "claims.md"

    def fail(_: xr.Dataset) -> Figure:
        assert "**reproduced**" in page.read_text("utf-8")
        raise TypeError("no\nink")

    one, two = claims.EXPERIMENTS
    monkeypatch.setattr(claims, "EXPERIMENTS", (dataclasses.replace(one, draw=fail), two))
    stored.with_name("two-small.nc").write_bytes(stored.read_bytes())
    cli.main(["claims", "--page-only", "--out", str(out)])
    printed = capsys.readouterr()
    pictures = [stored.with_name("two.png"), stored.with_name("two.pdf")]
    assert printed.out.splitlines() == [str(path) for path in (page, *pictures)]
    again = shlex.join(["lmcjax", "claims", "--page-only", "--out", str(out)])
    assert printed.err == f"lmcjax: no picture one: TypeError: no ink; to draw it again: {again}\n"


def test_an_interrupt_says_that_finished_experiments_are_stored(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lmcjax.experiments.claims.run_experiments", interrupted)
    with pytest.raises(SystemExit) as stop:
        cli.main(["claims", "--size", "tiny", "--out", str(tmp_path)])
    assert stop.value.code == 130
    again = shlex.join(["lmcjax", "claims", "--size", "tiny", "--out", str(tmp_path)])
    assert capsys.readouterr().err == (
        f"lmcjax: interrupted; finished experiments are stored, go on with: {again}\n"
    )


def test_an_experiment_that_there_is_not(tmp_path, capsys):
    out = tmp_path / "out"
    error = fails(capsys, "claims", "--only", "figure9", "--out", str(out))
    assert "no experiment 'figure9'; there are " in error
    assert not out.exists()


def test_a_damaged_file_is_named(stored, capsys):
    command = ["claims", "--page-only", "--out", str(stored.parents[1])]
    stored.write_bytes(stored.read_bytes()[:100])
    assert f"{stored}: not a readable netCDF file" in fails(capsys, *command)
    stored.write_bytes(b"not netCDF")
    assert f"{stored}: not a readable" in fails(capsys, *command)


@pytest.mark.parametrize(
    ("options", "message"), [(["--size", "huge"], "huge"), (["--onyl", "x"], "--onyl")]
)
def test_mistakes_are_one_line(options, message, capsys):
    assert message in fails(capsys, "claims", *options)
