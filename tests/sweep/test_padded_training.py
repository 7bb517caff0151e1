"""Networks of several widths in one program: what a run gives does not depend on its neighbours or
its padding.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lmcjax
from lmcjax.batching import replicate
from lmcjax.sweep import Cell, Programs, Sweep
from lmcjax.sweep._plan import Group
from lmcjax.sweep._train import Checkpoints, Trained, initial_states, train_call
from lmcjax.symmetry import drop_padding, real_entries

WIDTHS = (6, 10)
SIGMOID = """
import flax.linen as nn
from lmcjax.models import MLP, FlaxNetwork

def build(input_shape, num_classes, width, num_hidden_layers):
    return FlaxNetwork(MLP((width,) * num_hidden_layers, num_classes, activation=nn.sigmoid), input_shape)
"""

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def sigmoid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model of a user's own whose neurons say 1/2 where nothing comes in."""
    (tmp_path / "sigmoid_networks.py").write_text(SIGMOID)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "sigmoid_networks:build"


def programs(epochs: int = 2, **options: object) -> Programs:
    sweep = Sweep(range(4), WIDTHS, 1, (0.05, 0.1), epochs=epochs, batch_size=60, **options)
    return Programs(sweep, lmcjax.load_dataset("digits"))


def train(
    programs: Programs, widths: tuple[int, ...], cells: list[Cell], seeds: list[int], tmp_path: Path
) -> Trained:
    devices = jax.local_devices()[: len(cells)]
    padding = programs.padding(widths[0], widths[-1], 1)
    group = Group(1, cells[0].optimizer, widths, padding, len(cells), 0.0, 0)
    data = replicate(tuple(programs.dataset.train), devices)
    arguments = (
        programs,
        group,
        cells,
        seeds,
        data,
        devices,
        Checkpoints(tmp_path / "none", np.inf),
    )
    trained = train_call(*arguments, lambda done, losses: True, keep=False)
    assert trained is not None
    return trained


def both_ways(
    programs: Programs, optimizer: str, tmp_path: Path
) -> list[tuple[Trained, Trained, int, int]]:
    """Networks of two widths together, and two of them alone."""
    cells = [Cell(width, 1, optimizer, rate) for width in WIDTHS for rate in (0.05, 0.1)]
    seeds = [3, 1, 2, 3]
    together = train(programs, WIDTHS, cells, seeds, tmp_path)
    rows = []
    for row in (1, 2):
        alone = train(programs, (cells[row].width,), [cells[row]], [seeds[row]], tmp_path)
        rows.append((alone, together, row, cells[row].width))
    return rows


def test_initial_weights_are_the_same_bits(tmp_path):
    ours = programs()
    cells = [Cell(width, 1, "sgd", 0.05) for width in (*WIDTHS, *WIDTHS)]
    group = Group(1, "sgd", WIDTHS, "zeros", 4, 0.0, 0)
    states = initial_states(ours, group, cells, [5, 6, 7, 8], jax.local_devices())
    wide = ours.program(WIDTHS[-1], 1).spec
    for row, (cell, seed) in enumerate(zip(cells, [5, 6, 7, 8], strict=True)):
        own = ours.program(cell.width, 1)
        expected = own.network.init(jax.random.fold_in(jax.random.key(seed), 0))
        padded = jax.tree.map(lambda leaf, row=row: leaf[row], states.params)
        real = drop_padding(wide, own.spec, padded)
        assert all(map(np.array_equal, *map(jax.tree.leaves, (real, expected))))


@pytest.mark.parametrize(
    "optimizer",
    ["sgd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adam", "adamw"))],
)
def test_alone_or_beside_others(optimizer, tmp_path):
    """Losses to 1e-5 after the first epoch; padding stays exactly zero."""
    ours = programs(optimizers=optimizer)
    assert ours.padding(*WIDTHS, 1) == "zeros"
    for alone, together, row, width in both_ways(ours, optimizer, tmp_path):
        np.testing.assert_allclose(together.losses[row, 0], alone.losses[0, 0], rtol=1e-5)
        own, wide = ours.program(width, 1), ours.program(WIDTHS[-1], 1)
        real = real_entries(own.spec, wide.spec, jax.tree.map(lambda leaf: leaf[0], alone.params))
        params = jax.tree.map(lambda leaf, row=row: leaf[row], together.params)
        assert jax.tree.all(jax.tree.map(lambda leaf, r: bool((leaf[~r] == 0).all()), params, real))


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
def test_alone_or_beside_others_in_double_precision(tmp_path):
    """The whole run to 1e-9."""
    for alone, together, row, _ in both_ways(programs(epochs=6), "sgd", tmp_path):
        assert alone.losses.dtype == np.float64
        np.testing.assert_allclose(together.losses[row], alone.losses[0], rtol=0, atol=1e-9)
        assert alone.losses[0, -1] < 0.5 * alone.losses[0, 0]


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
def test_where_zeros_would_not_stay_they_are_masked(sigmoid, tmp_path):
    """sigmoid(0) = 1/2: outgoing weights of padding have a gradient."""
    ours = programs(model=sigmoid)
    assert ours.padding(*WIDTHS, 1) == "masked"
    for alone, together, row, width in both_ways(ours, "sgd", tmp_path):
        np.testing.assert_allclose(together.losses[row], alone.losses[0], rtol=0, atol=1e-9)
        own, wide = ours.program(width, 1), ours.program(WIDTHS[-1], 1)
        real = real_entries(own.spec, wide.spec, jax.tree.map(lambda leaf: leaf[0], alone.params))
        params = jax.tree.map(lambda leaf, row=row: leaf[row], together.params)
        assert jax.tree.all(jax.tree.map(lambda leaf, r: bool((leaf[~r] == 0).all()), params, real))


@pytest.mark.parametrize("model", ["transformer", "vgg"])
def test_what_normalises_over_its_width_is_refused_by_name(model):
    sweep = Sweep(range(2), (8, 12), 1, model=model)
    ours = Programs(sweep, lmcjax.load_dataset("digits"))
    with pytest.raises(
        ValueError, match=f"{model}: neurons of zeros change what networks of width 8 compute"
    ):
        ours.padding(8, 12, 1)


def test_a_scale_by_the_width_is_refused(tmp_path, monkeypatch):
    """Mean-field networks divide by their number of neurons."""
    (tmp_path / "mean_field.py").write_text(
        "import jax, jax.numpy as jnp\n"
        "from lmcjax import FunctionNetwork\n"
        "def build(input_shape, num_classes, width, num_hidden_layers):\n"
        "    def init(key):\n"
        "        a, b = jax.random.split(key)\n"
        "        return {'w': jax.random.normal(a, (64, width)), 'v': jax.random.normal(b, (width, num_classes))}\n"
        "    return FunctionNetwork(init, lambda p, x: jnp.tanh(x.reshape(len(x), 64) @ p['w']) @ p['v'] / width)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    ours = Programs(
        Sweep(range(2), (4, 8), model="mean_field:build"), lmcjax.load_dataset("digits")
    )
    with pytest.raises(ValueError, match="scales with their number"):
        ours.padding(4, 8, 3)
    assert jnp.isfinite(ours.operations(4, 3))
