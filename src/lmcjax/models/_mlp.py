"""The multilayer perceptron of the paper's experiments."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Key, Num

_TRUNCATED_STD = 0.87962566103423978  # of a standard normal cut at -2 and 2


@functools.partial(jax.jit, static_argnums=(1, 2))
def lecun_normal_per_neuron(
    key: Key[Array, ""], shape: tuple[int, int], dtype: DTypeLike | None = None
) -> Float[Array, "fan_in n"]:
    """LeCun-normal kernel (truncated normal of variance `1 / fan_in`, as Flax's default), one key
    per neuron.

    Neuron i draws its incoming weights from `fold_in(key, i)`: up to the scale, its first weights
    are the same bits whatever the layer's width and fan-in, so a wider layer contains a narrower
    one.

    Args:
        key: the layer's key; Flax folds the layer's name into it.
        shape: `(fan_in, n)`, static.
        dtype: default: JAX's default float (float64 where x64 is on).
    """
    fan_in, num_neurons = shape
    dtype = jnp.result_type(float) if dtype is None else dtype

    def incoming(neuron: Array) -> Array:
        return jax.random.truncated_normal(jax.random.fold_in(key, neuron), -2, 2, (fan_in,), dtype)

    scale = jnp.asarray(
        1 / (np.sqrt(fan_in) * _TRUNCATED_STD), dtype
    )  # on the host: the same bits static or traced
    return (scale * jax.vmap(incoming)(jnp.arange(num_neurons))).T


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
        if not self.widths or min((*self.widths, self.num_classes)) < 1:
            raise ValueError(
                f"an MLP has hidden layers and classes, not widths={self.widths}, {self.num_classes} classes"
            )
        dtype = jnp.result_type(float) if self.param_dtype is None else self.param_dtype
        x = inputs.reshape(inputs.shape[0], -1)
        for layer, width in enumerate((*self.widths, self.num_classes)):
            x = nn.Dense(
                width,
                use_bias=self.use_bias,
                kernel_init=lecun_normal_per_neuron,
                param_dtype=dtype,
                name=f"Dense_{layer}",
            )(x)
            if layer < len(self.widths):
                x = self.activation(x)
        return x
