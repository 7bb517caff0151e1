"""The door at which complex weights are turned away."""

import jax.numpy as jnp
from jaxtyping import PyTree

from lmcjax.symmetry import named_leaves


def check_real_leaves(*networks: PyTree) -> None:
    """Check that no parameter is complex. Matchings compare weights by real inner products.

    Raises:
        ValueError: names the first complex leaf and shows its dtype.
    """
    for params in networks:
        for name, leaf in named_leaves(params).items():
            dtype = jnp.result_type(leaf)
            if jnp.issubdtype(dtype, jnp.complexfloating):
                raise ValueError(
                    f"leaf {name!r} is {dtype}, and matchings compare real weights: "
                    "give real and imaginary parts as leaves of their own"
                )
