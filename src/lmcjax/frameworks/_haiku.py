"""Haiku."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from lmcjax.frameworks._common import Apply, import_optional


def from_haiku(
    transformed: Any, params: PyTree, state: PyTree | None = None, **options: Any
) -> tuple[Apply, PyTree]:
    """`(apply, params)` of a transformed Haiku function.

    Haiku has no evaluation mode of its own. Functions take an argument for it, which is given here
    by its name: `from_haiku(transformed, params, state, is_training=False)`.

    >>> import haiku as hk
    >>> import jax
    >>> transformed = hk.transform(lambda x: hk.Linear(2)(x))
    >>> inputs = jnp.ones((5, 3))
    >>> apply, params = from_haiku(transformed, transformed.init(jax.random.key(0), inputs))
    >>> apply(params, inputs).shape
    (5, 2)

    Args:
        transformed: what `hk.transform` or `hk.transform_with_state` returns, with or without
            `hk.without_apply_rng`. The function gets no random key.
        params: its parameters.
        state: its state, BatchNorm's statistics for example; for `hk.transform_with_state`.
        options: further arguments of the function.

    Returns:
        `apply(params, inputs)`, pure, and `params`: for `hk.transform`, those that were given; for
        `hk.transform_with_state`, `{"params": params, "state": state}`.

    Raises:
        ImportError: Haiku is not installed.
        ValueError: `transformed` is neither, or `state` is missing, or there is one too many.
    """
    hk = import_optional("haiku", "pip install dm-haiku")
    if not isinstance(transformed, (hk.Transformed, hk.TransformedWithState)):
        raise ValueError(
            "from_haiku takes what hk.transform or hk.transform_with_state returns, "
            f"not a {type(transformed).__name__}"
        )
    has_state = isinstance(transformed, hk.TransformedWithState)
    if has_state != (state is not None):
        needs = "needs a state" if has_state else "has no state: use hk.transform_with_state"
        raise ValueError(f"this transformed function {needs}")
    apply_function = _without_key(transformed.apply)
    if not has_state:

        def apply(params: PyTree, inputs: Array) -> Any:
            return apply_function(params, inputs, **options)

        return apply, params

    def apply_with_state(params: PyTree, inputs: Array) -> Any:
        state = _tie_averages(params["state"])
        outputs, _ = apply_function(params["params"], state, inputs, **options)
        return outputs

    return apply_with_state, {"params": params, "state": state}


def to_haiku(params: PyTree) -> tuple[PyTree, PyTree | None]:
    """Haiku's own `(params, state)` from parameters such as aligned ones.

    >>> to_haiku({"params": {"linear": {"w": 1}}, "state": {"counter": {"count": 2}}})
    ({'linear': {'w': 1}}, {'counter': {'count': 2}})

    Args:
        params: of the form that `from_haiku` returns.

    Returns:
        What `transformed.apply` takes. Without a state, `(params, None)`.
    """
    # The values tell apart a state from modules of these names: they are dicts of dicts.
    if set(params) == {"params", "state"} and _is_nested(params["params"]):
        return params["params"], params["state"]
    return params, None


def _is_nested(params: Any) -> bool:
    """Whether all values are dicts, as those of a network are and those of a module are not."""
    return all(isinstance(module, Mapping) for module in params.values())


def _without_key(apply: Callable) -> Callable:
    """Haiku's `apply`, with no random key where it takes one."""
    names = list(inspect.signature(apply).parameters)
    position = 2 if "state" in names[:2] else 1
    if "rng" not in names[: position + 1]:
        return apply

    def without_key(*arguments: Any, **options: Any) -> Any:
        before = arguments[:position]
        return apply(*before, None, *arguments[position:], **options)

    return without_key


def _tie_averages(state: PyTree) -> PyTree:
    """The same state, whose program reads the sums that belong to moving averages.

    `hk.ExponentialMovingAverage` keeps an average for evaluation, and beside it the sum from which
    it goes on in training. Evaluation does not read the sum. Discovery would not see that it has
    the average's neurons, and a permuted network could not be trained on. The choice below always
    takes the average, to the last bit.
    """
    tied = {}
    for name, entries in state.items():
        if {"average", "hidden", "counter"} <= set(entries):
            average = jnp.where(True, entries["average"], entries["hidden"])
            entries = {**entries, "average": average}
        tied[name] = entries
    return tied
