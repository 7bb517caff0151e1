"""What the installed package says of itself."""

import tomllib
from pathlib import Path

import lmcjax

ROOT = Path(__file__).parent.parent


def test_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert lmcjax.__version__ == project["version"]
