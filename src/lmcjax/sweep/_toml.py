"""Sweeps from tables of plain values, as TOML files and the command line give them."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmcjax.sweep._grid import Sweep, did_you_mean


def sweep_from_table(table: Mapping[str, Any]) -> Sweep:
    """Make a sweep from names and plain values; `seeds` may be their number, for 0, 1, ...

    Raises:
        ValueError: an unknown name, no seeds, or values that `Sweep` refuses.
    """
    names = [field.name for field in dataclasses.fields(Sweep)]
    for name in table:
        if name not in names:
            raise ValueError(
                f"{name!r} is no option of a sweep{did_you_mean(name, names)}; there are {names}"
            )
    if "seeds" not in table:
        raise ValueError("a sweep needs seeds, a list or their number")
    values = dict(table)
    seeds = values["seeds"]
    # To Python, True is an integer; `Sweep` refuses it as a seed
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        values["seeds"] = range(seeds)
    return Sweep(**values)


def read_sweep(path: Path) -> tuple[Sweep, str]:
    """Read a sweep from a TOML file, and the name of its data set (default: mnist5k).

    Raises:
        OSError: the file can't be read.
        ValueError: it is no TOML, or does not describe a sweep; names the file.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
        dataset = table.pop("dataset", "mnist5k")
        if not isinstance(dataset, str):
            raise ValueError(f"dataset is a name or a folder, not {dataset!r}")
        return sweep_from_table(table), dataset
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
