"""Permutation symmetries of public networks: what `discover` finds of what there is.

Needs the packages of the networks; tried with torch 2.13.0, torchax 0.0.13, torchvision 0.28.0,
transformers 4.57.6, equinox 0.13.8, equimo 1.1.0, dm-haiku 0.0.17, jraph 0.0.6, flaxmodels 0.1.3,
jaxkan 0.3.7 and keras 3.15.1.
"""

import argparse
import collections
import fnmatch
import gc
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np

import lmcjax
from _report import RESULTS, ROOT, write_result
from discovery import seconds
from lmcjax.symmetry import Explanation, identity_permutations
from zoo_groups import SYMMETRIES, Symmetries
from zoo_networks import PACKAGES, Example, load

# Networks of PyTorch stand among the documentation's examples.
sys.path.insert(0, str(ROOT))

# Largest difference of an output, relative to the largest output, that rounding explains.
TOLERANCE = 1e-9


Cells: TypeAlias = tuple[str | int, ...]
COLUMNS = (
    "package",
    "network",
    "found",
    "there",
    "false",
    "missed",
    "no reason",
    "difference",
    "recovered",
    "tracing (s)",
    "beyond (s)",
)


NOT_TRIED = "-"


class Row(NamedTuple):
    """What is measured of one network."""

    package: str
    network: str
    found: int  # groups
    there: int
    false: int  # found, but not there
    missed: int  # there, but not found
    unexplained: int  # axes that nothing permutes, with no reason in the reviewed file
    difference: float  # of the outputs, when all groups are permuted
    recovered: str  # groups whose shuffle coordinate descent undoes, of all; or not tried
    tracing: float  # seconds
    beyond: float  # seconds


def in_double_precision(params: Any) -> Any:
    """Parameters in a general position: no two neurons are alike, variances are positive.

    Integers, such as tables of positions, stay as they are.
    """
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    generic = []
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            is_shape = isinstance(leaf, jax.ShapeDtypeStruct)
            generic.append(jnp.zeros(leaf.shape, leaf.dtype) if is_shape else leaf)
            continue
        longest = max(leaf.shape, default=1)
        if leaf.size == longest:  # a vector: a scale, a bias, a statistic
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.normal(size=leaf.shape) / np.sqrt(leaf.size / longest)
        generic.append(jnp.asarray(values, jnp.float64))
    return jax.tree.unflatten(structure, generic)


def widened(array: Any) -> Any:
    """Inputs in float64; integers stay as they are."""
    return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array


