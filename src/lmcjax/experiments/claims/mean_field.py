"""The two-layer network of the paper's Theorem 3.1."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Key, PyTree


@dataclasses.dataclass(frozen=True)
class MeanField:
    """`f(x) = 1/N sum_i a_i tanh(w_i x + b_i)`, the network of Theorem 3.1, initially uniform.

    Parameters are stored as `theta / sqrt(N)`. A step of rate eta then moves theta by `-eta N
    grad_theta`, the time scale of the mean-field limit: one rate serves all widths.
    """

    width: int
    num_inputs: int
    num_classes: int

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Initial parameters, independent and uniform.

        As theta, weights have variance 1 / inputs; biases and a lie between -1 and 1.
        """
        bound = (3 / self.num_inputs) ** 0.5

        # Each neuron has a key of its own, so that a wider network contains a narrower one
        def draw_neuron(number: Array) -> tuple[Array, Array, Array]:
            keys = jax.random.split(jax.random.fold_in(key, number), 3)
            weights = jax.random.uniform(keys[0], (self.num_inputs,), minval=-bound, maxval=bound)
            bias = jax.random.uniform(keys[1], (), minval=-1.0)
            outgoing = jax.random.uniform(keys[2], (self.num_classes,), minval=-1.0)
            return weights, bias, outgoing

        weights, bias, outgoing = jax.vmap(draw_neuron)(jnp.arange(self.width))
        scale = self.width**0.5
        return {
            "Dense_0": {"kernel": (weights / scale).T, "bias": bias / scale},
            "Dense_1": {"kernel": outgoing / scale},
        }

    def apply(self, params: PyTree, inputs: ArrayLike) -> Array:
        """Outputs `[num_samples, num_classes]`."""
        scale = self.width**0.5
        first = params["Dense_0"]
        last = params["Dense_1"]
        num_samples = jnp.shape(inputs)[0]
        flat_inputs = jnp.reshape(inputs, (num_samples, -1))
        hidden = jnp.tanh(scale * (flat_inputs @ first["kernel"] + first["bias"]))
        return hidden @ last["kernel"] / scale


def mean_field(
    *, width: int, num_hidden_layers: int, input_shape: tuple[int, ...], num_classes: int
) -> MeanField:
    """Build the network for `Sweep.model`; it has one hidden layer."""
    if num_hidden_layers != 1:
        raise ValueError(f"the mean-field network has 1 hidden layer, not {num_hidden_layers}")
    return MeanField(width, int(np.prod(input_shape)), num_classes)
