"""Reshapes of concatenations in which nothing can be permuted, and entries taken apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import lmcjax

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3))


def leaves(**shapes):
    return {name: RNG.normal(size=shape) for name, shape in shapes.items()}


def splines(h):
    """Five functions of each entry, laid end to end as `[..., 1 + 4]`."""
    centres = jnp.linspace(-1, 1, 4)
    bumps = jnp.exp(-((h[..., None] - centres) ** 2))
    return jnp.concatenate([jax.nn.silu(h)[..., None], bumps], axis=-1)


def test_kolmogorov_arnold_network(verified_spec):
    """Each layer flattens its entries and their functions, and contracts both."""

    def apply(p, x):
        h = splines(x).reshape(4, -1) @ p["a"]
        h = splines(h).reshape(4, -1) @ p["b"]
        return splines(h).reshape(4, -1) @ p["c"]

    spec = verified_spec(apply, leaves(a=(15, 6), b=(30, 7), c=(35, 2)), X)
    assert spec.group_shapes() == {"a": (6,), "b": (7,)}


def test_positions_that_are_flattened(verified_spec):
    """A frame of zeros around positions, then patches of both: channels pass."""

    def apply(p, x):
        h = jnp.tanh(x[..., None] * p["w"])
        turned = jnp.concatenate([h[:, 1:], -h[:, :1]], axis=1)
        both = jnp.concatenate([h, turned], axis=1).reshape(4, 3, 2, 6)
        return jnp.einsum("bpqc,pqco->bo", both, p["v"])

    spec = verified_spec(apply, leaves(w=(6,), v=(3, 2, 6, 2)), X)
    assert spec.group_shapes() == {"w": (6,)}


def test_a_reshape_that_transposes(verified_spec):
    def apply(p, x):
        h = jnp.tanh(jnp.einsum("bi,ijk->bjk", x, p["w"]))
        return lax.reshape(h, (24, 4), dimensions=(1, 2, 0)).T @ p["v"]

    spec = verified_spec(apply, leaves(w=(3, 6, 4), v=(24, 2)), X)
    assert (6,) in spec.group_shapes().values()


def test_entries_that_are_unstacked(verified_spec):
    """Each entry of the small axis is used by itself; neurons pass."""

    def apply(p, x):
        first, second, third = jnp.unstack(jnp.einsum("bi,ikj->bkj", x, p["w"]), axis=1)
        return (jnp.tanh(first) * second + third) @ p["v"]

    spec = verified_spec(apply, leaves(w=(3, 3, 6), v=(6, 2)), X)
    assert spec.group_shapes() == {"w": (6,)}


WIDTH = 6
PARAMS = leaves(w=(3, WIDTH), v=(WIDTH, 2))


def test_a_leaf_that_is_read_in_two_layouts(rng):
    """The second layout has an axis of 2 at another place: neurons vary along neither."""
    w, v = rng.normal(size=(4, 3, 3, 2)), rng.normal(size=(3, 2, 6))
    x = rng.normal(size=(5, 4))

    def apply(p, x):
        hidden = jnp.tanh(jnp.tensordot(x, p["w"], 1))
        first = jnp.tanh(jnp.tensordot(hidden[:, :, 0], p["v"], 2)).reshape(5, 3, 2)[:, 1]
        return first, jnp.tensordot(hidden, p["v"].reshape(3, 3, 2, 2), 3)

    spec = lmcjax.discover(apply, {"w": w, "v": v}, x)
    verification = lmcjax.verify(apply, spec, {"w": w, "v": v}, x)
    assert verification.jointly_holds, verification.difference
    assert dict(spec.shapes) == {"w": (3,)}


TRAPS = {
    "neurons unstacked": lambda h: (
        h + sum((1 + i) * column for i, column in enumerate(jnp.unstack(h, axis=1)))[:, None]
    ),
    "neurons beside pinned ones, flattened": lambda h: (
        jnp.concatenate([jnp.arange(24.0).reshape(4, 6), h], axis=1)
        .reshape(2, 2, 3, 4)
        .swapaxes(0, 1)
        .reshape(4, 12)[:, 2:8]
    ),
    "pinned on one side": lambda h: (
        h + jnp.concatenate([jnp.arange(2.0), jnp.arange(4.0)]).reshape(3, 2).T.reshape(6)
    ),
    "transposed by a reshape": lambda h: lax.reshape(h, (4, 6), dimensions=(1, 0)),
}


@pytest.mark.parametrize("name", TRAPS)
def test_traps(name, spec_of_trap):
    def apply(p, x):
        return TRAPS[name](jnp.tanh(x @ p["w"])) @ p["v"]

    spec_of_trap(apply, PARAMS, X)
