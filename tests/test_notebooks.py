"""The notebooks run, at a small size, and their two halves are one."""

import runpy
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import pytest
from jupytext.compare import compare_notebooks

pytestmark = pytest.mark.usefixtures("quick_compilation", "unchecked")
NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("[0-9]*.py"))


def test_there_are_four():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_text_is_what_was_run(path):
    run = jupytext.read(path.with_suffix(".ipynb"))
    del run.metadata["kernelspec"]  # the text says nothing of what runs it
    compare_notebooks(run, jupytext.read(path), fmt="py:percent")
    cells = [cell for cell in run.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)


QUICK = ("01",)
TO_RUN = []
for notebook in NOTEBOOKS:
    marks = () if notebook.name[:2] in QUICK else (pytest.mark.slow,)
    TO_RUN.append(pytest.param(notebook, marks=marks, id=notebook.stem))


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
@pytest.mark.parametrize("path", TO_RUN)
def test_it_runs(path, monkeypatch):
    monkeypatch.setenv("LMCJAX_NOTEBOOK_SIZE", "tiny")
    with plt.rc_context({"backend": "agg"}):
        names = runpy.run_path(str(path))
        assert names["tiny"]
        assert plt.get_fignums()
        plt.close("all")
