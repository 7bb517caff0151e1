"""Flax NNX."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, PyTree

from lmcjax.frameworks._common import Apply, check_fits


def from_nnx(model: Any) -> tuple[Apply, PyTree]:
    """`(apply, params)` of an NNX module in evaluation mode.

    >>> import jax.numpy as jnp
    >>> apply, params = from_nnx(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    >>> apply(params, jnp.ones((5, 3))).shape
    (5, 2)

    Args:
        model: an `nnx.Module` that maps a batch of inputs to a batch of outputs. It is not changed.

    Returns:
        `apply(params, inputs)`, pure, and `params`: nested dicts of all the module's variables,
        BatchNorm's statistics among them. The states of random number generators are no parameters;
        they stay inside `apply`.
    """
    evaluated = _copy(model)
    evaluated.eval()
    graph, generators, state = nnx.split(evaluated, nnx.RngState, ...)

    def apply(params: PyTree, inputs: Array) -> Any:
        return nnx.merge(graph, _copy_state(generators), _with_values(state, params))(inputs)

    return apply, nnx.to_pure_dict(state)


def to_nnx(model: Any, params: PyTree) -> Any:
    """A copy of an NNX module with other parameters, such as aligned ones.

    Args:
        model: what `from_nnx` was given, or one like it. It is not changed.
        params: of the form that `from_nnx` returns.

    Returns:
        The copy, in the mode (training or evaluation) of `model`.

    Raises:
        ValueError: names or shapes are not those of the module's variables; names the first.
    """
    graph, generators, state = nnx.split(model, nnx.RngState, ...)
    return nnx.merge(graph, _copy_state(generators), _with_values(state, params))


def _copy(model: Any) -> Any:
    graph, state = nnx.split(model)
    return nnx.merge(graph, _copy_state(state))


def _copy_state(state: Any) -> Any:
    """The same values in new variables: what a module writes must not reach the original."""
    return jax.tree.map(lambda leaf: leaf, state)


def _with_values(state: Any, params: PyTree) -> Any:
    """A copy of the state with the values of `params`."""
    check_fits(nnx.to_pure_dict(state), params)
    copy = _copy_state(state)
    nnx.replace_by_pure_dict(copy, params)
    return copy
