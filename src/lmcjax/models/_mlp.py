"""The multilayer perceptron of the paper's experiments."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Key, Num

# Standard deviation of a standard normal cut at -2 and 2.
_TRUNCATED_STD = 0.87962566103423978


@functools.partial(jax.jit, static_argnums=(1, 2))
def lecun_normal_per_neuron(
    key: Key[Array, ""], shape: tuple[int, int], dtype: DTypeLike | None = None
) -> Float[Array, "fan_in n"]:
    """Draw a LeCun-normal kernel with one key per neuron.

    The distribution is Flax's default, a truncated normal of variance `1 / fan_in`. Neuron i draws
    its incoming weights from `fold_in(key, i)`. So up to the scale, its first weights are the same
    bits whatever the layer's width and fan-in, and a wider layer contains a narrower one.

    Args:
        key: the layer's key; Flax folds the layer's name into it.
        shape: `(fan_in, n)`, static.
        dtype: default: JAX's default float (float64 where x64 is on).
    """
    fan_in, num_neurons = shape
    if dtype is None:
        dtype = jnp.result_type(float)

    def incoming_weights(neuron: Array) -> Array:
        neuron_key = jax.random.fold_in(key, neuron)
        return jax.random.truncated_normal(neuron_key, -2, 2, (fan_in,), dtype)

    # On the host, so that it has the same bits whether fan_in is static or traced.
    scale = jnp.asarray(1 / (np.sqrt(fan_in) * _TRUNCATED_STD), dtype)
    neurons = jax.vmap(incoming_weights)(jnp.arange(num_neurons))
    return (scale * neurons).T


class MLP(nn.Module):
    """Fully connected network `Dense_0 ... Dense_L`: hidden layers with an activation, then logits.

    Inputs of any shape `[num_samples, ...]` are flattened. The permutation spec is
    `mlp_spec(len(widths))`.

    Attributes:
        widths: m_1 ... m_L, at least one.
        num_classes: m_{L+1}.
        activation: applied after each hidden layer.
        use_bias: whether layers have biases, initially 0.
        param_dtype: default: JAX's default float (float64 where x64 is on).
    """

    widths: tuple[int, ...]
    num_classes: int
    activation: Callable[[Array], Array] = nn.relu
    use_bias: bool = True
    param_dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, inputs: Num[Array, "num_samples ..."]
    ) -> Float[Array, "num_samples num_classes"]:
        all_widths = (*self.widths, self.num_classes)
        if not self.widths or min(all_widths) < 1:
            raise ValueError(
                f"an MLP has hidden layers and classes, not widths={self.widths}, "
                f"{self.num_classes} classes"
            )
        dtype = jnp.result_type(float) if self.param_dtype is None else self.param_dtype
        x = inputs.reshape(inputs.shape[0], -1)
        for layer, width in enumerate(all_widths):
            dense = nn.Dense(
                width,
                use_bias=self.use_bias,
                kernel_init=lecun_normal_per_neuron,
                param_dtype=dtype,
                name=f"Dense_{layer}",
            )
            x = dense(x)
            if layer < len(self.widths):
                x = self.activation(x)
        return x
