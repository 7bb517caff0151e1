"""A network of one's own, in plain JAX: a gated recurrent network that reads an image row by row.

    lmcjax figure2 --apply docs.examples.row_reader:apply

Nothing here says which neurons may be permuted. lmcjax reads it off the program: the recurrent
state, which four kernels write and three read, and the neurons of the dense layer before the
logits.
"""

import jax
import jax.numpy as jnp

PIXELS, STATE, HIDDEN, CLASSES = 28, 64, 64, 10


def init(key: jax.Array) -> dict:
    """Fresh parameters."""
    shapes = {
        "update/input": (PIXELS, STATE),
        "update/state": (STATE, STATE),
        "candidate/input": (PIXELS, STATE),
        "candidate/state": (STATE, STATE),
        "hidden": (STATE, HIDDEN),
        "logits": (HIDDEN, CLASSES),
    }
    keys = jax.random.split(key, len(shapes))
    kernels = {
        n: jax.random.normal(k, s) / s[0] ** 0.5
        for (n, s), k in zip(shapes.items(), keys, strict=True)
    }
    biases = {"update": jnp.ones(STATE), "candidate": jnp.zeros(STATE), "hidden": jnp.zeros(HIDDEN)}
    return {"kernels": kernels, "biases": biases}


def apply(params: dict, images: jax.Array) -> jax.Array:
    """Logits of images `[num_samples, 28, 28, 1]`."""
    w, b = params["kernels"], params["biases"]

    def read_row(state: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
        keep = jax.nn.sigmoid(row @ w["update/input"] + state @ w["update/state"] + b["update"])
        candidate = jnp.tanh(
            row @ w["candidate/input"] + state @ w["candidate/state"] + b["candidate"]
        )
        return keep * state + (1 - keep) * candidate, None

    rows = images.reshape(images.shape[0], -1, PIXELS).swapaxes(0, 1)
    state, _ = jax.lax.scan(read_row, jnp.zeros((images.shape[0], STATE)), rows)
    return jax.nn.relu(state @ w["hidden"] + b["hidden"]) @ w["logits"]
