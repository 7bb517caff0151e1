"""Permutation specs: what they say, what they check, and what their errors show."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from lmcjax import MLP, FlaxNetwork, PermutationSpec, identity_permutations, mlp_spec, permute
from lmcjax.symmetry import Factor, both, fixed, reads, writes

pytestmark = pytest.mark.usefixtures("strict_promotion")

DENSE = {"w1": (None, writes("hidden")), "b1": (writes("hidden"),), "w2": (reads("hidden"), None)}


def zeros(**shapes: tuple[int, ...]) -> dict[str, jax.Array]:
    return {name: jnp.zeros(shape) for name, shape in shapes.items()}


def dense_params(**changes: tuple[int, ...]) -> dict[str, jax.Array]:
    return zeros(**({"w1": (3, 4), "b1": (4,), "w2": (4, 2)} | changes))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "params"])
def test_mlp_spec_is_the_spec_written_by_hand(prefix: str, use_bias: bool) -> None:
    root = f"{prefix}/" if prefix else ""
    axes: dict[str, Any] = {
        f"{root}Dense_0/kernel": (None, writes("Dense_0")),
        f"{root}Dense_0/bias": (writes("Dense_0"),),
        f"{root}Dense_1/kernel": (reads("Dense_0"), writes("Dense_1")),
        f"{root}Dense_1/bias": (writes("Dense_1"),),
        f"{root}Dense_2/kernel": (reads("Dense_1"), None),
        f"{root}Dense_2/bias": (None,),
    }
    by_hand = PermutationSpec.from_axes(
        {k: v for k, v in axes.items() if use_bias or "bias" not in k}
    )
    spec = mlp_spec(2, prefix=prefix, use_bias=use_bias)
    assert spec == by_hand
    assert spec.groups == ("Dense_0", "Dense_1")


@pytest.mark.parametrize("use_bias", [True, False])
def test_bind_reads_the_widths_off_an_mlp(use_bias: bool) -> None:
    network = FlaxNetwork(MLP((7, 5, 3), 2, use_bias=use_bias), input_shape=(4,))
    params = jax.eval_shape(network.init, jax.random.key(0))
    spec = mlp_spec(3, use_bias=use_bias).bind(params)
    assert spec.group_shapes() == {"Dense_0": (7,), "Dense_1": (5,), "Dense_2": (3,)}
    assert (
        mlp_spec(3, prefix="params", use_bias=use_bias).bind({"params": params}).shapes
        == spec.shapes
    )
    assert spec.bind(params) == spec


def test_bind_solves_blocks_concatenations_and_batches() -> None:
    spec = PermutationSpec.from_axes(
        {
            "a": (None, fixed(2) * writes("g") * fixed(5)),
            "b": (fixed(1) | writes("h") | reads("g") * fixed(2) | fixed(2),),
            "c": (fixed("layers"), writes("h"), both("k", along="layers")),
        }
    )
    params = zeros(a=(3, 2 * 4 * 5), b=(1 + 6 + 4 * 2 + 2,), c=(9, 6, 7))
    assert spec.bind(params).group_shapes() == {"g": (4,), "h": (6,), "k": (9, 7)}


def test_specs_are_hashable_and_static_under_jit() -> None:
    spec, again = (
        PermutationSpec.from_axes(DENSE),
        PermutationSpec.from_axes({k: list(v) for k, v in DENSE.items()}),
    )
    assert spec == again
    assert hash(spec) == hash(again)
    traces = []

    def traced(spec: PermutationSpec, permutation: jax.Array, params: Any) -> Any:
        traces.append(spec)
        return permute(spec, {"hidden": permutation}, params)

    jitted = jax.jit(traced, static_argnums=0)
    for s in (spec, again):
        jitted(s, jnp.array([1, 0, 3, 2]), dense_params())
    assert len(traces) == 1


def test_places_are_where_a_group_acts_and_str_shows_it() -> None:
    spec = PermutationSpec.from_axes(DENSE)
    places = spec.bind(dense_params()).places("hidden")
    where = [("w1", 1, "writes"), ("b1", 0, "writes"), ("w2", 0, "reads")]
    assert [(place.leaf, place.leaf_axis, place.role) for place in places] == where
    assert "not bound" in str(spec)
    assert str(spec.bind(dense_params())).splitlines() == [
        "hidden  size 4",
        "  writes w1 axis 1",
        "  writes b1 axis 0",
        "  reads  w2 axis 0",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w3": (2, 2)}, r"leaf 'w3'.*\['b1', 'w1', 'w2'\].*None"),
        ({"b1": (4, 1)}, r"leaf 'b1' has shape \(4, 1\), 2 axes.*describes 1"),
        ({"b1": (5,)}, r"'b1' has length 5.*'hidden': 4.*make 4"),
        ({"w2": (3, 2)}, r"'w2' has length 3.*'hidden': 4.*make 4"),
        ({"w1": (3, 0)}, r"axis 1 of leaf 'w1' has length 0.*'hidden'"),
    ],
)
def test_bind_names_the_leaf_that_does_not_fit(
    changes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PermutationSpec.from_axes(DENSE).bind(dense_params(**changes))


def test_bind_names_a_leaf_that_the_parameters_lack() -> None:
    params = dense_params()
    del params["b1"]
    with pytest.raises(ValueError, match=r"leaf 'b1'.*\['w1', 'w2'\]"):
        PermutationSpec.from_axes(DENSE).bind(params)
    with pytest.raises(ValueError, match=r"did you mean 'params/.*prefix of mlp_spec"):
        PermutationSpec.from_axes(DENSE).bind({"params": dense_params()})


def test_bind_names_a_block_that_does_not_divide() -> None:
    spec = PermutationSpec.from_axes({"a": (fixed(1) | fixed(2) * writes("g"),)})
    with pytest.raises(
        ValueError, match=r"axis 0 of leaf 'a' has length 6.* 1 fixed.*blocks of 2 for group 'g'"
    ):
        spec.bind(zeros(a=(6,)))


def test_bind_says_when_sizes_do_not_follow() -> None:
    spec = PermutationSpec.from_axes({"a": (writes("g") | writes("h"),)})
    with pytest.raises(ValueError, match=r"\['g', 'h'\] do not follow"):
        spec.bind(zeros(a=(6,)))


def test_bind_refuses_batches_and_sizes_that_differ() -> None:
    spec = PermutationSpec.from_axes(
        {n: (fixed("layers"), writes("g", along="layers")) for n in ("a", "b")}
    )
    with pytest.raises(ValueError, match=r"axis 0 of leaf 'b' has length 3.*'layers': 2"):
        spec.bind(zeros(a=(2, 5), b=(3, 5)))
    bound = PermutationSpec.from_axes(DENSE).bind(dense_params())
    with pytest.raises(ValueError, match=r"'hidden': \(4,\).*'hidden': \(6,\)"):
        bound.bind(dense_params(w1=(3, 6), b1=(6,), w2=(6, 2)))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"a": (reads("g"),)}, "'g' has readers but nothing writes it"),
        (
            {"a": (fixed("layers"), writes("g", along="layers")), "b": (reads("g"),)},
            "'g' varies along different things in different leaves",
        ),
        (
            {"a": (None, writes("g", along="layers"))},
            "'g' varies along 'layers', which does not stand once beside it in leaf 'a'",
        ),
        (
            {"a": (writes("h"), reads("h"), writes("g", along="h"))},
            "'g' varies along 'h', which does not stand once beside it in leaf 'a'",
        ),
    ],
)
def test_from_axes_refuses_groups_that_cannot_be(axes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PermutationSpec.from_axes(axes)


@pytest.mark.usefixtures("unchecked")
def test_factors_refuse_bad_roles_and_lengths() -> None:
    with pytest.raises(ValueError, match="at least 0: -1"):
        fixed(-1)
    with pytest.raises(ValueError, match="not 'listens'"):
        Factor("g", "listens")


@pytest.mark.parametrize("layers", [0, -1])
def test_an_mlp_has_a_hidden_layer(layers: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 hidden layer, not {layers}"):
        mlp_spec(layers)


def test_an_unbound_spec_has_no_sizes() -> None:
    spec = PermutationSpec.from_axes(DENSE)
    with pytest.raises(ValueError, match=r"'hidden'.*bind"):
        identity_permutations(spec)
    assert identity_permutations(spec, dense_params())["hidden"].tolist() == [0, 1, 2, 3]
    assert PermutationSpec.from_axes({"a": (None,)}).group_shapes() == {}
