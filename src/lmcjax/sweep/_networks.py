"""The trained networks of a sweep, where they were kept."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lmcjax.models import Network, build_network
from lmcjax.sweep._folder import SweepFolder
from lmcjax.symmetry import named_leaves, rebuild


def load_networks(folder: str | Path, **cell: Any) -> tuple[Network, PyTree]:
    """All networks of one cell of a sweep that was run with `keep_networks`.

    Args:
        folder: of the sweep.
        **cell: of `width`, `num_hidden_layers`, `optimizer`, `learning_rate`, what tells the cell
            from the others.

    Returns:
        The network, and its parameters with a leading axis of seeds, in the order of the sweep's.

    Raises:
        ValueError: no cell or several fit, the networks were not kept, or their file is damaged.
        FileNotFoundError: there is no sweep here, or its networks are not finished.
    """
    sweeping = SweepFolder(folder)
    sweep, plan, data = sweeping.sweep(), sweeping.plan(), sweeping.identity()["data"]
    if not sweep.keep_networks:
        raise ValueError(f"{folder}: run with keep_networks=False, so that no networks are stored")
    fitting = [i for i, c in enumerate(sweep.cells) if cell.items() <= c._asdict().items()]
    if len(fitting) != 1:
        found = "no cell" if not fitting else f"{len(fitting)} cells, say which:"
        raise ValueError(f"{folder}: {found} with {cell}; there are {sweep.asdict()}")
    chosen = sweep.cells[fitting[0]]
    network = build_network(
        sweep.model,
        tuple(data["input_shape"]),
        data["num_classes"],
        width=chosen.width,
        num_hidden_layers=chosen.num_hidden_layers,
    )
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    leaves = {}
    for batch in range(len(plan.batches)):
        seeds = [n.seed for n in plan.networks(sweep, batch) if n.cell == fitting[0]]
        if seeds:
            stored = sweeping.read_networks(batch)
            for seed in seeds:
                leaves[seed] = {
                    name: stored[f"{fitting[0]}/{seed}/{name}"] for name in named_leaves(shapes)
                }
    networks = [rebuild(shapes, leaves[seed]) for seed in range(len(sweep.seeds))]
    # on the host: nothing to compile
    return network, jax.tree.map(lambda *same: jnp.asarray(np.stack(same)), *networks)
