"""Write `docs/benchmarks.md`, and tables of other pages, from `benchmarks/results`."""

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Lines that end in a backslash go on in the next one
HEADER = """# Benchmarks

Written by `python benchmarks/make_docs.py` from `benchmarks/results/*.json`. \
Do not edit: run the command under a table
to measure again, then that one.

<!-- test
python benchmarks/make_docs.py
-->
"""
# Values with which a benchmark takes seconds: a test runs every command of the page with these
# instead
SMALL: dict[str, dict[str, str]] = {
    "benchmarks/assignment.py": {"--repetitions": "1", "--batches": "8 2"},
    "benchmarks/chain.py": {"--repetitions": "1", "--pairs": "2", "--widths": "8"},
    "benchmarks/discovery.py": {"--repetitions": "1", "--depths": "1"},
    "benchmarks/matching.py": {
        "--only": "mlp",
        "--pairs": "2",
        "--iterations": "1",
        "--epochs": "1",
        "--mlp-width": "8",
    },
    "benchmarks/matching_quality.py": {
        "--seeds": "1",
        "--random-pairs": "1",
        "--trained-pairs": "1",
        "--epochs": "1",
    },
    "benchmarks/planted.py": {"--repetitions": "1", "--only": "LSTM"},
    "benchmarks/sweep.py": {"--repetitions": "1", "--widths": "8", "--seeds": "2"},
    "benchmarks/torch_checkpoints.py": {
        "--only": "VGG",
        "--epochs": "1",
        "--moment-samples": "100",
    },
    "benchmarks/training.py": {"--repetitions": "1", "--widths": "8"},
    "benchmarks/zoo.py": {"--repetitions": "1", "--only": "equinox", "--network": "MLP"},
}
# Pages that are written by hand, and the result whose table they show
TABLES = {"docs/frameworks/torch.md": "torch_checkpoints"}


def small(command: str) -> str:
    """The command with other values, in the same order, and further options behind them."""
    python, script, *options = shlex.split(command)
    values = SMALL[script]
    shown = [option for option in options if option.startswith("--")]
    added = [option for option in values if option not in shown]
    return " ".join(
        [python, script, *(f"{option} {values[option]}" for option in (*shown, *added))]
    )


def table_lines(result: dict[str, Any]) -> list[str]:
    """A result's table in Markdown."""
    table = [result["columns"], *result["rows"]]
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in table]
    numeric = [
        any(cell[:1].isdigit() or cell[:1] == "-" for cell in column[1:])
        for column in zip(*cells, strict=True)
    ]
    rule = ["--:" if right else ":--" for right in numeric]
    return [f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]]]


def section(result: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"## {result['title']}",
            "",
            result["note"].strip(),
            "",
            *table_lines(result),
            "",
            f"Machine: {result['machine']}, {result['date']}.",
            "",
            f"Command: `{result['command']}`",
            "",
            "<!-- test",
            f"slow: {small(result['command'])}",
            "-->",
            "",
        ]
    )


def fill_table(text: str, name: str) -> str:
    """A page whose table of that name is written anew, with what is measured above it."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    result = json.loads(path.read_text("utf-8"))
    made_by = f"Machine: {result['machine']}, {result['date']}. Command: `{result['command']}`"
    first = f"<!-- table {name} -->"
    last = "<!-- end of the table -->"
    companion = ["<!-- test", f"slow: {small(result['command'])}", "-->"]
    lines = [first, result["note"].strip(), "", *table_lines(result), "", made_by, "", *companion]
    table = "\n".join([*lines, "", last])
    pattern = f"{re.escape(first)}.*?{re.escape(last)}"
    return re.sub(pattern, lambda _: table, text, flags=re.DOTALL)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    results = [
        json.loads(path.read_text("utf-8"))
        for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    ]
    target = ROOT / "docs" / "benchmarks.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join([HEADER, *map(section, results)]), encoding="utf-8")
    for page, name in TABLES.items():
        path = ROOT / page
        path.write_text(fill_table(path.read_text("utf-8"), name), encoding="utf-8")
    print(f"{target.relative_to(ROOT)}: {len(results)} tables")


if __name__ == "__main__":
    main()
