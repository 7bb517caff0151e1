"""The two-layer network of the paper's Theorem 3.1."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Key, PyTree


@dataclasses.dataclass(frozen=True)
class MeanField:
    """`f(x) = 1/N sum_i a_i tanh(w_i x + b_i)`: the network of Theorem 3.1, initially i.i.d.
    uniform.

    Parameters are stored as `theta / sqrt(N)`. A step of rate eta then moves theta by `-eta N
    grad_theta`, the time scale of the mean-field limit: one rate serves all widths.
    """

    width: int
    num_inputs: int
    num_classes: int

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Of theta, weights have variance 1 / inputs, biases and a lie between -1 and 1."""

        def neuron(
            number: Array,
        ) -> tuple[Array, Array, Array]:  # a wider network contains a narrower one
            keys = jax.random.split(jax.random.fold_in(key, number), 3)
            bound = (3 / self.num_inputs) ** 0.5
            weights = jax.random.uniform(keys[0], (self.num_inputs,), minval=-bound, maxval=bound)
            bias = jax.random.uniform(keys[1], (), minval=-1.0)
            return weights, bias, jax.random.uniform(keys[2], (self.num_classes,), minval=-1.0)

        kernel, bias, outgoing = (
            leaf / self.width**0.5 for leaf in jax.vmap(neuron)(jnp.arange(self.width))
        )
        return {"Dense_0": {"kernel": kernel.T, "bias": bias}, "Dense_1": {"kernel": outgoing}}

    def apply(self, params: PyTree, inputs: ArrayLike) -> Array:
        """Outputs `[num_samples, num_classes]`."""
        scale = self.width**0.5
        first, last = params["Dense_0"], params["Dense_1"]
        hidden = jnp.tanh(
            scale
            * (jnp.reshape(inputs, (jnp.shape(inputs)[0], -1)) @ first["kernel"] + first["bias"])
        )
        return hidden @ last["kernel"] / scale


def mean_field(
    *, width: int, num_hidden_layers: int, input_shape: tuple[int, ...], num_classes: int
) -> MeanField:
    """For `Sweep.model`; it has one hidden layer."""
    if num_hidden_layers != 1:
        raise ValueError(f"the mean-field network has 1 hidden layer, not {num_hidden_layers}")
    return MeanField(width, int(np.prod(input_shape)), num_classes)
