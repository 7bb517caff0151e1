"""Jraph: graph networks, whose edges and nodes Haiku updates."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import jraph
import numpy as np

from zoo_networks import Example

NODES = 8
EDGES = 20


def graph() -> jraph.GraphsTuple:
    """One graph; which nodes its edges join is part of the inputs."""
    rng = np.random.default_rng(0)
    return jraph.GraphsTuple(
        nodes=rng.normal(size=(NODES, 7)).astype(np.float32),
        edges=rng.normal(size=(EDGES, 4)).astype(np.float32),
        globals=rng.normal(size=(1, 3)).astype(np.float32),
        senders=rng.integers(0, NODES, EDGES).astype(np.int32),
        receivers=rng.integers(0, NODES, EDGES).astype(np.int32),
        n_node=np.array([NODES], np.int32),
        n_edge=np.array([EDGES], np.int32),
    )


def of_function(function: Callable[[jraph.GraphsTuple], Any]) -> Example:
    """On the graph above."""
    transformed = hk.without_apply_rng(hk.transform(function))
    params = jax.eval_shape(transformed.init, jax.random.key(0), graph())
    return Example(transformed.apply, params, graph())


def perceptron(*inputs: Any) -> Any:
    """Two dense layers, on everything that an update sees side by side."""
    return hk.nets.MLP([12, 10])(jnp.concatenate(inputs, axis=-1))


def graph_network(graph: jraph.GraphsTuple) -> Any:
    """`jraph.GraphNetwork`: edges, nodes and the graph are updated."""
    updated = jraph.GraphNetwork(
        update_edge_fn=perceptron, update_node_fn=perceptron, update_global_fn=perceptron
    )(graph)
    return hk.Linear(5)(updated.globals)


def interaction_network(graph: jraph.GraphsTuple) -> Any:
    """`jraph.InteractionNetwork`: edges and nodes are updated."""
    updated = jraph.InteractionNetwork(update_edge_fn=perceptron, update_node_fn=perceptron)(graph)
    return hk.Linear(5)(updated.nodes)


def convolution(graph: jraph.GraphsTuple) -> Any:
    """Two layers of `jraph.GraphConvolution`."""
    graph = jraph.GraphConvolution(hk.Linear(12))(graph)
    graph = graph._replace(nodes=jax.nn.relu(graph.nodes))
    graph = jraph.GraphConvolution(hk.Linear(10))(graph)
    return hk.Linear(5)(jax.nn.relu(graph.nodes))


def attention(graph: jraph.GraphsTuple) -> Any:
    """`jraph.GAT`."""

    def logits(sent: Any, received: Any, edges: Any) -> Any:
        seen = jnp.concatenate([sent, received], axis=-1)
        return jax.nn.leaky_relu(hk.Linear(1)(seen))

    graph = jraph.GAT(hk.Linear(12), logits, lambda nodes: jax.nn.elu(nodes))(
        graph._replace(edges=None)
    )
    return hk.Linear(5)(graph.nodes)


def deep_sets(graph: jraph.GraphsTuple) -> Any:
    """`jraph.DeepSets`."""
    updated = jraph.DeepSets(update_node_fn=perceptron, update_global_fn=perceptron)(graph)
    return hk.Linear(5)(updated.globals)


NETWORKS = {
    "GraphNetwork": lambda: of_function(graph_network),
    "InteractionNetwork": lambda: of_function(interaction_network),
    "GraphConvolution": lambda: of_function(convolution),
    "GAT": lambda: of_function(attention),
    "DeepSets": lambda: of_function(deep_sets),
}
