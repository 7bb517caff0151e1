"""Networks of several widths as programs: which can be padded, and what is refused."""

import jax.numpy as jnp
import pytest

import lmcjax
from lmcjax.sweep import Programs, Sweep

pytestmark = pytest.mark.usefixtures("quick_compilation")

MEAN_FIELD = """
import jax
import jax.numpy as jnp
from lmcjax import FunctionNetwork

def build(input_shape, num_classes, width, num_hidden_layers):
    def init(key):
        key_w, key_v = jax.random.split(key)
        return {
            "w": jax.random.normal(key_w, (64, width)),
            "v": jax.random.normal(key_v, (width, num_classes)),
        }

    def apply(params, inputs):
        hidden = jnp.tanh(inputs.reshape(len(inputs), 64) @ params["w"])
        return hidden @ params["v"] / width

    return FunctionNetwork(init, apply)
"""


@pytest.mark.parametrize("model", ["transformer", pytest.param("vgg", marks=pytest.mark.slow)])
def test_what_normalises_over_its_width_is_refused_by_name(model):
    sweep = Sweep(range(2), (8, 12), 1, model=model)
    programs = Programs(sweep, lmcjax.load_dataset("digits"))
    message = f"{model}: neurons of zeros change what networks of width 8 compute"
    with pytest.raises(ValueError, match=message):
        programs.padding(8, 12, 1)


def test_a_scale_by_the_width_is_refused(tmp_path, monkeypatch):
    """Mean-field networks divide by their number of neurons."""
    (tmp_path / "mean_field.py").write_text(MEAN_FIELD)
    monkeypatch.syspath_prepend(str(tmp_path))
    sweep = Sweep(range(2), (4, 8), model="mean_field:build")
    programs = Programs(sweep, lmcjax.load_dataset("digits"))
    with pytest.raises(ValueError, match="scales with their number"):
        programs.padding(4, 8, 3)
    assert jnp.isfinite(programs.operations(4, 3))


def test_a_batch_larger_than_the_data():
    message = "batch size 5000 is larger than the training set of 1442 samples"
    with pytest.raises(ValueError, match=message):
        Programs(Sweep(range(2), batch_size=5000), lmcjax.load_dataset("digits"))
