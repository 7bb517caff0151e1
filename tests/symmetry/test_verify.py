"""Specs tried out: how far rounding may go, groups that fail only together, and what it costs."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import verify
from lmcjax.symmetry import PermutationSpec, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation")

SPEC = PermutationSpec.from_axes({"w": (None, writes("g")), "v": (reads("g"), None)})
WRONG = PermutationSpec.from_axes({"w": (None, writes("g")), "v": (None, None)})


def parameters(dtype: Any = np.float32, width: int = 40) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "w": jnp.asarray(rng.normal(size=(4, width)), dtype),
        "v": jnp.asarray(rng.normal(size=(width, 3)), dtype),
    }


def inputs(dtype: Any = np.float32) -> Any:
    return jnp.asarray(np.random.default_rng(1).normal(size=(9, 4)), dtype)


def layers(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["w"]) @ params["v"]


def in_float32(params: Any, x: Any) -> Any:
    return layers(*jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, x)))


def in_a_scan(params: Any, x: Any) -> Any:
    return jax.lax.scan(lambda carry, row: (carry, in_float32(params, row)), 0, x)[1]


def in_a_branch(params: Any, x: Any) -> Any:
    return jax.lax.cond(
        x[0, 0] > 10, lambda: jnp.zeros((9, 3), jnp.float32), lambda: in_float32(params, x)
    )


@pytest.mark.parametrize("inner", [in_float32, jax.jit(in_float32), in_a_scan, in_a_branch])
def test_float64_results_of_a_float32_computation(inner: Callable, x64: None) -> None:
    """Keras computes so with x64 on; narrow numbers may stand anywhere. The wrong spec fails."""

    def apply(params: Any, x: Any) -> Any:
        return inner(params, x).astype(jnp.float64)

    result = verify(apply, SPEC, parameters(np.float64), inputs(np.float64))
    assert 1e-9 < result.difference["g"] < 1e-5
    assert result.holds["g"]
    assert not verify(apply, WRONG, parameters(np.float64), inputs(np.float64)).holds["g"]


@pytest.mark.parametrize("side", ["parameters", "inputs"])
def test_float32_parameters_and_inputs_count(side: str, x64: None) -> None:
    """A leaf that is cast before anything is done."""
    params = parameters(np.float32 if side == "parameters" else np.float64)
    x = inputs(np.float32 if side == "inputs" else np.float64)
    assert_tolerance(params, x, 1e-5)


def off_by(params: Any, x: Any, share: Any) -> Any:
    """A network that looks at the order of its neurons, a little; in float64 where that is on."""
    params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.result_type(float)), (params, x))
    order = 1 + share * jnp.arange(params["w"].shape[1], dtype=x.dtype)
    return (jnp.tanh(x @ params["w"]) * order) @ params["v"]


def assert_tolerance(params: Any, x: Any, tolerance: float) -> None:
    """By closed form: the difference is proportional to the share."""
    slope = float(verify(lambda p, x: off_by(p, x, 1e-2), SPEC, params, x).difference["g"]) / 1e-2
    for aim in (tolerance / 3, 3 * tolerance):
        result = verify(functools.partial(off_by, share=aim / slope), SPEC, params, x)
        assert bool(result.holds["g"]) == (aim < tolerance), (
            float(result.difference["g"]),
            tolerance,
        )


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (np.float64, 1e-9),
        (np.float32, 1e-5),
        (np.float16, 16 * 2.0**-10),
        (jnp.bfloat16, 4 * 2.0**-7),
    ],
)
def test_the_tolerance_is_that_of_the_least_precise_numbers(
    dtype: Any, tolerance: float, x64: None
) -> None:
    """Of the parameters here; all else is in float64."""
    assert_tolerance(parameters(dtype), inputs(np.float64), tolerance)


def test_a_bfloat16_network_that_returns_float32() -> None:
    """In another order, sums differ in their last place, which the result's dtype does not show."""

    def apply(params: Any, x: Any) -> Any:
        hidden = jnp.tanh(x @ params["w"])
        terms = [
            jax.lax.optimization_barrier(column)
            for column in (hidden[..., None] * params["v"]).swapaxes(0, 1)
        ]
        total = terms[0]
        for term in terms[1:]:
            total = jax.lax.optimization_barrier(total + term)
        return total.astype(jnp.float32)

    params, x = parameters(jnp.bfloat16, width=12), inputs(jnp.bfloat16)
    result = verify(apply, SPEC, params, x)
    assert 1e-4 < result.difference["g"] < 4 * 2.0**-7
    assert result.holds["g"]
    assert not verify(apply, WRONG, params, x).holds["g"]