def compare_groups(
    spec: lmcjax.PermutationSpec, symmetries: Symmetries
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The shapes of groups that are found and not there, and of those there and not found."""
    found = collections.Counter(shape for _, shape in spec.shapes)
    there = collections.Counter(group.shape for group in symmetries.groups)
    false = list((found - there).elements())
    missed = list((there - found).elements())
    return false, missed


def unexplained(explanation: Explanation, symmetries: Symmetries) -> list[str]:
    """Axes that nothing permutes, with no reason in the reviewed file."""
    missing = []
    for row in explanation:
        if row.group is not None or row.axis is None or row.size == 1:
            continue
        place = f"{row.leaf}[{row.axis}]"
        if not any(_stands_at(pattern, place) for pattern in _places(symmetries)):
            missing.append(place)
    return missing


def stale(explanation: Explanation, symmetries: Symmetries) -> list[str]:
    """Reasons of the reviewed file for axes that are not pinned."""
    pinned = set()
    for row in explanation:
        if row.group is None and row.axis is not None:
            pinned.add(f"{row.leaf}[{row.axis}]")
    return [
        pattern
        for pattern in _places(symmetries)
        if not any(_stands_at(pattern, place) for place in pinned)
    ]


def _places(symmetries: Symmetries) -> Iterator[str]:
    for pinned in symmetries.pinned:
        yield from pinned.places


def _stands_at(pattern: str, place: str) -> bool:
    # brackets mean the axis here, not one of several characters
    return fnmatch.fnmatchcase(place, pattern.replace("[", "[[]"))


def output_difference(example: Example, spec: lmcjax.PermutationSpec, params: Any) -> float:
    """How much the outputs change when all groups are permuted, relative to the largest."""
    shuffle = lmcjax.random_permutations(jax.random.key(1), spec, params)
    shuffled = lmcjax.permute(spec, shuffle, params)
    apply = jax.jit(example.apply)
    before = jax.tree.leaves(apply(params, example.inputs))
    after = jax.tree.leaves(apply(shuffled, example.inputs))
    largest = max(float(jnp.abs(output).max()) for output in before)
    differences = [float(jnp.abs(a - b).max()) for a, b in zip(before, after, strict=True)]
    return max(differences) / largest


def recovered_groups(spec: lmcjax.PermutationSpec, params: Any) -> int:
    """How many groups of a shuffled copy coordinate descent puts back in their order."""
    shuffle = lmcjax.random_permutations(jax.random.key(2), spec, params)
    shuffled = lmcjax.permute(spec, shuffle, params)
    # operation by operation: to compile the whole for one call takes minutes
    with jax.disable_jit():
        matching = lmcjax.match_coordinate_descent(spec, params, shuffled)
    undone = lmcjax.compose(spec, matching.permutations, shuffle)
    identity = identity_permutations(spec, params)
    return sum(bool((undone[group] == identity[group]).all()) for group in spec.groups)


def measure(
    package: str, network: str, example: Example, *, repetitions: int, most_groups: int
) -> Row:
    """All that the table says of one network; what is wrong is printed."""
    symmetries = SYMMETRIES[package][network]
    params = in_double_precision(example.params)
    inputs = jax.tree.map(widened, example.inputs)
    example = Example(example.apply, params, inputs)
    spec = lmcjax.discover(example.apply, example.params, example.inputs)
    explanation = lmcjax.explain(example.apply, example.params, example.inputs)
    false, missed = compare_groups(spec, symmetries)
    without_reason = unexplained(explanation, symmetries)
    problems = {
        "false": false,
        "missed": missed,
        "no reason for": without_reason,
        "reason for nothing": stale(explanation, symmetries),
    }
    for problem, places in problems.items():
        if places:
            print(f"{package} {network}: {problem} {places}", file=sys.stderr)
    times = [seconds(*example) for _ in range(repetitions)]
    tracing, beyond = (statistics.median(column) for column in zip(*times, strict=True))
    recovered = NOT_TRIED
    if len(spec.groups) <= most_groups:
        recovered = f"{recovered_groups(spec, params)} of {len(spec.groups)}"
    return Row(
        package,
        network,
        len(spec.groups),
        len(symmetries.groups),
        len(false),
        len(missed),
        len(without_reason),
        output_difference(example, spec, params),
        recovered,
        tracing,
        beyond,
    )


def cells(row: Row) -> Cells:
    """A row as the table shows it."""
    times = (f"{row.tracing:.2f}", f"{row.beyond:.2f}")
    return (*row[:7], f"{row.difference:.0e}", row.recovered, *times)


def store(rows: Sequence[Cells]) -> None:
    """Write the table of what is measured so far."""
    packages = len({row[0] for row in rows})
    groups = sum(int(row[COLUMNS.index("there")]) for row in rows)
    write_result(
        "zoo",
        title="Symmetries of public networks",
        note=f"""`lmcjax.discover(apply, params, x)` on {len(rows)} networks of {packages} packages,
with {groups} groups in all. What groups there are, and why nothing permutes the other axes, is
worked out by hand in `benchmarks/zoo_groups.py`; found and there are compared by shape. False:
found and not there. Missed: there and not found. No reason: axes that nothing permutes, and nothing
known pins. Difference: of the outputs in float64 when all groups are permuted at once, relative to
the largest output; about 1e-7 where a package computes in float32 whatever it is given. Recovered:
groups of a shuffled copy that `match_coordinate_descent` puts back in order, by weights alone (-:
not tried, large networks take ten minutes each). Seconds: of JAX's tracing, and of discovery beyond
it.""",
        columns=COLUMNS,
        rows=rows,
    )


def stored() -> list[Cells]:
    """The rows that an earlier run has written."""
    path = RESULTS / "zoo.json"
    if not path.exists():
        return []
    return [tuple(row) for row in json.loads(path.read_text("utf-8"))["rows"]]


def main() -> None:
    """Measure and store, network by network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=PACKAGES, choices=PACKAGES, metavar="PACKAGE")
    parser.add_argument("--network", default="", help="only networks whose name has this in it")
    parser.add_argument("--repetitions", type=int, default=3, help="of each time")
    parser.add_argument(
        "--most-groups",
        type=int,
        default=1000,
        help="of a network of which recovery is tried; large ones take ten minutes each",
    )
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there")
    parser.add_argument("--dry", action="store_true", help="print, store nothing")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    # what is compiled runs once or twice, and again in the next network
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    warnings.filterwarnings("ignore", category=FutureWarning)
    rows = stored() if options.resume else []
    # the table names the command that measures all of it from the start
    sys.argv = [argument for argument in sys.argv if argument != "--resume"]
    for package in options.only:
        for network, build in load(package).items():
            is_there = any(row[:2] == (package, network) for row in rows)
            if is_there or options.network not in network:
                continue
            start = time.perf_counter()
            row = measure(
                package,
                network,
                build(),
                repetitions=options.repetitions,
                most_groups=options.most_groups,
            )
            rows.append(cells(row))
            took = time.perf_counter() - start
            print(*rows[-1], f"{took:.0f} s", sep="\t", flush=True)
            if not options.dry:
                store(rows)
            jax.clear_caches()
            gc.collect()
    if not options.dry:
        store(rows)  # once more, with the command that has run to its end


if __name__ == "__main__":
    main()
