"""Exact line search along a segment on which the objective is a polynomial of known degree."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

_BISECTIONS = 40


def through(values: Sequence[Array], slope: Array) -> Array:
    """Coefficients `[c_0, ..., c_d]` of the polynomial of degree d with `p(x_i) = values[i]` and
    `p'(0) = slope`.

    The d points are `x_0 = 0` and, evenly from there, up to `x_{d-1} = 1`; see `points`.
    """
    start, rest = values[0], values[1:]
    if not rest:
        return jnp.stack([start, slope])
    nodes = np.array(points(len(rest) + 1)[1:])
    powers = np.arange(2, len(nodes) + 2)
    inverse = jnp.asarray(np.linalg.inv(nodes[:, None] ** powers), start.dtype)
    beyond = jnp.stack(
        [value - start - slope * x for value, x in zip(rest, nodes.tolist(), strict=True)]
    )
    higher = jnp.sum(inverse * beyond, axis=1)
    return jnp.concatenate([jnp.stack([start, slope]), higher])


def points(degree: int) -> list[float]:
    """Where `through` wants a polynomial's values: as many as its degree, 0 and 1 among them (0
    alone, if one).
    """
    return [i / (degree - 1) for i in range(degree)] if degree > 1 else [0.0]


def largest_on_segment(coefficients: Array) -> Array:
    """Where in [0, 1] a polynomial is largest, among the ends and the roots of its derivative.

    Roots of a derivative lie between those of the next: each is found by bisection, from the
        highest derivative down.
    """
    degree = coefficients.shape[0] - 1
    derivatives = [coefficients]
    for _ in range(degree):
        last = derivatives[-1]
        derivatives.append(last[1:] * jnp.arange(1, last.shape[0], dtype=last.dtype))
    zero, one = jnp.zeros(1, coefficients.dtype), jnp.ones(1, coefficients.dtype)
    roots = jnp.zeros(0, coefficients.dtype)
    for derivative in reversed(derivatives[1:degree]):  # linear ... the first derivative
        ends = jnp.concatenate([zero, roots, one])
        roots = _bisect(functools.partial(evaluate, derivative), ends[:-1], ends[1:])
    candidates = jnp.concatenate([zero, roots, one])
    return candidates[jnp.argmax(evaluate(coefficients.at[0].set(0), candidates))]


def evaluate(coefficients: Array, x: Array) -> Array:
    """The polynomial's values, by Horner's rule."""
    value = jnp.zeros_like(x)
    for i in reversed(range(coefficients.shape[0])):
        value = value * x + coefficients[i]
    return value


def _bisect(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """A root in each interval in which the sign changes; anything inside the interval where it does
    not.
    """
    rising = function(low) < function(high)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        left = (function(middle) > 0) == rising  # the root is to the left
        return jnp.where(left, low, middle), jnp.where(left, middle, high)

    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (low, high))
    return (low + high) / 2