def test_groups_that_fail_only_together() -> None:
    """Three copies of an integer kernel vote.

    A spec that permutes each copy by itself is wrong, but two copies outvote any third. One that
    permutes all three alike is right.
    """
    kernel = np.random.default_rng(0).integers(-9, 9, (4, 40)).astype(np.int8)
    params = {**{f"copy {i}": kernel for i in range(3)}, "v": parameters()["v"]}
    wrong = {f"copy {i}": (None, writes(f"g{i}")) for i in range(3)}
    right = {f"copy {i}": (None, writes("g")) for i in range(3)}

    def apply(params: Any, x: Any) -> Any:
        copies = jnp.stack([params[f"copy {i}"] for i in range(3)])
        return jnp.tanh(x @ jnp.median(copies, axis=0)) @ params["v"]

    found = verify(apply, PermutationSpec.from_axes({**wrong, "v": (None, None)}), params, inputs())
    assert len(found.holds) == 3
    assert all(found.holds.values())
    assert found.joint_difference > 0.1
    assert not found.jointly_holds

    found = verify(
        apply, PermutationSpec.from_axes({**right, "v": (reads("g"), None)}), params, inputs()
    )
    assert found.holds["g"]
    assert found.jointly_holds


def test_of_one_group_alone_the_joint_difference_is_its_own() -> None:
    for spec in (SPEC, WRONG):
        found = verify(layers, spec, parameters(), inputs())
        assert found.joint_difference == found.difference["g"]
        assert found.jointly_holds == found.holds["g"]
    nothing = PermutationSpec.from_axes({"w": (None, None), "v": (None, None)})
    found = verify(layers, nothing, parameters(), inputs())
    assert (found.difference, float(found.joint_difference), bool(found.jointly_holds)) == (
        {},
        0,
        True,
    )


def test_the_network_is_traced_and_compiled_once(caplog: pytest.LogCaptureFixture) -> None:
    """However many groups there are."""
    axes = {f"w{i}": (None, writes(f"g{i}")) for i in range(5)}
    axes |= {f"v{i}": (reads(f"g{i}"), None) for i in range(5)}
    spec = PermutationSpec.from_axes(axes)
    one = parameters()
    params = {f"{leaf}{i}": one[leaf] for i in range(5) for leaf in "wv"}
    traced = []

    def network(params: Any, x: Any) -> Any:
        traced.append(x)
        return sum(layers({leaf: params[f"{leaf}{i}"] for leaf in "wv"}, x) for i in range(5))

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        result = verify(network, spec, params, inputs())
    assert len(result.holds) == 5
    assert result.jointly_holds
    assert len(traced) == 1
    messages = [record.getMessage() for record in caplog.records]
    compiled = [message for message in messages if "XLA compilation of jit(outputs)" in message]
    assert len(compiled) == 1


def test_products_are_taken_in_full_precision() -> None:
    """Accelerators would round a product's factors to fewer digits than the tolerance has."""
    seen = []

    def apply(params: Any, x: Any) -> Any:
        seen.append(jax.config.jax_default_matmul_precision)
        return layers(params, x)

    assert verify(apply, SPEC, parameters(), inputs()).holds["g"]
    assert seen == ["highest"]
    assert jax.config.jax_default_matmul_precision is None
