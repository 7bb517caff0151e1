"""What the installed package says of itself."""

import functools
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lmcjax

ROOT = Path(__file__).parent.parent


def test_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert lmcjax.__version__ == project["version"]


def test_other_frameworks_are_not_imported():
    """They are optional, and slow to import."""
    program = (
        "import sys, lmcjax, lmcjax.cli\n"
        "print(sorted({'torch', 'torchax', 'equinox', 'haiku'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("name", "call", "install"),
    [
        ("equinox", lmcjax.from_equinox, "pip install equinox"),
        ("haiku", functools.partial(lmcjax.from_haiku, params={}), "pip install dm-haiku"),
        ("torch", lmcjax.from_torch, "pip install torch==2.13.0 --index-url"),
    ],
)
def test_a_missing_framework_says_what_to_install(name, call, install, monkeypatch):
    def missing(module):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=f"{name} is not installed: {install}"):
        call(None)
