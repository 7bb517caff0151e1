"""Write `docs/benchmarks.md` from the results in `benchmarks/results`."""

import argparse
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HEADER = """# Benchmarks

Written by `python benchmarks/make_docs.py` from `benchmarks/results/*.json`. Do not edit: run the command under a table
to measure again, then that one.
"""


def section(result: dict[str, Any]) -> str:
    table = [result["columns"], *result["rows"]]
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in table]
    numeric = [any(cell[:1].isdigit() or cell[:1] == "-" for cell in column[1:]) for column in zip(*cells, strict=True)]
    rule = ["--:" if right else ":--" for right in numeric]
    lines = [f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]]]
    return "\n".join(
        [
            f"## {result['title']}",
            "",
            result["note"].strip(),
            "",
            *lines,
            "",
            f"Machine: {result['machine']}, {result['date']}.",
            "",
            f"Command: `{result['command']}`",
            "",
        ]
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    results = [json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))]
    target = ROOT / "docs" / "benchmarks.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join([HEADER, *map(section, results)]), encoding="utf-8")
    print(f"{target.relative_to(ROOT)}: {len(results)} tables")


if __name__ == "__main__":
    main()
