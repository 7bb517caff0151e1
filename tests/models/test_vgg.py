"""VGG: its shapes, its size in the paper, and its permutation symmetries."""

import jax
import pytest

from lmcjax.models import VGG, FlaxNetwork, vgg16
from lmcjax.symmetry import PermutationSpec, fixed, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGES = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
SMALL = FlaxNetwork(VGG(((4,), (6, 5)), (7,), 3), (8, 8, 3))


def test_shapes():
    params = jax.eval_shape(SMALL.init, jax.random.key(0))
    assert params["Conv_1"]["kernel"].shape == (3, 3, 4, 6)
    assert params["Dense_0"]["kernel"].shape == (2 * 2 * 5, 7)
    assert jax.eval_shape(SMALL.apply, params, IMAGES).shape == (2, 3)


@pytest.mark.parametrize(("shape", "pixels"), [((4, 4, 1), 1), ((1, 18, 2), 2), ((7, 5, 3), 1)])
def test_a_side_of_one_pixel_is_not_pooled(shape, pixels):
    network = FlaxNetwork(VGG(((4,), (4,), (4,)), (), 3), shape)
    assert jax.eval_shape(network.init, jax.random.key(0))["Dense_0"]["kernel"].shape == (
        4 * pixels,
        3,
    )


def test_vgg16_has_the_papers_138_million_parameters():
    network = FlaxNetwork(vgg16(num_classes=1000), (224, 224, 3))
    params = jax.eval_shape(network.init, jax.random.key(0))
    channels = sum(
        width for stage in network.module.stages for width in stage
    )  # a bias each, here scale and shift
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(params)) == 138_357_544 - channels + 2 * channels
    )


def hand_written() -> PermutationSpec:
    """A group per convolution and hidden dense layer; 2x2 pixels of 5 channels are flattened."""
    axes = {}
    for i in range(3):
        incoming = reads(f"Conv_{i - 1}") if i else None
        axes[f"Conv_{i}/kernel"] = (None, None, incoming, writes(f"Conv_{i}"))
        axes |= {f"LayerNorm_{i}/{leaf}": (writes(f"Conv_{i}"),) for leaf in ("scale", "bias")}
    axes["Dense_0/kernel"] = (fixed(4) * reads("Conv_2"), writes("Dense_0"))
    axes["Dense_0/bias"] = (writes("Dense_0"),)
    axes["Dense_1/kernel"] = (reads("Dense_0"), None)
    axes["Dense_1/bias"] = (None,)
    return PermutationSpec.from_axes(axes)


def check_spec(verified_spec, generic_like):
    params = generic_like(jax.eval_shape(SMALL.init, jax.random.key(0)))
    spec = verified_spec(SMALL.apply, params, IMAGES)
    assert dict(spec.leaves) == dict(hand_written().leaves)
    assert spec.shapes == (("Conv_0", (4,)), ("Conv_1", (6,)), ("Conv_2", (5,)), ("Dense_0", (7,)))


def test_spec_is_the_hand_written_one(verified_spec, generic_like):
    check_spec(verified_spec, generic_like)


@pytest.mark.slow
def test_spec_in_float64(x64, verified_spec, generic_like):
    check_spec(verified_spec, generic_like)


@pytest.mark.parametrize(
    "module", [VGG((), (4,), 3), VGG(((4,), ()), (4,), 3), VGG(((4,),), (0,), 3), vgg16(4, 0)]
)
def test_layers_without_neurons(module):
    with pytest.raises(ValueError, match="a VGG has stages of convolutions and classes"):
        FlaxNetwork(module, (8, 8, 3)).init(jax.random.key(0))


def test_images_without_channels(unchecked):
    with pytest.raises(ValueError, match=r"takes images .* not \(1, 8, 8\)"):
        FlaxNetwork(vgg16(4), (8, 8)).init(jax.random.key(0))
