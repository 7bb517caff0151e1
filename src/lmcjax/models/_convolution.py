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
    """`lax.conv_general_dilated` of images `[n, h, w, c]`, for linen's
    `Conv(conv_general_dilated=...)`.

    Outside loops XLA brings the two convolutions of a gradient into the layout that its CPU has a
    fast kernel for; inside `scan` and `while_loop` it does not (jaxlib 0.10), and a training step
    of ResNet-20 takes ten times as long. So on a CPU the gradient is written in that layout. The
    price: no forward-mode derivatives there.
    """
    plain = (
        isinstance(padding, str) and lhs.ndim == 4 and options.get("feature_group_count", 1) == 1
    )
    undilated = all(
        d == 1 for name in ("lhs_dilation", "rhs_dilation") for d in options.get(name) or ()
    )
    if not (plain and undilated and jax.default_backend() == "cpu"):
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    pads = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    return _convolve(lhs, rhs, tuple(window_strides), tuple(pads))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(
    x: Array, kernel: Array, strides: tuple[int, ...], pads: tuple[tuple[int, int], ...]
) -> Array:
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_LAYOUT)


def _forward(x: Array, kernel: Array, strides: Any, pads: Any) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, strides, pads), (x, kernel)


def _backward(
    strides: Any, pads: Any, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    # per axis: input size, kernel size, size of the gradient with the strides' gaps, padding before
    sizes = zip(x.shape[1:3], kernel.shape[:2], gradient.shape[1:3], strides, pads, strict=True)
    axes = [(n, k, (g - 1) * stride + 1, low) for n, k, g, stride, (low, _) in sizes]
    of_x = lax.conv_general_dilated(
        gradient,
        jnp.swapaxes(kernel[::-1, ::-1], 2, 3),
        (1, 1),
        [(k - 1 - low, n - g + low) for n, k, g, low in axes],
        lhs_dilation=strides,
        dimension_numbers=_LAYOUT,
    )
    of_kernel = lax.conv_general_dilated(  # channels as samples, samples as channels
        jnp.transpose(x, (3, 1, 2, 0)),
        jnp.transpose(gradient, (1, 2, 0, 3)),
        (1, 1),
        [(low, k - 1 + g - n - low) for n, k, g, low in axes],
        rhs_dilation=strides,
        dimension_numbers=_LAYOUT,
    )
    return of_x, jnp.transpose(of_kernel, (1, 2, 0, 3))


_convolve.defvjp(_forward, _backward)

Conv = functools.partial(nn.Conv, use_bias=False, conv_general_dilated=convolution)
"""The reference networks' convolution; a normalisation after it has the bias."""
