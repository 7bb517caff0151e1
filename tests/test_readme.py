"""The README's program runs as it stands and shows what it says."""

import contextlib
import io
import re
import tomllib
from pathlib import Path

from lmcjax.symmetry import spec_from_table


def test_the_ten_lines():
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    program = re.search(r"```python\n(import jax, lmcjax.*?)```", readme, re.DOTALL).group(1)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(program, {})
    measured = dict(re.findall(r"(.*): barrier (.*) nats", printed.getvalue()))
    assert set(measured) == {"as trained", "permuted"}
    for name, barrier in measured.items():
        claimed = float(re.search(rf"`{name}: barrier (.*?) nats`", readme).group(1))
        assert abs(float(barrier) - claimed) < 0.1, (name, barrier, claimed)


def test_the_spec_as_text_is_the_spec_in_python():
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    table = tomllib.loads(re.search(r"```toml\n(\[axes\].*?)```", readme, re.DOTALL).group(1))
    program = re.search(r"(from lmcjax.symmetry import PermutationSpec.*?)\.bind\(params\)", readme, re.DOTALL).group(1)
    names: dict = {}
    exec(program, names)
    assert spec_from_table(table) == names["spec"]
