"""The trained networks of a sweep, where they were kept."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lmcjax.models import Network, build_network
from lmcjax.sweep._folder import SweepFolder
from lmcjax.sweep._grid import Sweep
from lmcjax.symmetry import named_leaves, rebuild


def load_networks(folder: str | Path, **cell: Any) -> tuple[Network, PyTree]:
    """Load all networks of one cell of a sweep that was run with `keep_networks`.

    Args:
        folder: of the sweep.
        **cell: as many of `width`, `num_hidden_layers`, `optimizer`, `learning_rate` as tell the
            cell from the others.

    Returns:
        The network, and its parameters with a leading axis of seeds, in the order of the sweep's.

    Raises:
        ValueError: no cell or several fit, the networks were not kept, or their file is damaged.
        FileNotFoundError: there is no sweep here, or its networks are not finished.
    """
    sweep_folder = SweepFolder(folder)
    sweep = sweep_folder.sweep()
    if not sweep.keep_networks:
        raise ValueError(f"{folder}: run with keep_networks=False, so that no networks are stored")
    cell_number = _find_cell(sweep, folder, cell)
    chosen = sweep.cells[cell_number]
    data = sweep_folder.identity()["data"]
    network = build_network(
        sweep.model,
        tuple(data["input_shape"]),
        data["num_classes"],
        width=chosen.width,
        num_hidden_layers=chosen.num_hidden_layers,
    )
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    leaves_by_seed = _read_leaves(sweep_folder, cell_number, list(named_leaves(shapes)))
    networks = [rebuild(shapes, leaves_by_seed[seed]) for seed in range(len(sweep.seeds))]

    def stack(*leaves: np.ndarray) -> Array:
        # On the host: there is nothing to compile
        return jnp.asarray(np.stack(leaves))

    return network, jax.tree.map(stack, *networks)


def _find_cell(sweep: Sweep, folder: str | Path, described: dict[str, Any]) -> int:
    """Find the position of the only cell that fits a description."""
    fitting = []
    for number, cell in enumerate(sweep.cells):
        if described.items() <= cell._asdict().items():
            fitting.append(number)
    if len(fitting) != 1:
        found = "no cell" if not fitting else f"{len(fitting)} cells, say which:"
        raise ValueError(f"{folder}: {found} with {described}; there are {sweep.asdict()}")
    return fitting[0]


def _read_leaves(
    folder: SweepFolder, cell_number: int, names: list[str]
) -> dict[int, dict[str, np.ndarray]]:
    """Read the parameters of a cell's networks: by position of the seed, then by name."""
    sweep = folder.sweep()
    plan = folder.plan()
    leaves_by_seed = {}
    for batch in range(len(plan.batches)):
        networks = plan.networks(sweep, batch)
        seeds = [network.seed for network in networks if network.cell == cell_number]
        if not seeds:
            continue
        stored = folder.read_networks(batch)
        for seed in seeds:
            leaves_by_seed[seed] = {name: stored[f"{cell_number}/{seed}/{name}"] for name in names}
    return leaves_by_seed
