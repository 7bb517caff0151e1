"""Networks of several widths in one program: neighbours and padding change no run."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jaxtyping import PyTree

import lmcjax
from lmcjax.batching import replicate
from lmcjax.sweep import Cell, Group, Programs, Sweep, Trained, train_group
from lmcjax.sweep._batch_training import TrainingCall, initial_states, train_call
from lmcjax.sweep._training_checkpoints import Checkpoints
from lmcjax.symmetry import drop_padding, real_entries

WIDTHS = (6, 10)
SIGMOID = """
import flax.linen as nn
from lmcjax.models import MLP, FlaxNetwork

def build(input_shape, num_classes, width, num_hidden_layers):
    widths = (width,) * num_hidden_layers
    return FlaxNetwork(MLP(widths, num_classes, activation=nn.sigmoid), input_shape)
"""

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def sigmoid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's own model, whose neurons give 1/2 where nothing comes in."""
    (tmp_path / "sigmoid_networks.py").write_text(SIGMOID)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "sigmoid_networks:build"


def make_programs(epochs: int = 2, **options: object) -> Programs:
    sweep = Sweep(range(4), WIDTHS, 1, (0.05, 0.1), epochs=epochs, batch_size=60, **options)
    return Programs(sweep, lmcjax.load_dataset("digits"))


def make_group(programs: Programs, widths: tuple[int, ...], cells: list[Cell]) -> Group:
    return Group(
        num_hidden_layers=1,
        optimizer=cells[0].optimizer,
        widths=widths,
        padding=programs.padding(widths[0], widths[-1], 1),
        num_networks=len(cells),
        waste=0.0,
        bytes_per_network=0,
    )


def train(
    programs: Programs, widths: tuple[int, ...], cells: list[Cell], seeds: list[int], tmp_path: Path
) -> Trained:
    devices = jax.local_devices()[: len(cells)]
    trained = train_call(
        programs,
        TrainingCall(make_group(programs, widths, cells), cells, seeds, devices),
        replicate(tuple(programs.dataset.train), devices),
        Checkpoints(tmp_path / "none", np.inf),
        lambda done, losses: True,
        keep=False,
    )
    assert trained is not None
    return trained


class BothWays(NamedTuple):
    """A network trained alone, and beside others of another width."""

    alone: Trained  # itself only
    together: Trained  # in this row
    row: int
    width: int


def train_both_ways(programs: Programs, optimizer: str, tmp_path: Path) -> list[BothWays]:
    """Networks of two widths together, and one of each width alone."""
    cells = [Cell(width, 1, optimizer, rate) for width in WIDTHS for rate in (0.05, 0.1)]
    seeds = [3, 1, 2, 3]
    together = train(programs, WIDTHS, cells, seeds, tmp_path)
    trainings = []
    for row in (1, 2):
        cell = cells[row]
        alone = train(programs, (cell.width,), [cell], [seeds[row]], tmp_path)
        trainings.append(BothWays(alone, together, row, cell.width))
    return trainings


def network(trained: Trained, row: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[row], trained.params)


def padding_is_zero(programs: Programs, training: BothWays) -> bool:
    own = programs.program(training.width, 1).spec
    wide = programs.program(WIDTHS[-1], 1).spec
    padded = network(training.together, training.row)
    real = real_entries(own, wide, network(training.alone, 0))
    leaves = zip(jax.tree.leaves(padded), jax.tree.leaves(real), strict=True)
    return all((leaf[~is_real] == 0).all() for leaf, is_real in leaves)


@pytest.mark.slow
def test_initial_weights_are_the_same_bits():
    programs = make_programs()
    cells = [Cell(width, 1, "sgd", 0.05) for width in (*WIDTHS, *WIDTHS)]
    seeds = [5, 6, 7, 8]
    group = make_group(programs, WIDTHS, cells)
    assert group.padding == "zeros"
    call = TrainingCall(group, cells, seeds, jax.local_devices())
    states = initial_states(programs, call)
    wide = programs.program(WIDTHS[-1], 1).spec
    for row, (cell, seed) in enumerate(zip(cells, seeds, strict=True)):
        own = programs.program(cell.width, 1)
        expected = own.network.init(jax.random.fold_in(jax.random.key(seed), 0))
        padded = jax.tree.map(lambda leaf, row=row: leaf[row], states.params)
        real = drop_padding(wide, own.spec, padded)
        leaves = zip(jax.tree.leaves(real), jax.tree.leaves(expected), strict=True)
        assert all(np.array_equal(a, b) for a, b in leaves)


@pytest.mark.parametrize(
    "optimizer",
    ["sgd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adam", "adamw"))],
)
def test_alone_or_beside_others(optimizer, tmp_path):
    """Losses to 1e-5 after the first epoch; padding stays exactly zero."""
    programs = make_programs(optimizers=optimizer)
    assert programs.padding(*WIDTHS, 1) == "zeros"
    for training in train_both_ways(programs, optimizer, tmp_path):
        losses = training.together.losses[training.row]
        np.testing.assert_allclose(losses[0], training.alone.losses[0, 0], rtol=1e-5)
        assert padding_is_zero(programs, training)


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
def test_alone_or_beside_others_in_double_precision(tmp_path):
    """The whole run to 1e-9."""
    for training in train_both_ways(make_programs(epochs=6), "sgd", tmp_path):
        losses = training.together.losses[training.row]
        losses_alone = training.alone.losses[0]
        assert losses_alone.dtype == np.float64
        np.testing.assert_allclose(losses, losses_alone, rtol=0, atol=1e-9)
        assert losses_alone[-1] < 0.5 * losses_alone[0]


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
def test_where_zeros_would_not_stay_they_are_masked(sigmoid, tmp_path):
    """sigmoid(0) = 1/2: outgoing weights of padding have a gradient."""
    programs = make_programs(model=sigmoid)
    assert programs.padding(*WIDTHS, 1) == "masked"
    for training in train_both_ways(programs, "sgd", tmp_path):
        losses = training.together.losses[training.row]
        np.testing.assert_allclose(losses, training.alone.losses[0], rtol=0, atol=1e-9)
        assert padding_is_zero(programs, training)


@pytest.mark.slow
def test_a_group_without_a_folder(tmp_path):
    """Three calls, the last filled up: the networks of both widths, in the order of the cells."""
    programs = make_programs()
    cells = list(programs.sweep.cells)
    group = make_group(programs, WIDTHS, cells)
    trained = train_group(programs, group, networks_per_call=6)
    assert trained.losses.shape == (len(cells) * 4, 2)
    some = [0, 5, 10, 15]  # of each cell another seed
    by_hand = train(
        programs, WIDTHS, [cells[i // 4] for i in some], [i % 4 for i in some], tmp_path
    )
    np.testing.assert_allclose(trained.losses[some], by_hand.losses, rtol=1e-5)
    assert trained.finite.all()
