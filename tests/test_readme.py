"""The README's program runs as it stands and shows what it says."""

import contextlib
import io
import re
from pathlib import Path


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
