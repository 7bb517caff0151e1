"""What `lmcjax match` says of its result: the numbers of `report.json`, and the same as tables."""

from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, PyTree
from rich.table import Table

from lmcjax.cli._match_networks import Networks, Program
from lmcjax.cli._plot import wide_console
from lmcjax.cli._progress import show_stage
from lmcjax.evaluation import (
    BarrierResult,
    batched_loss,
    cross_entropy_and_accuracy,
    linear_barrier,
)
from lmcjax.matching import Matching
from lmcjax.symmetry import PermutationSpec, permute


def describe_matching(matching: Matching) -> dict[str, Any]:
    """What the matching has reached, as plain values."""
    return {
        "similarity": _as_floats(matching.similarity),
        "similarity_of_identity": _as_floats(matching.identity_similarity),
        "converged": bool(matching.converged),
        "finite": bool(matching.finite),
    }


def _as_floats(values: Mapping[str, Array]) -> dict[str, float]:
    return {group: float(value) for group, value in values.items()}


def measure_test_losses(
    networks: Networks, program: Program, matching: Matching, num_points: int
) -> dict[str, dict[str, float]]:
    """Test losses on the lines from A to B as it was given, and to the aligned B."""
    loss = batched_loss(program.network.apply, cross_entropy_and_accuracy, program.dataset.test)

    @jax.jit
    def measure(params_a: PyTree, params_b: PyTree) -> BarrierResult:
        return linear_barrier(loss, params_a, params_b, num_points=num_points)

    versions_of_b = {
        "as given": networks.params_b,
        "aligned": permute(networks.spec, matching.permutations, networks.params_b),
    }
    measured = {}
    for name, params_b in versions_of_b.items():
        with show_stage(f"test loss on the line to B {name}, {num_points} points"):
            result = jax.block_until_ready(measure(networks.params_a, params_b))
        measured[name] = {
            "loss of A": float(result.losses[0]),
            "loss of B": float(result.losses[-1]),
            "loss half-way": float(result.midpoint_loss),
            "barrier": float(result.height),
            "accuracy half-way": float(result.midpoint.accuracy),
        }
    return measured


def print_report(spec: PermutationSpec, report: Mapping[str, Any]) -> None:
    """Print the report as tables, and a note where the matching is not to be trusted."""
    console = wide_console()
    console.print(_groups_table(spec, report))
    console.print(_effect_table(report))
    if not report["finite"]:
        print("Note: some similarity was not finite; identity stands where it was.")
    elif not report["converged"]:
        print("Note: the matching had not converged when it was stopped.")


def _groups_table(spec: PermutationSpec, report: Mapping[str, Any]) -> Table:
    """A row for every group of neurons."""
    table = Table("group", "neurons", "similarity as given", "reached", title="What was matched")
    for group, shape in spec.group_shapes().items():
        neurons = "x".join(map(str, shape))
        as_given = report["similarity_of_identity"][group]
        reached = report["similarity"][group]
        table.add_row(group, neurons, f"{as_given:.4g}", f"{reached:.4g}")
    return table


def _effect_table(report: Mapping[str, Any]) -> Table:
    """A row for every measure, with B as it was given and aligned."""
    distances = report["distance"]
    table = Table("", *distances, title="What it did")
    table.add_row("distance of the parameters", *(f"{value:.4g}" for value in distances.values()))
    if "test" not in report:
        return table
    as_given = report["test"]["as given"]
    aligned = report["test"]["aligned"]
    for name in as_given:
        table.add_row(f"test: {name}", f"{as_given[name]:.4g}", f"{aligned[name]:.4g}")
    return table
