"""Fill the tables of `README.md` from the stored results in `docs/figure2` (made by `lmcjax figure2`)."""

import json
from pathlib import Path

import xarray as xr
from rich.table import Table

from lmcjax.experiments.summary import dimension_table, matching_table

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- figure2: made by docs/make_readme.py -->", "<!-- end of figure2 -->"


def markdown(table: Table) -> str:
    """A rich table as Markdown."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    rows = [[str(column.header) for column in table.columns], ["--:"] * len(columns), *zip(*columns, strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Replace what stands between the two markers."""
    results = xr.load_dataset(ROOT / "docs" / "figure2" / "results.nc", engine="h5netcdf")
    config, seconds = json.loads(results.attrs["config"]), json.loads(results.attrs["seconds"])
    spent = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
    text = f"""{START}
Test loss half-way between two networks, in nats, mean ± standard deviation over {config["repetitions"]} pairs
({results.attrs["dataset"]}, {config["num_hidden_layers"]} hidden layers of {config["width"]},
{results.attrs["training_steps"]} steps; {results.attrs["devices"]} devices: {spent}, compilation included):

{markdown(matching_table(results, "midpoint_loss", ""))}

and the approximate dimensions that the matchings compare, layers 1 / 2 / 3:

{markdown(dimension_table(results))}
"""
    readme = ROOT / "README.md"
    before, rest = readme.read_text("utf-8").split(START)
    after = rest.split(END)[1]
    readme.write_text(before + text + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
