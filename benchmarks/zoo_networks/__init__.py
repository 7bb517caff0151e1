"""Public networks of ten packages, small, as their users build them.

Each package has a module here with a table `NETWORKS`: from a name to a function that builds the
network. Nothing is downloaded; the parameters are those of a fresh network.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "equinox",
    "equimo",
    "haiku",
    "jraph",
    "flax",
    "flaxmodels",
    "jaxkan",
    "keras",
)


class Example(NamedTuple):
    """A network as `discover` takes it."""

    apply: Callable[[Any, Any], Any]
    params: Any
    inputs: Any


Build = Callable[[], Example]


def load(package: str) -> dict[str, Build]:
    """The networks of one package. They need the package to be installed."""
    module = importlib.import_module(f"zoo_networks.of_{package}")
    networks: dict[str, Build] = module.NETWORKS
    return networks
