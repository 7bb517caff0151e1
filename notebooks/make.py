"""Run the notebooks and write each with its outputs: `NAME.py`, edited by hand, to `NAME.ipynb`.

    pip install -e ".[notebooks]"
    python notebooks/make.py               # all of them, about a minute each on 2 cores
    python notebooks/make.py 02_width      # these

What is written holds no time stamps, versions or random ids: a run that shows the same gives the
same file (03 shows seconds, so it never quite does).
"""

import argparse
import os
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in FOLDER.glob("[0-9]*.py"))
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def execute(name: str) -> NotebookNode:
    """The notebook with its outputs."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    NotebookClient(notebook, timeout=600, record_timing=False, coalesce_streams=True).execute(
        cwd=str(FOLDER)
    )
    notebook.metadata.language_info = NotebookNode(name="python")  # without the version that ran it
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{name}, cell {number} wrote to stderr: {output.text}")
    return notebook


def main() -> None:
    """Make those that are named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], default=NAMES)
    if os.environ.get("LMCJAX_NOTEBOOK_SIZE"):
        parser.error("LMCJAX_NOTEBOOK_SIZE is set: notebooks are stored at their full size")
    for name in parser.parse_args().names:
        jupytext.write(execute(name), FOLDER / f"{name}.ipynb")
        print(f"{name}.ipynb")


if __name__ == "__main__":
    main()
