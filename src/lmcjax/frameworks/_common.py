"""What the frameworks share: optional imports, and a check of parameters that are put back."""

import importlib
from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp
from jaxtyping import PyTree

from lmcjax.symmetry import named_leaves

Apply: TypeAlias = Callable[..., Any]  # apply(params, inputs), outputs of any structure


def import_optional(name: str, install: str) -> Any:
    """A module that `pip install lmcjax` does not bring.

    Args:
        name: of the module.
        install: what to install where it is missing.

    Raises:
        ImportError: it is not installed; says what to install.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # it is there, and something that it needs is not
            raise
        raise ImportError(f"{name} is not installed: {install}") from error


def check_fits(expected: PyTree, params: PyTree) -> None:
    """Check that parameters have the names and the shapes of a model's own.

    Raises:
        ValueError: they have not; names the first leaf that differs.
    """
    of_model = named_leaves(expected)
    given = named_leaves(params)
    for name in of_model:
        if name not in given:
            raise ValueError(f"params lack {name!r}, which the model has; they have {list(given)}")
    for name, leaf in given.items():
        if name not in of_model:
            raise ValueError(
                f"params have {name!r}, which the model lacks; it has {list(of_model)}"
            )
        shape = jnp.shape(leaf)
        model_shape = jnp.shape(of_model[name])
        if shape != model_shape:
            raise ValueError(f"{name!r} has shape {shape} in params, {model_shape} in the model")
