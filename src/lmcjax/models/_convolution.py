"""Convolutions whose gradients are fast inside compiled loops on a CPU."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolution(lhs: Array, rhs: Array, window_strides: Any, padding: Any, **options: Any) -> Array:
    """Convolve images `[n, h, w, c]`, as `lax.conv_general_dilated` does.

    It is for linen's `Conv(conv_general_dilated=...)`. Outside loops XLA brings the two
    convolutions of a gradient into the layout that its CPU has a fast kernel for. Inside `scan` and
    `while_loop` it does not (jaxlib 0.10), and a training step of ResNet-20 takes ten times as
    long. So on a CPU the gradient is written in that layout here, at the price of forward-mode
    derivatives, which it does not have.
    """
    one_group = options.get("feature_group_count", 1) == 1
    plain = isinstance(padding, str) and lhs.ndim == 4 and one_group
    undilated = _is_undilated(options, "lhs_dilation") and _is_undilated(options, "rhs_dilation")
    if not (plain and undilated and jax.default_backend() == "cpu"):
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    pads = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    return _convolve(lhs, rhs, tuple(window_strides), tuple(pads))


def _is_undilated(options: dict[str, Any], name: str) -> bool:
    """Whether a dilation is not given or 1 along each axis."""
    return set(options.get(name) or ()) <= {1}


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(
    x: Array, kernel: Array, strides: tuple[int, ...], pads: tuple[tuple[int, int], ...]
) -> Array:
    """The convolution; its gradient is defined below."""
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_LAYOUT)


def _forward(x: Array, kernel: Array, strides: Any, pads: Any) -> tuple[Array, tuple[Array, Array]]:
    """The convolution, and what its gradient needs."""
    return _convolve(x, kernel, strides, pads), (x, kernel)


def _backward(
    strides: Any, pads: Any, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    """Both derivatives, each again a convolution of images in the usual layout."""
    x, kernel = residuals
    pads_for_x = []
    pads_for_kernel = []
    for axis in (0, 1):  # height and width
        image_size = x.shape[1 + axis]
        kernel_size = kernel.shape[axis]
        # With strides the gradient has gaps: lhs_dilation and rhs_dilation below.
        gradient_size = (gradient.shape[1 + axis] - 1) * strides[axis] + 1
        before, _ = pads[axis]
        pads_for_x.append((kernel_size - 1 - before, image_size - gradient_size + before))
        pads_for_kernel.append((before, kernel_size + gradient_size - 1 - image_size - before))

    # The gradient convolved with the kernel, turned round and with its channels swapped.
    gradient_of_x = lax.conv_general_dilated(
        gradient,
        jnp.swapaxes(kernel[::-1, ::-1], 2, 3),
        (1, 1),
        pads_for_x,
        lhs_dilation=strides,
        dimension_numbers=_LAYOUT,
    )
    # The images convolved with the gradient: channels stand as samples, samples as channels.
    gradient_of_kernel = lax.conv_general_dilated(
        jnp.transpose(x, (3, 1, 2, 0)),
        jnp.transpose(gradient, (1, 2, 0, 3)),
        (1, 1),
        pads_for_kernel,
        rhs_dilation=strides,
        dimension_numbers=_LAYOUT,
    )
    return gradient_of_x, jnp.transpose(gradient_of_kernel, (1, 2, 0, 3))


_convolve.defvjp(_forward, _backward)

Conv = functools.partial(nn.Conv, use_bias=False, conv_general_dilated=convolution)
"""The reference networks' convolution; a normalisation after it has the bias."""
