"""The networks that an experiment can be run on: by name, or a user's own."""

import contextlib
import dataclasses
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Key, PyTree

from lmcjax.models._mlp import MLP
from lmcjax.models._network import FlaxNetwork, FunctionNetwork, Network
from lmcjax.models._resnet import resnet20
from lmcjax.models._transformer import TransformerEncoder
from lmcjax.models._vgg import VGG

MODELS = ("mlp", "vgg", "resnet20", "transformer")


@dataclasses.dataclass(frozen=True)
class Centred:
    """A network that sees pixels between -1 and 1 instead of 0 and 1.

    Where an image is blank, zeros stay zeros through convolutions, and a layer normalisation of
    nearly nothing magnifies gradients a thousand times: such networks do not train on digits as
    they are.
    """

    network: Network

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters."""
        return self.network.init(key)

    def apply(self, params: PyTree, inputs: Array) -> Array:
        """The network's outputs."""
        return self.network.apply(params, 2 * inputs - 1)


def build_network(
    model: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int,
    num_hidden_layers: int,
) -> Network:
    """A network by name, or one from a user's module.

    Args:
        model: `"mlp"`; `"vgg"`, `"resnet20"`, `"transformer"`, scaled down for small images, which
            they see centred; or `package.module:function`, where the function is either
            `apply(params, inputs)`, beside which the module has `init(key)`, or takes this
            function's arguments after the first by name and returns a `Network`.
        input_shape: of one sample.
        num_classes: number of logits.
        width: neurons of a hidden layer, channels of the first stage, or features of the residual
            stream.
        num_hidden_layers: of the MLP; layers of the transformer.

    Raises:
        ValueError: no such model, or it does not take such inputs.
    """
    if ":" in model:
        function, init = _find(model)
        if init is not None:
            return FunctionNetwork(init, function)
        return function(
            input_shape=input_shape,
            num_classes=num_classes,
            width=width,
            num_hidden_layers=num_hidden_layers,
        )
    if model not in MODELS:
        raise ValueError(f"model {model!r} is not one of {MODELS}, nor package.module:function")
    if model == "mlp":
        return FlaxNetwork(MLP((width,) * num_hidden_layers, num_classes), input_shape)
    if len(input_shape) != 3:
        raise ValueError(
            f"model {model!r} takes images [height, width, channels], not samples of shape {input_shape}"
        )
    module: nn.Module
    if model == "vgg":
        module = VGG(((width,), (2 * width,), (4 * width,)), (8 * width,), num_classes)
    elif model == "resnet20":
        module = resnet20(width, num_classes)
    else:
        patch = max(p for p in range(1, 8) if math.gcd(*input_shape[:2]) % p == 0)
        heads = next(h for h in (4, 2, 1) if width % h == 0)
        module = TransformerEncoder(
            width, heads, num_hidden_layers, 2 * width, num_classes, patch_size=patch
        )
    return Centred(FlaxNetwork(module, input_shape))


def takes_width(model: str) -> bool:
    """Whether networks of this model come in several widths; `package.module:apply` is one network
    as it is.

    Raises:
        ValueError: there is no such function.
    """
    return ":" not in model or _find(model)[1] is None


def _find(place: str) -> tuple[Callable, Callable | None]:
    """The function of `package.module:function`, and the `init` beside it unless the function
    builds networks.

    The current folder is looked in as well.

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

    def function(wanted: str) -> Callable:
        found = getattr(module, wanted, None)
        if not callable(found):
            raise ValueError(f"{place}: module {module_name!r} has no function {wanted!r}")
        return found

    wanted = function(name)
    with contextlib.suppress(
        TypeError, ValueError
    ):  # some built-in functions tell nothing of their arguments
        if "width" in inspect.signature(wanted).parameters:
            return wanted, None
    return wanted, function("init")
