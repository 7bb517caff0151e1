"""The networks that an experiment can be run on: by name, or a user's own."""

import dataclasses
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

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
    init: Callable[..., PyTree] | None = None,
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
        init: what stands for `init(key)` where a user's module has an `apply` and no `init`.

    Raises:
        ValueError: no such model, or it does not take such inputs.
    """
    if ":" in model:
        found = _find(model, init)
        if found.init is not None:
            return FunctionNetwork(found.init, found.function)
        return found.function(
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
            f"model {model!r} takes images [height, width, channels], "
            f"not samples of shape {input_shape}"
        )
    module: nn.Module
    if model == "vgg":
        module = VGG(((width,), (2 * width,), (4 * width,)), (8 * width,), num_classes)
    elif model == "resnet20":
        module = resnet20(width, num_classes)
    else:
        module = _small_transformer(input_shape, num_classes, width, num_hidden_layers)
    return Centred(FlaxNetwork(module, input_shape))


def _small_transformer(
    input_shape: tuple[int, ...], num_classes: int, width: int, num_layers: int
) -> TransformerEncoder:
    """A transformer whose patches and heads fit the images and the width."""
    height, image_width, _ = input_shape
    common_side = math.gcd(height, image_width)
    patch_size = 1
    for size in range(2, 8):
        if common_side % size == 0:
            patch_size = size
    num_heads = 1
    for count in (2, 4):
        if width % count == 0:
            num_heads = count
    return TransformerEncoder(
        width=width,
        num_heads=num_heads,
        num_layers=num_layers,
        hidden=2 * width,
        num_classes=num_classes,
        patch_size=patch_size,
    )


def takes_width(model: str) -> bool:
    """Whether networks of this model come in several widths.

    Those of `package.module:apply` do not: there is one network, as it is.

    Raises:
        ValueError: there is no such function.
    """
    return ":" not in model or _find(model).init is None


class _UserModel(NamedTuple):
    """What a user's module has: `apply` and `init`, or a function that builds networks."""

    function: Callable
    init: Callable | None  # None: `function` builds networks


def find_function(place: str) -> Callable:
    """The function of `package.module:function`; modules of the current folder are found as well.

    Raises:
        ValueError: there is no such module or function.
    """
    module, name = _find_module(place)
    return _get_function(module, name, place)


def _find(place: str, init: Callable | None = None) -> _UserModel:
    """Find the function of `package.module:function`, and the `init` beside an `apply`.

    Args:
        place: where they are.
        init: what stands for an `init` that is not there.

    Raises:
        ValueError: there is no such module or function, or no `init` beside it.
    """
    module, name = _find_module(place)
    function = _get_function(module, name, place)
    if "width" in _parameter_names(function):
        return _UserModel(function, None)
    if init is not None and not hasattr(module, "init"):
        return _UserModel(function, init)
    return _UserModel(function, _get_function(module, "init", place))


def _find_module(place: str) -> tuple[ModuleType, str]:
    """The module of `package.module:function`, and the function's name."""
    module_name, _, name = place.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module_name), name
    except ImportError as error:
        raise ValueError(f"{place}: cannot import {module_name!r}: {error}") from error


def _get_function(module: ModuleType, name: str, place: str) -> Callable:
    """A function of a module."""
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{place}: module {module.__name__!r} has no function {name!r}")
    return function


def _parameter_names(function: Callable) -> list[str]:
    """The names of a function's arguments, or none where they cannot be told."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return []
