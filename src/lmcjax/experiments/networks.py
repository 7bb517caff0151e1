"""The networks that an experiment can be run on: by name, or a user's own."""

import dataclasses
import importlib
import math
import os
import sys
from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Key, PyTree

from lmcjax.models import MLP, VGG, FlaxNetwork, FunctionNetwork, Network, TransformerEncoder, resnet20

MODELS = ("mlp", "vgg", "resnet20", "transformer")


@dataclasses.dataclass(frozen=True)
class Centred:
    """A network that sees pixels between -1 and 1 instead of 0 and 1.

    Where an image is blank, zeros stay zeros through convolutions, and a layer normalisation of nearly nothing
    magnifies gradients a thousand times: such networks do not train on digits as they are.
    """

    network: Network

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters."""
        return self.network.init(key)

    def apply(self, params: PyTree, inputs: Array) -> Array:
        """The network's outputs."""
        return self.network.apply(params, 2 * inputs - 1)


def build_network(
    model: str, input_shape: tuple[int, ...], num_classes: int, *, width: int, num_hidden_layers: int
) -> Network:
    """A network by name, or the one that `package.module:function` computes.

    Args:
        model: `"mlp"`; `"vgg"`, `"resnet20"`, `"transformer"`, scaled down for small images, which they see centred; or
            where to find `apply(params, inputs)`, beside which the module has `init(key)`.
        input_shape: of one sample.
        num_classes: number of logits.
        width: neurons of a hidden layer, channels of the first stage, or features of the residual stream.
        num_hidden_layers: of the MLP; layers of the transformer.

    Raises:
        ValueError: no such model, or it does not take such inputs.
    """
    if ":" in model:
        return load_network(model)
    if model not in MODELS:
        raise ValueError(f"model {model!r} is not one of {MODELS}, nor package.module:function")
    if model == "mlp":
        return FlaxNetwork(MLP((width,) * num_hidden_layers, num_classes), input_shape)
    if len(input_shape) != 3:
        raise ValueError(f"model {model!r} takes images [height, width, channels], not samples of shape {input_shape}")
    module: nn.Module
    if model == "vgg":
        module = VGG(((width,), (2 * width,), (4 * width,)), (8 * width,), num_classes)
    elif model == "resnet20":
        module = resnet20(width, num_classes)
    else:
        patch = max(p for p in range(1, 8) if math.gcd(*input_shape[:2]) % p == 0)
        heads = next(h for h in (4, 2, 1) if width % h == 0)
        module = TransformerEncoder(width, heads, num_hidden_layers, 2 * width, num_classes, patch_size=patch)
    return Centred(FlaxNetwork(module, input_shape))


def load_network(place: str) -> FunctionNetwork:
    """`package.module:function`, with an `init(key)` in the same module; the current folder is looked in as well.

    Raises:
        ValueError: there is no such module or function, or no `init` beside it.
    """
    module_name, _, name = place.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{place}: cannot import {module_name!r}: {error}") from error
    functions: list[Callable] = []
    for wanted in (name, "init"):
        function = getattr(module, wanted, None)
        if not callable(function):
            raise ValueError(f"{place}: module {module_name!r} has no function {wanted!r}")
        functions.append(function)
    apply, init = functions
    return FunctionNetwork(init, apply)
