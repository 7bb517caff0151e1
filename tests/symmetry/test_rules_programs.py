"""Constants that several equations use, and loops: what their state is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmcjax import discover, verify

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

RNG = np.random.default_rng(0)
WIDTH = 6
X = RNG.normal(size=(4, 3))
TWO_LAYERS = {
    "a": RNG.normal(size=(3, WIDTH)),
    "b": RNG.normal(size=(WIDTH, WIDTH)),
    "c": RNG.normal(size=(WIDTH, 2)),
}


def recurrent_layer(start, inputs, kernel, recurrent):
    def turn(state, x):
        state = jnp.tanh(x @ kernel + state @ recurrent)
        return state, state

    return lax.scan(turn, start, inputs)[1]


def test_two_recurrent_layers_start_from_the_same_zeros(verified_spec):
    def apply(p, x):
        zeros = jnp.zeros((2, WIDTH))
        y = recurrent_layer(zeros, x, p["a"], p["b"])
        return recurrent_layer(zeros, y, p["c"], p["d"]) @ p["e"]

    shapes = {"a": (3, 6), "b": (6, 6), "c": (6, 6), "d": (6, 6), "e": (6, 2)}
    params = {name: RNG.normal(size=shape) for name, shape in shapes.items()}
    spec = verified_spec(apply, params, RNG.normal(size=(5, 2, 3)))
    assert spec.group_shapes() == {"a": (6,), "c": (6,)}


SHARED = {
    "zeros": lambda: jnp.zeros(WIDTH),
    "an array from outside": lambda: np.full(WIDTH, 2.0),
    "arithmetic": lambda: jnp.exp(jnp.ones(WIDTH)) - 1,
    "reshaped": lambda: jnp.ones((2, 3)).reshape(WIDTH),
    "two stretches": lambda: jnp.concatenate([jnp.zeros(2), jnp.ones(2), jnp.zeros(2)]),
    "a sum": lambda: jnp.ones((4, WIDTH)).sum(0),
    "a loop": lambda: lax.fori_loop(0, 3, lambda i, state: state * 2, jnp.ones(WIDTH)),
    "written into": lambda: jnp.ones((4, WIDTH)).at[1].set(0.0)[0],
}


@pytest.mark.parametrize("name", SHARED)
def test_a_constant_does_not_tie_its_users(name):
    """Two hidden layers use one constant."""

    def apply(p, x):
        constant = SHARED[name]()
        h = jnp.tanh(x @ p["a"] + constant)
        return jnp.tanh(h @ p["b"] + constant) @ p["c"]

    spec = discover(apply, TWO_LAYERS, X)
    sizes = sorted(spec.group_shapes().values())
    if name == "a loop":  # the state of a loop is not known to be uniform
        assert sizes == [(6,)]
    elif name == "two stretches":  # positions 0, 1 and 4, 5 hold zeros, 2 and 3 hold ones
        assert sizes == [(2,)] * 6
    else:
        assert sizes == [(6,), (6,)]
    assert verify(apply, spec, TWO_LAYERS, X).jointly_holds


def state_that_counts(h):
    """The state starts as zeros, and only later turns see that it is a ramp."""

    def turn(i, state):
        value, ramp = state
        return value + jnp.sin(ramp * h), ramp + jnp.arange(float(WIDTH))

    return lax.fori_loop(0, 3, turn, (h, jnp.zeros(WIDTH)))[0]


def scanned_state_that_counts(h):
    def turn(state, step):
        return state + jnp.arange(float(WIDTH)), h * state * step

    return lax.scan(turn, jnp.zeros(WIDTH), jnp.ones(3))[1].sum(0) + h


NOT_UNIFORM = {
    "identity matrix": lambda h: h @ jnp.eye(WIDTH) + h[..., ::-1],
    "a triangle": lambda h: h @ jnp.tri(WIDTH),
    "running sum of ones": lambda h: h * jnp.cumsum(jnp.ones(WIDTH)),
    "a state that counts": state_that_counts,
    "a scanned state that counts": scanned_state_that_counts,
    "written at a position": lambda h: h * jnp.ones(WIDTH).at[2].set(0.5),
    "random": lambda h: h * jax.random.normal(jax.random.key(0), (WIDTH,)),
    "a branch": lambda h: (
        h * lax.cond(h.sum() > 100, lambda: jnp.ones(WIDTH), lambda: jnp.arange(float(WIDTH)))
    ),
    "a window": lambda h: h * jnp.convolve(jnp.ones(WIDTH), jnp.ones(3), mode="same"),
    "padded": lambda h: h * jnp.pad(jnp.ones(WIDTH - 1), (0, 1)),
}
PARAMS = {"w": RNG.normal(size=(3, WIDTH)), "v": RNG.normal(size=(WIDTH, 2))}


@pytest.mark.parametrize("name", NOT_UNIFORM)
def test_constants_that_are_not_uniform(name, spec_of_trap):
    def apply(p, x):
        return NOT_UNIFORM[name](jnp.tanh(x @ p["w"])) @ p["v"]

    spec_of_trap(apply, PARAMS, X)


def test_a_state_that_starts_from_zeros_is_made_of_the_parameters_that_enter(verified_spec):
    """Its sum over layers reaches the neurons of every layer, which so share a permutation."""

    def apply(p, x):
        total = lax.fori_loop(0, 2, lambda i, total: total + p["w"], jnp.zeros((3, WIDTH)))
        h = jnp.tanh(jnp.einsum("bi,lih->lbh", x, p["u"]) + total[:, None]) + total.sum(0)
        return jnp.einsum("lbh,lho->lbo", h, p["v"])

    params = {
        "w": RNG.normal(size=(3, WIDTH)),
        "u": RNG.normal(size=(3, 3, WIDTH)),
        "v": RNG.normal(size=(3, WIDTH, 2)),
    }
    assert list(verified_spec(apply, params, X).group_shapes().values()) == [(WIDTH,)]


def test_power_iteration_on_a_kernel(verified_spec):
    """Spectral normalisation: a state of ones that becomes a singular vector."""

    def apply(p, x):
        def turn(i, vector):
            vector = p["w"].T @ (p["w"] @ vector)
            return vector / jnp.linalg.norm(vector)

        vector = lax.fori_loop(0, 5, turn, jnp.ones(WIDTH))
        h = jnp.tanh(x @ p["w"] / jnp.linalg.norm(p["w"] @ vector))
        return (h + vector) @ p["v"]

    assert verified_spec(apply, PARAMS, X).group_shapes() == {"w": (WIDTH,)}
