"""Equinox."""

from typing import Any

import jax
from jaxtyping import Array, PyTree

from lmcjax.frameworks._common import Apply, check_fits, import_optional


def from_equinox(model: Any, state: Any = None) -> tuple[Apply, PyTree]:
    """`(apply, params)` of an Equinox module in inference mode.

    >>> import equinox as eqx
    >>> import jax.numpy as jnp
    >>> apply, params = from_equinox(eqx.nn.Linear(3, 2, key=jax.random.key(0)))
    >>> apply(params, jnp.ones((5, 3))).shape
    (5, 2)

    Args:
        model: a module that, as is usual in Equinox, maps one sample to one output; with `state`,
            a sample and the state to an output and a new state. `apply` maps it over batches, under
            the axis name `"batch"`.
        state: an `eqx.nn.State`, BatchNorm's statistics for example, for a module that has one.

    Returns:
        `apply(params, inputs)`, pure, and `params`: the module with its arrays only. With `state`,
        `{"model": the module with its arrays only, "state": state}`.

    Raises:
        ImportError: Equinox is not installed.
    """
    eqx = _import_equinox()
    arrays, rest = eqx.partition(eqx.nn.inference_mode(model), eqx.is_array)
    if state is None:

        def apply(params: PyTree, inputs: Array) -> Any:
            return jax.vmap(eqx.combine(params, rest))(inputs)

        return apply, arrays

    def apply_with_state(params: PyTree, inputs: Array) -> Any:
        on_batch = jax.vmap(
            eqx.combine(params["model"], rest),
            in_axes=(0, None),
            out_axes=(0, None),
            axis_name="batch",  # over which BatchNorm is told to average
        )
        outputs, _ = on_batch(inputs, params["state"])
        return outputs

    return apply_with_state, {"model": arrays, "state": state}


def to_equinox(model: Any, params: PyTree) -> Any:
    """An Equinox module with other parameters, such as aligned ones.

    Args:
        model: what `from_equinox` was given, or one like it. It is not changed.
        params: of the form that `from_equinox` returns.

    Returns:
        The module, in the mode (training or inference) of `model`. Where `from_equinox` was given a
        state, `(module, state)`.

    Raises:
        ImportError: Equinox is not installed.
        ValueError: names or shapes are not those of the module's arrays; names the first.
    """
    eqx = _import_equinox()
    with_state = isinstance(params, dict) and set(params) == {"model", "state"}
    arrays = params["model"] if with_state else params
    own_arrays, rest = eqx.partition(model, eqx.is_array)
    check_fits(own_arrays, arrays)
    # The mode is a part of the tree's structure, so that the new arrays are put into the old tree.
    own_structure = jax.tree.structure(own_arrays)
    restored = eqx.combine(jax.tree.unflatten(own_structure, jax.tree.leaves(arrays)), rest)
    return (restored, params["state"]) if with_state else restored


def _import_equinox() -> Any:
    return import_optional("equinox", "pip install equinox")
