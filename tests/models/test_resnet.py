"""Residual networks: shapes, sizes in the literature, and permutation symmetries."""

import functools

import flax.linen as nn
import jax
import pytest

from lmcjax.models import FlaxNetwork, ResNet, resnet20, resnet50
from lmcjax.symmetry import PermutationSpec, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGES = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
GROUP_NORM = functools.partial(nn.GroupNorm, num_groups=2)
BATCH_NORM = functools.partial(nn.BatchNorm, use_running_average=True)


def initial_shapes(module, shape):
    return jax.eval_shape(FlaxNetwork(module, shape).init, jax.random.key(0))


@pytest.mark.parametrize(
    ("module", "shape", "count"),
    [
        (resnet20(), (32, 32, 3), 272_474),  # of which 2752 in projections and their norms
        (resnet20(norm=BATCH_NORM), (32, 32, 3), 272_474),
        (resnet50(), (224, 224, 3), 25_557_032),
    ],
    ids=["resnet20", "resnet20 with batch norm", "resnet50"],
)
def test_number_of_parameters(module, shape, count):
    params = initial_shapes(module, shape)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_shapes():
    module = ResNet(4, 5, (1, 2), GROUP_NORM)
    params = initial_shapes(module, (8, 8, 3))
    assert params["ResidualBlock_1"]["Conv_0"]["kernel"].shape == (3, 3, 4, 8)
    assert params["ResidualBlock_1"]["projection"]["kernel"].shape == (1, 1, 4, 8)
    assert [name for name in params if "projection" in params[name]] == ["ResidualBlock_1"]
    assert params["Dense_0"]["kernel"].shape == (8, 5)
    assert jax.eval_shape(FlaxNetwork(module, (8, 8, 3)).apply, params, IMAGES).shape == (2, 5)


@pytest.mark.parametrize(
    ("module", "sides"),
    [(resnet20(4), {33, 17, 9}), (resnet50(4), {17, 9, 5, 3, 2})],
    ids=["resnet20", "resnet50"],
)
def test_stages_halve_the_image(module, sides):
    """Sides after each convolution, from 33 pixels; ResNet-50 pools between 17 and 9."""

    def convolved(key):
        images = jax.numpy.ones((1, 33, 33, 3))
        variables = module.init(key, images)
        return module.apply(
            variables, images, capture_intermediates=lambda layer, _: isinstance(layer, nn.Conv)
        )[1]

    outputs = jax.tree.leaves(jax.eval_shape(convolved, jax.random.key(0)))
    assert {leaf.shape[1] for leaf in outputs} == sides


def check_spec(verified_spec, generic_like):
    """Two streams, the second of which the projection writes; an inner group per block."""
    network = FlaxNetwork(ResNet(4, 5, (1, 1)), (8, 8, 3))
    params = generic_like(jax.eval_shape(network.init, jax.random.key(0)))
    spec = verified_spec(network.apply, params, IMAGES)
    small, large, inner = "Conv_0", "ResidualBlock_1/Conv_1", "ResidualBlock_{}/Conv_0"
    axes = {"Conv_0/kernel": (None, None, None, writes(small))}
    axes |= {f"LayerNorm_0/{leaf}": (writes(small),) for leaf in ("scale", "bias")}
    for block, (source, target) in enumerate([(small, small), (small, large)]):
        root, group = f"ResidualBlock_{block}", inner.format(block)
        axes[f"{root}/Conv_0/kernel"] = (None, None, reads(source), writes(group))
        axes[f"{root}/Conv_1/kernel"] = (None, None, reads(group), writes(target))
        axes |= {f"{root}/LayerNorm_0/{leaf}": (writes(group),) for leaf in ("scale", "bias")}
        axes |= {f"{root}/LayerNorm_1/{leaf}": (writes(target),) for leaf in ("scale", "bias")}
    axes["ResidualBlock_1/projection/kernel"] = (None, None, reads(small), writes(large))
    axes |= {
        f"ResidualBlock_1/projection_norm/{leaf}": (writes(large),) for leaf in ("scale", "bias")
    }
    axes |= {"Dense_0/kernel": (reads(large), None), "Dense_0/bias": (None,)}
    assert dict(spec.leaves) == dict(PermutationSpec.from_axes(axes).leaves)
    assert dict(spec.shapes) == {
        small: (4,),
        large: (8,),
        inner.format(0): (4,),
        inner.format(1): (8,),
    }


@pytest.mark.slow
def test_spec_is_the_hand_written_one(verified_spec, generic_like):
    check_spec(verified_spec, generic_like)


@pytest.mark.slow
def test_spec_in_float64(x64, verified_spec, generic_like):
    check_spec(verified_spec, generic_like)


@pytest.mark.parametrize(
    "module", [ResNet(4, 5, ()), ResNet(4, 5, (1, 0)), resnet20(0), resnet50(4, 0)]
)
def test_layers_without_neurons(module):
    with pytest.raises(ValueError, match="a ResNet has stages of blocks, channels and classes"):
        FlaxNetwork(module, (8, 8, 3)).init(jax.random.key(0))


def test_images_without_channels(unchecked):
    with pytest.raises(ValueError, match=r"takes images .* not \(1, 8, 8\)"):
        FlaxNetwork(resnet20(4), (8, 8)).init(jax.random.key(0))
