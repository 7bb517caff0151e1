"""Sorting, transforms, and what only passes values on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmcjax import discover, verify
from lmcjax.symmetry import PermutationSpec, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

RNG = np.random.default_rng(0)
WIDTH = 6
X = RNG.normal(size=(4, 3))
PARAMS = {"w": RNG.normal(size=(3, WIDTH)), "v": RNG.normal(size=(WIDTH, 2))}
WHOLE_GROUP = PermutationSpec.from_axes({"w": (None, writes("g")), "v": (reads("g"), None)})


def through(act):
    return lambda p, x: act(jnp.tanh(x @ p["w"])) @ p["v"]


def show(h):
    jax.debug.print("{}", h, ordered=False)
    return h


def collective(function, axis):
    """What `vmap` with a name for the axis makes of a collective operation along it."""
    return jax.vmap(lambda row: function(row, "name"), axis, axis, axis_name="name")


def largest_three(h):
    return jax.jit(lambda h: lax.top_k(h, 3))(h)[0].sum(-1, keepdims=True) * h


HIDDEN = {
    "fft along samples": lambda h: jnp.fft.fft(h, axis=0).real,
    "rfft along samples": lambda h: jnp.fft.irfft(jnp.fft.rfft(h, axis=0) ** 2, axis=0),
    "fft of both axes of an image": lambda h: jnp.fft.fft2(
        h.reshape(2, 2, WIDTH), axes=(0, 1)
    ).real.reshape(4, WIDTH),
    "sorted along samples": lambda h: jnp.sort(h, axis=0),
    "argsort along samples": lambda h: jnp.take_along_axis(h, jnp.argsort(h, 0), 0),
    "the median": lambda h: h - jnp.median(h, axis=-1, keepdims=True),
    "largest, smallest and second": lambda h: (
        h * jnp.sort(h, -1)[:, jnp.array([0, -1, 1])].sum(-1, keepdims=True)
    ),
    "largest three": largest_three,
    "sorted by all operands": lambda h: (
        h * jnp.stack(lax.sort((h, jnp.round(jnp.sin(h))), num_keys=2))[:, :, :1].sum(0)
    ),
    "approximately the largest samples": lambda h: h + lax.approx_max_k(h.T, 2)[0].sum(-1),
    "argmax over samples": lambda h: h + jnp.argmax(h, axis=0),
    "printed": show,
    "mean of a named axis of samples": lambda h: h - collective(lax.pmean, 0)(h),
    "mean of a named axis of neurons": lambda h: h - collective(lax.pmean, 1)(h),
    "largest and smallest of a named axis of neurons": lambda h: (
        h * collective(lax.pmax, 1)(h) + collective(lax.pmin, 1)(h)
    ),
    "special functions": lambda h: (
        jax.scipy.special.polygamma(1, 2 + h) + jax.scipy.special.zeta(2 + h, 1.5)
    ),
    "on a device": lambda h: jax.device_put(h),
    "platforms": lambda h: lax.platform_dependent(h, cpu=jnp.sin, default=jnp.sin),
    "unstacked": lambda h: sum(jnp.unstack(h, axis=0)) + h,
    "a reduction of one's own": lambda h: (
        h + lax.reduce(h, np.float64(0), lambda a, b: jnp.sqrt(a * a + b * b), (0,))
    ),
    "gradient of a maximum over windows": lambda h: jax.grad(
        lambda h: lax.reduce_window(h, -jnp.inf, lax.max, (2, 1), (1, 1), "VALID").sum()
    )(h),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_neurons_pass(name, verified_spec):
    assert verified_spec(through(HIDDEN[name]), PARAMS, X).group_shapes() == {"w": (WIDTH,)}


@pytest.mark.parametrize("forget", [lambda h: jnp.sort(h, -1), lambda h: lax.top_k(h, WIDTH)[0]])
def test_what_is_sorted_forgets_its_order(forget):
    """The neurons may come in any order; what reads them, sorted, may not."""
    spec = discover(through(forget), PARAMS, X)
    assert spec.group_shapes() == {"w": (WIDTH,)}
    assert [place.leaf for place in spec.places("w")] == ["w"]
    ties = {**PARAMS, "w": np.repeat(PARAMS["w"][:, :3], 2, axis=1)}
    assert verify(through(forget), spec, ties, X).jointly_holds
    assert not verify(through(forget), WHOLE_GROUP, PARAMS, X).jointly_holds


TRAPS = {
    "fft": lambda h: jnp.fft.fft(h).real,
    "fft of two axes": lambda h: jnp.fft.fft2(h).real,
    "sorted, beside itself": lambda h: h + jnp.sort(h, -1),
    "argsort": lambda h: h + jnp.argsort(h, -1),
    "ranks": lambda h: h[:, jnp.argsort(h[0])],
    "argmax": lambda h: h + jnp.argmax(h, -1, keepdims=True),
    "positions of the largest": lambda h: h + jax.jit(lax.top_k, static_argnums=1)(h, 2)[1][:, :1],
    "positions of the largest, in a loop": lambda h: lax.fori_loop(
        0, 2, lambda i, s: s + lax.top_k(h, 2)[1][:, :1], h
    ),
    "positions of the largest, scanned": lambda h: (
        h + lax.scan(lambda s, row: (s, lax.top_k(row, 2)[1]), 0, h)[1][:, :1]
    ),
    "positions of the largest, in a branch": lambda h: (
        h
        + lax.cond(
            h.sum() > 100, lambda: jnp.zeros((4, 2), int), lambda: lax.top_k(h, 2)[1].astype(int)
        )[:, :1]
    ),
    "positions of the largest, carried": lambda h: (
        h + lax.fori_loop(0, 2, lambda i, s: s[:, ::-1], lax.top_k(h, 2)[1])[:, :1]
    ),
    "approximately the largest": lambda h: (
        h + lax.approx_max_k(jnp.sort(h), 2)[1][:, :1] + show(jnp.cumsum(h, -1))
    ),
    "a reduction that looks at the order": lambda h: (
        h + lax.reduce(h, np.float64(0), lambda a, b: a / 2 + b, (1,))[:, None]
    ),
}


@pytest.mark.parametrize("name", TRAPS)
def test_traps(name):
    apply = through(TRAPS[name])
    assert not verify(apply, WHOLE_GROUP, PARAMS, X).jointly_holds
    spec = discover(apply, PARAMS, X)
    assert spec.unknown == ()
    assert spec.groups == ()


def test_positions_as_outputs():
    def apply(p, x):
        return lax.top_k(jnp.tanh(x @ p["w"]), 2)[1] + 0.0, lax.top_k(jnp.tanh(x @ p["u"]), 2)

    params = {"w": PARAMS["w"], "u": PARAMS["w"]}
    assert discover(apply, params, X).groups == ()


def sorted_by_other_neurons(p, x):
    """Values in the order of their keys."""
    keys, values = jnp.tanh(x @ p["keys"]), jnp.tanh(x @ p["values"])
    return lax.sort((keys, values), num_keys=1)[1] @ p["v"]


def test_sorting_by_keys_without_ties(verified_spec):
    params = {"keys": PARAMS["w"], "values": RNG.normal(size=(3, WIDTH)), "v": PARAMS["v"]}
    assert discover(sorted_by_other_neurons, params, X).groups == ()
    spec = discover(sorted_by_other_neurons, params, X, assume_no_ties=True)
    assert spec.group_shapes() == {"keys": (WIDTH,)}
    assert verify(sorted_by_other_neurons, spec, params, X).jointly_holds


def test_sorting_by_keys_with_ties():
    """Of two neurons with equal keys, the first goes first: there is no symmetry."""

    def apply(p, x):
        keys, values = jnp.round(jnp.tanh(x @ p["keys"])), jnp.tanh(x @ p["values"])
        return lax.sort((keys, values), num_keys=1)[1] @ p["v"]

    params = {"keys": PARAMS["w"], "values": RNG.normal(size=(3, WIDTH)), "v": PARAMS["v"]}
    assert discover(apply, params, X).groups == ()
    wrong = discover(apply, params, X, assume_no_ties=True)
    assert not verify(apply, wrong, params, X).jointly_holds


@pytest.mark.parametrize("name", ["argsort", "ranks", "argmax", "positions of the largest"])
def test_positions_are_not_freed_by_the_lack_of_ties(name):
    """A position moves with the neuron at it, whether or not there are ties."""
    assert discover(through(TRAPS[name]), PARAMS, X, assume_no_ties=True).groups == ()


def test_layers_that_are_sorted_may_be_permuted_for_each_neuron():
    def apply(p, x):
        h = jnp.sort(jnp.tanh(jnp.einsum("bi,lih->lbh", x, p["w"])), axis=0)
        return jnp.einsum("lbh,lho->lbo", h, p["v"])

    params = {"w": RNG.normal(size=(3, 3, 6)), "v": RNG.normal(size=(3, 6, 2))}
    spec = discover(apply, params, X)
    assert spec.group_shapes() == {"w/each": (6, 3), "w": (6,)}
    assert verify(apply, spec, params, X).jointly_holds


def test_a_leaf_that_is_only_reduced_is_not_dead():
    def apply(p, x):
        return x.sum() * lax.reduce(p["w"], np.float64(1), lambda a, b: a * b + a / 2, (0, 1))

    assert discover(apply, {"w": PARAMS["w"]}, X).dead == ()


@pytest.mark.parametrize(
    ("mix", "shape"),
    [
        (lambda h: jnp.sort(h, axis=-1), (3, 6)),
        (lambda h: jnp.sort(h, axis=0) + jnp.cumsum(h, axis=0), (6,)),
        (lambda h: lax.top_k(h.T, 3)[0].T + jnp.cumsum(h, axis=0), (6,)),
        (lambda h: jnp.fft.fft(h, axis=0).real, (6,)),
        (lambda h: jnp.fft.fft(h, axis=1).real, (3, 6)),
        (lambda h: h + collective(lax.pmean, 0)(h), (6,)),
        (lambda h: h + collective(lax.pmean, 1)(h), (3, 6)),
    ],
    ids=[
        "sorted within",
        "sorted across",
        "largest across",
        "transformed across",
        "along samples",
        "named mean across",
        "named mean along samples",
    ],
)
def test_layers_share_a_permutation_if_they_are_mixed(mix, shape):
    def apply(p, x):
        h = mix(jnp.tanh(jnp.einsum("bi,lih->lbh", x, p["w"])))
        return jnp.einsum("lbh,lho->lbo", h, p["v"])

    params = {"w": RNG.normal(size=(3, 3, 6)), "v": RNG.normal(size=(3, 6, 2))}
    spec = discover(apply, params, X)
    assert spec.group_shapes() == {"w": shape}
    assert verify(apply, spec, params, X).jointly_holds


def route(choose):
    """Each sample goes to the experts that are chosen for it."""

    def apply(p, x):
        scores = jnp.tanh(x @ p["router"])
        weights = jnp.einsum("nke,ne->ne", choose(scores), jax.nn.softmax(scores))
        hidden = jnp.tanh(jnp.einsum("ni,eih->neh", x, p["w"]))
        return jnp.einsum("ne,neh,eho->no", weights, hidden, p["v"])

    return apply


EXPERTS = {
    "router": RNG.normal(size=(3, 5)),
    "w": RNG.normal(size=(5, 3, 4)),
    "v": RNG.normal(size=(5, 4, 2)),
}
CHOICES = {
    "largest": lambda s: jax.nn.one_hot(jnp.argmax(s, -1), 5)[:, None],
    "smallest": lambda s: jax.nn.one_hot(jnp.argmin(s, -1), 5)[:, None],
    "largest two": lambda s: jax.nn.one_hot(lax.top_k(s, 2)[1], 5),
}


@pytest.mark.parametrize("name", CHOICES)
def test_experts_without_ties(name):
    """With ties, the first expert is chosen; without, the experts may be permuted."""
    apply = route(CHOICES[name])
    spec = discover(apply, EXPERTS, X)
    assert spec.group_shapes() == {"w": (5, 4)}
    assert verify(apply, spec, EXPERTS, X).jointly_holds
    spec = discover(apply, EXPERTS, X, assume_no_ties=True)
    assert sorted(spec.group_shapes().values()) == [(5,), (5, 4)]
    assert verify(apply, spec, EXPERTS, X).jointly_holds
    rounded = route(lambda s: CHOICES[name](jnp.round(s)))
    assert discover(rounded, EXPERTS, X).group_shapes() == {"w": (5, 4)}


POSITIONS = {
    "compared with a number": lambda h: h * (jnp.argmax(h, -1, keepdims=True) == 2),
    "less than": lambda h: h * (jnp.argmax(h, -1, keepdims=True) < jnp.arange(WIDTH)),
    "added to": lambda h: h * (jnp.argmax(h, -1, keepdims=True) + 1 == jnp.arange(WIDTH)),
    "of another axis": lambda h: h * (jnp.argmax(h, -1, keepdims=True) == jnp.argmax(h, 0)),
    "a ramp": lambda h: h * jnp.arange(WIDTH),
    "one-hot, then summed up": lambda h: (
        jnp.cumsum(jax.nn.one_hot(jnp.argmax(h, -1), WIDTH), -1) * h
    ),
    "one-hot of a position from outside": lambda h: h * jax.nn.one_hot(2, WIDTH),
    "in a branch": lambda h: (
        h
        * lax.cond(h.sum() > 100, lambda: jnp.zeros(4, int), lambda: jnp.argmax(h, -1).astype(int))[
            :, None
        ]
    ),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_that_are_used_as_numbers(name):
    apply = through(POSITIONS[name])
    assert not verify(apply, WHOLE_GROUP, PARAMS, X).jointly_holds
    spec = discover(apply, PARAMS, X, assume_no_ties=True)
    assert spec.groups == ()


@pytest.mark.parametrize(
    ("compare", "shape"),
    [
        (lambda i: jax.nn.one_hot(i, 6), (3, 6)),
        (lambda i: (i[:, None] == i[None]).sum(0)[..., None] + jax.nn.one_hot(i, 6), (6,)),
    ],
    ids=["within layers", "across layers"],
)
def test_positions_in_layers(compare, shape):
    def apply(p, x):
        h = jnp.tanh(jnp.einsum("bi,lih->lbh", x, p["w"]))
        return jnp.einsum("lbh,lho->lbo", h * compare(jnp.argmax(h, -1)), p["v"])

    params = {"w": RNG.normal(size=(3, 3, 6)), "v": RNG.normal(size=(3, 6, 2))}
    spec = discover(apply, params, X, assume_no_ties=True)
    assert spec.group_shapes() == {"w": shape}
    assert verify(apply, spec, params, X).jointly_holds
