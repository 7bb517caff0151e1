"""Fill the tables of `README.md` from the results of `lmcjax figure2` stored in `docs/figure2` and
`docs/networks`.
"""

import json
from pathlib import Path

import xarray as xr
from rich.table import Table

from lmcjax.results import (
    MATCHING_LABELS,
    dimension_table,
    matching_table,
    mean_and_std,
    measured,
    of_one_architecture,
    own_loss,
    spread,
)

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- {0}: made by docs/make_readme.py -->", "<!-- end of {0} -->"


def markdown(table: Table) -> str:
    """A rich table as Markdown."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    rows = [
        [str(column.header) for column in table.columns],
        ["--:"] * len(columns),
        *zip(*columns, strict=True),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def figure2() -> str:
    """The paper's figure in numbers."""
    results = of_one_architecture(
        xr.load_dataset(ROOT / "docs" / "figure2" / "results.nc", engine="h5netcdf")
    )
    config, seconds = json.loads(results.attrs["config"]), json.loads(results.attrs["seconds"])
    spent = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
    pairs = results.sizes["pair"]
    layers = config["num_hidden_layers"][0]
    width = config["widths"][0]
    steps = results.attrs["training_steps"]
    devices = results.attrs["devices"]
    # Lines that end in a backslash go on in the next one
    return f"""Test loss half-way between two networks, in nats, mean ± standard deviation \
over {pairs} pairs
({results.attrs["dataset"]}, {layers} hidden layers of {width},
{steps} steps; {devices} devices: {spent}, compilation included):

{markdown(matching_table(results, "midpoint_loss", ""))}

and the approximate dimensions that the matchings compare, layers 1 / 2 / 3:

{markdown(dimension_table(results))}
"""


def networks() -> str:
    """Other networks, each at the rate with the smallest test loss."""
    matchings = ("none", "weights", "covariance", "activations")
    names = [MATCHING_LABELS[m] for m in matchings]
    header = ["network", "neurons in groups", "rate", "the networks themselves", *names]
    rows = [header, ["---", "--:", "--:", *["--:"] * (len(header) - 3)]]
    for path in sorted((ROOT / "docs" / "networks").glob("*.nc")):
        results = of_one_architecture(xr.load_dataset(path, engine="h5netcdf"))
        own = own_loss(results)
        rate = float(own.mean("pair").idxmin("learning_rate"))
        sizes = results["num_neurons"].values
        columns = [own, *(measured(results, "midpoint_loss").sel(matching=m) for m in matchings)]
        cells = (mean_and_std(column.sel(learning_rate=rate)) for column in columns)
        numbers = [spread(float(mean), float(std)) for mean, std in cells]
        rows.append([f"`{path.stem}`", f"{sizes.sum():,} in {len(sizes)}", f"{rate:.3g}", *numbers])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def main() -> None:
    """Replace what stands between the markers."""
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    for name, section in (("figure2", figure2()), ("networks", networks())):
        start, end = START.format(name), END.format(name)
        before, rest = text.split(start)
        text = f"{before}{start}\n{section}{end}{rest.split(end)[1]}"
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
