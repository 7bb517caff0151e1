"""`lmcjax claims` on results that are stored already."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lmcjax import cli
from lmcjax.experiments.lower_bound import EXPERIMENT

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Results of the lower bound, made up: the error is twice the bound."""
    rng = np.random.default_rng(0)
    dim, n = np.array([1, 3, 5, 8, 16, 64]), np.array([64, 128, 256])
    bound = n ** (-2 / dim[:, None])
    results = xr.Dataset(
        {
            "cost": (("dim", "draw", "n"), 2 * bound[:, None] * (1 + 0.001 * rng.normal(size=(6, 5, 3)))),
            "bound": (("kind", "dim", "n"), np.stack([bound / 2, bound])),
        },
        coords={"dim": dim, "n": n, "kind": ["density", "differences"]},
        attrs={"size": "small", "seconds": 12.3, "devices": "2 x cpu"},
    )
    path = tmp_path / "out" / "claims" / "lower_bound-small.nc"
    path.parent.mkdir(parents=True)
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
    written = [out / "claims.md", stored.with_name("lower_bound.png"), stored.with_name("lower_bound.pdf")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in written]
    page = written[0].read_text("utf-8")
    assert "(small size, 12 s on 2 x cpu.)" in page
    assert page.count("| small | **") == len(EXPERIMENT.claims)
    assert page.count("Not run yet.") == page.count("\n## ") - 1
    assert sorted(path.name for path in stored.parent.iterdir()) == sorted(p.name for p in (stored, *written[1:]))


def test_an_experiment_that_there_is_not(tmp_path, capsys):
    out = tmp_path / "out"
    assert "no experiment 'figure9'; there are " in fails(capsys, "claims", "--only", "figure9", "--out", str(out))
    assert not out.exists()


def test_a_damaged_file_is_named(stored, capsys):
    stored.write_bytes(stored.read_bytes()[:100])
    found = fails(capsys, "claims", "--page-only", "--out", str(stored.parents[1]))
    assert f"{stored}: not a readable netCDF file" in found
    stored.write_bytes(b"not netCDF")
    assert f"{stored}: not a readable" in fails(capsys, "claims", "--page-only", "--out", str(stored.parents[1]))


@pytest.mark.parametrize(("options", "message"), [(["--size", "huge"], "huge"), (["--onyl", "x"], "--onyl")])
def test_mistakes_are_one_line(options, message, capsys):
    assert message in fails(capsys, "claims", *options)
