"""Gathers and scatters: features pass, positions that are spelled out stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmcjax import discover, verify
from lmcjax.symmetry import PermutationSpec, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

RNG = np.random.default_rng(0)
NODES = RNG.normal(size=(5, 3))
SENDERS = np.array([0, 1, 2, 3, 4, 0, 2])
RECEIVERS = np.array([1, 2, 2, 0, 3, 4, 4])
GRAPH = (NODES, SENDERS, RECEIVERS)


def leaves(**shapes):
    return {name: RNG.normal(size=shape) for name, shape in shapes.items()}


def graph_network(segment_reduce):
    """Messages along edges, reduced at their receivers, as jraph's networks do it."""

    def apply(p, graph):
        nodes, senders, receivers = graph
        h = jnp.tanh(nodes @ p["embed"])
        messages = jnp.tanh(h[senders] @ p["message_a"] + h[receivers] @ p["message_b"] + p["bias"])
        received = segment_reduce(messages, receivers, num_segments=5)
        received = jnp.where(jnp.isfinite(received), received, 0)
        return (h + received @ p["update"]) @ p["read"]

    return apply


GRAPH_LEAVES = {
    "embed": (3, 6),
    "message_a": (6, 7),
    "message_b": (6, 7),
    "bias": (7,),
    "update": (7, 6),
    "read": (6, 2),
}


@pytest.mark.parametrize(
    "segment_reduce",
    [jax.ops.segment_sum, jax.ops.segment_max, jax.ops.segment_min, jax.ops.segment_prod],
)
def test_graph_networks(segment_reduce, verified_spec):
    spec = verified_spec(graph_network(segment_reduce), leaves(**GRAPH_LEAVES), GRAPH)
    assert spec.group_shapes() == {"embed": (6,), "message_a": (7,)}


def test_graph_attention(verified_spec):
    """Attention over the edges of a node: a segment softmax, with heads."""

    def apply(p, graph):
        nodes, senders, receivers = graph
        values = jnp.einsum("ni,ihc->nhc", nodes, p["value"])
        scores = jnp.tanh(jnp.einsum("nhc,hc->nh", values, p["key"]))
        scores = scores[senders] + scores[receivers]
        largest = jax.ops.segment_max(scores, receivers, num_segments=5)
        weights = jnp.exp(scores - largest[receivers])
        total = jax.ops.segment_sum(weights, receivers, num_segments=5)
        weights = weights / total[receivers]
        messages = values[senders] * weights[..., None]
        received = jax.ops.segment_sum(messages, receivers, num_segments=5)
        return jnp.einsum("nhc,hco->no", jnp.tanh(received), p["read"])

    params = leaves(value=(3, 2, 4), key=(2, 4), read=(2, 4, 2))
    shapes = verified_spec(apply, params, GRAPH).group_shapes()
    assert sorted(shapes.values()) == [(2,), (2, 4)]


WIDTH = 6
PARAMS = leaves(w=(3, WIDTH), b=(WIDTH,), v=(WIDTH, 2))
X = RNG.normal(size=(5, 3))
WHICH = np.array([3, 1, 3])


def through(act):
    return lambda p, x: act(jnp.tanh(x @ p["w"]), p["b"]) @ p["v"]


