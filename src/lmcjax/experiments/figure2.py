"""The paper's Figure 2: test loss half-way between two networks, by learning rate and matching."""

from collections.abc import Sequence
from typing import Any

from lmcjax.sweep import Sweep, sweep_from_table


def figure2_sweep(
    *,
    learning_rates: Sequence[float | str] | str = "1e-4:1e-1:6",
    repetitions: int = 4,
    width: int = 128,
    num_hidden_layers: int = 3,
    optimizer: str = "sgd",
    seed: int = 0,
    **options: Any,
) -> Sweep:
    """Pairs of networks of one architecture at several learning rates; the same initial weights
    serve every rate.

    Args:
        learning_rates: peak rates.
        repetitions: pairs of networks per rate.
        width, num_hidden_layers, optimizer: of all networks.
        seed: the first takes the seeds 0, 1, ... of a sweep, the next those after them.
        **options: of `Sweep`.

    Source: the paper, Section 6; defaults scaled down from 512 neurons and 50 epochs of 60,000
        images.
    """
    if repetitions < 1:
        raise ValueError(f"repetitions is at least 1, not {repetitions}")
    seeds = range(2 * repetitions * seed, 2 * repetitions * (seed + 1))
    grid = {"widths": width, "num_hidden_layers": num_hidden_layers, "optimizers": optimizer}
    return sweep_from_table({"seeds": seeds, "learning_rates": learning_rates, **grid, **options})
