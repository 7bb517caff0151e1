"""JaxKAN: Kolmogorov-Arnold networks."""

import functools

from jaxkan.models.KAN import KAN

from zoo_networks import Example
from zoo_networks.of_flax import of_nnx


def build(kind: str, **options: int) -> Example:
    """Two hidden layers of one kind."""
    return of_nnx(KAN([7, 6, 5, 3], layer_type=kind, required_parameters=options), (7,))


NETWORKS = {
    "spline": functools.partial(build, "base", k=3, G=3),
    "chebyshev": functools.partial(build, "chebyshev", D=3),
    "fourier": functools.partial(build, "fourier", D=3),
    "sine": functools.partial(build, "sine", D=3),
}