HIDDEN = {
    "set": lambda h, b: h.at[WHICH].set(jnp.sin(h[:3])) + b,
    "set one row": lambda h, b: h.at[1].set(b),
    "add": lambda h, b: h.at[WHICH].add(b),
    "multiply": lambda h, b: h.at[WHICH].multiply(b),
    "divide": lambda h, b: h.at[WHICH].divide(b),
    "minimum": lambda h, b: h.at[WHICH].min(b),
    "maximum": lambda h, b: h.at[WHICH].max(b),
    "power": lambda h, b: h.at[1].power(2.0) + b,
    "apply": lambda h, b: h.at[WHICH].apply(jnp.sin) + b,
    "subtract": lambda h, b: h.at[WHICH].subtract(b),
    "a block": lambda h, b: h.at[1:3].set(2 * b),
    "with a mask": lambda h, b: h.at[np.array([True, False, True, False, True])].set(b),
    "dropped": lambda h, b: h.at[np.array([1, 17])].add(b, mode="drop"),
    "vmapped": lambda h, b: jax.vmap(lambda column, c: column.at[WHICH].add(c), 1, 1)(
        h, b[None] * jnp.ones((3, 1))
    ),
    "vmapped with indices": lambda h, b: jax.vmap(lambda row, i: row.at[i].add(b), (0, 0))(
        h[:, None], jnp.zeros(5, int)
    )[:, 0],
    "neurons as batches": lambda h, b: (
        jax.vmap(lambda column, i: column.at[i].add(1.0), (1, 0), 1)(h, jnp.ones(WIDTH, int)) + b
    ),
    "neurons gathered as batches": lambda h, b: (
        jax.vmap(lambda column, i: column[i], (1, 0), 1)(h, jnp.ones((WIDTH, 2), int)).sum(0) + b
    ),
    "along an axis": lambda h, b: (
        jnp.take_along_axis(h, jnp.array([[1], [0]]) + jnp.zeros((1, WIDTH), int), 0).sum(0) + b
    ),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_neurons_pass(name, verified_spec):
    spec = verified_spec(through(HIDDEN[name]), PARAMS, X)
    assert spec.group_shapes() == {"w": (WIDTH,)}


TRAPS = {
    "a neuron set": lambda h, b: h.at[:, 1].set(1.0) + b,
    "neurons added to": lambda h, b: h.at[:, WHICH].add(1.0) + b,
    "a block of neurons set": lambda h, b: h.at[:, 2:4].set(1.0) + b,
    "the last update stays": lambda h, b: (
        h + b + jnp.zeros(2).at[jnp.zeros(WIDTH, int)].set(h[0])[0]
    ),
    "neurons moved": lambda h, b: (
        jnp.zeros((WIDTH, 5)).at[np.roll(np.arange(WIDTH), 1)].set(h.T).T + h + b
    ),
    "neurons added up in pairs": lambda h, b: (
        jax.ops.segment_sum(h.T, np.arange(WIDTH) // 2, 3).T @ jnp.ones((3, WIDTH)).cumsum(0)
        + b
        + h
    ),
    "a neuron's number as index": lambda h, b: (
        jax.vmap(lambda column, i: column[i], (1, 0))(h, jnp.arange(WIDTH) % 5) + h + b
    ),
    "a neuron's number as index to write to": lambda h, b: (
        jax.vmap(lambda column, i: column.at[i].add(1.0), (1, 0), 1)(h, jnp.arange(WIDTH) % 5) + b
    ),
}
WHOLE_GROUP = PermutationSpec.from_axes(
    {"w": (None, writes("g")), "b": (writes("g"),), "v": (reads("g"), None)}
)


@pytest.mark.parametrize("name", TRAPS)
def test_traps(name, spec_of_trap):
    """Permuting all neurons would change the outputs, and is not found."""
    spec = spec_of_trap(through(TRAPS[name]), PARAMS, X)
    assert spec.unknown == ()


@pytest.mark.parametrize(
    ("mix", "shape"),
    [
        (lambda h: h, (3, 6)),
        (lambda h: h.at[WHICH % 3].add(h), (6,)),
        (lambda h: h.at[1].set(h[0]), (6,)),
        (lambda h: jnp.zeros((3, 4, 6)).at[np.array([1, 2, 0])].set(h) + h, (6,)),
        (lambda h: h.at[:, 1].set(0.5), (3, 6)),
        (lambda h: jax.vmap(lambda a, i: a.at[i].set(0.5))(h, jnp.arange(3)), (3, 6)),
        (lambda h: jax.vmap(lambda a, i: a[i])(h, jnp.arange(3))[:, None], (3, 6)),
    ],
    ids=["not mixed", "added", "copied", "rotated", "a row set", "a row each", "a row of each"],
)
def test_layers_share_a_permutation_if_they_are_mixed(mix, shape, verified_spec):
    def apply(p, x):
        return jnp.einsum(
            "lbh,lho->lbo", mix(jnp.tanh(jnp.einsum("bi,lih->lbh", x, p["w"]))), p["v"]
        )

    params = leaves(w=(3, 2, 6), v=(3, 6, 2))
    spec = verified_spec(apply, params, RNG.normal(size=(4, 2)))
    assert spec.group_shapes() == {"w": shape}


def test_updates_may_be_reordered_with_their_sum():
    """Each hidden neuron adds to the same place: their order does not matter."""

    def apply(p, x):
        h = jnp.tanh(x @ p["w"] + p["b"])
        return jnp.zeros((2, 5)).at[jnp.zeros(WIDTH, int)].add(jnp.sin(h.T)) + (h @ p["v"]).T

    spec = discover(apply, PARAMS, X)
    assert spec.group_shapes() == {"w": (WIDTH,)}
    assert verify(apply, spec, PARAMS, X).jointly_holds


def test_scatter_with_windows_inside_an_axis():
    def apply(p, x):
        h = jnp.tanh(x @ p["w"] + p["b"])
        numbers = lax.ScatterDimensionNumbers(
            update_window_dims=(0, 1), inserted_window_dims=(), scatter_dims_to_operand_dims=(1,)
        )
        h = lax.scatter_add(h, jnp.array([1]), jnp.ones((5, 2)), numbers)
        return h @ p["v"]

    assert discover(apply, PARAMS, X).groups == ()
    assert not verify(apply, WHOLE_GROUP, PARAMS, X).jointly_holds
