"""Discovery on random programs around planted groups, whose symmetries are known by construction.

A program is a list of drawn steps on values `[batch, time, features]`. Each step knows which index
sets its leaves' axes carry: it plants new ones, merges them (a sum, a shared leaf) or pins them
(whatever looks at the order of the features). `discover` must find exactly the planted index sets
that are not pinned, `verify` must agree in float64, and permuting a pinned one must change the
outputs, which tests the plan itself.

CI runs 12 programs, `pytest -m slow tests/symmetry/test_discover_property.py` 2,000; every eighth
is also executed.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmcjax import discover, verify
from lmcjax.symmetry import AxisLike, Factor, PermutationSpec, fixed, permute

pytestmark = pytest.mark.usefixtures("quick_compilation")

BATCH, TIME, INPUTS, VOCABULARY, OUTPUTS, WIDEST = 4, 3, 3, 5, 2, 24

Layout: TypeAlias = tuple[
    tuple[int, ...], ...
]  # pieces laid end to end; a piece is a product of index sets


@dataclasses.dataclass
class Plan:
    """A program under construction, and what its symmetries are."""

    draw: Callable[[st.SearchStrategy], Any]
    sizes: list[int] = dataclasses.field(default_factory=list)  # per index set
    parent: list[int] = dataclasses.field(default_factory=list)  # of the union-find
    pinned: set[int] = dataclasses.field(default_factory=set)
    hosts: dict[int, Layout] = dataclasses.field(
        default_factory=dict
    )  # one permutation per entry of this axis
    leaves: dict[str, tuple[Layout, ...]] = dataclasses.field(default_factory=dict)
    layouts: list[Layout] = dataclasses.field(default_factory=list)  # per value
    live: list[int] = dataclasses.field(default_factory=list)  # values that are still to be read
    exposed: list[int] = dataclasses.field(default_factory=list)  # values that are outputs
    steps: list[tuple[Callable, list[str], list[int], list[int]]] = dataclasses.field(
        default_factory=list
    )
    story: list[str] = dataclasses.field(
        default_factory=list
    )  # steps and choices by name, for a reader

    def size(self) -> int:
        return self.draw(st.sampled_from([3, 5, 6]))  # few, so that few shapes are compiled

    def plant(self) -> Layout:
        return self.index_set(self.size())

    def index_set(self, size: int, *, pinned: bool = False, host: Layout | None = None) -> Layout:
        new = len(self.sizes)
        self.sizes.append(size)
        self.parent.append(new)
        if pinned:
            self.pinned.add(new)
        if host is not None:
            self.hosts[new] = host
        return ((new,),)

    def fixed(self, size: int) -> Layout:
        return self.index_set(size, pinned=True)

    def find(self, index_set: int) -> int:
        while self.parent[index_set] != index_set:
            index_set = self.parent[index_set]
        return index_set

    def merge(self, first: Layout, second: Layout) -> None:
        for a, b in zip(sum(first, ()), sum(second, ()), strict=True):
            self.parent[self.find(b)] = self.find(a)

    def pin(self, layout: Layout) -> None:
        self.pinned.update(sum(layout, ()))

    def is_pinned(self, index_set: int) -> bool:
        return self.find(index_set) in map(self.find, self.pinned)

    def shape(self, layout: Layout) -> list[list[int]]:
        return [[self.sizes[i] for i in piece] for piece in layout]

    def length(self, layout: Layout) -> int:
        return sum(map(math.prod, self.shape(layout)))

    def leaf(self, *axes: Layout) -> str:
        name = f"w{len(self.leaves)}"
        self.leaves[name] = axes
        return name

    def pick(self) -> tuple[int, Layout]:
        value = self.draw(st.sampled_from(self.live))
        return value, self.layouts[value]

    def choose(self, table: dict[str, Any]) -> Any:
        self.story.append(self.draw(st.sampled_from(list(table))))
        return table[self.story[-1]]

    def add(
        self,
        function: Callable,
        leaves: Sequence[str],
        inputs: Sequence[int],
        layouts: Sequence[Layout],
        *,
        keep: bool | None = None,
    ) -> None:
        """Add a step `function(leaves, *inputs)` that gives values of the layouts.

        It may be wrapped, and its inputs may be kept.
        """
        if keep is None:
            keep = self.draw(st.booleans())
        self.live = [value for value in self.live if keep or value not in inputs]
        results = list(range(len(self.layouts), len(self.layouts) + len(layouts)))
        self.layouts += layouts
        self.live += results
        self.steps.append((self.choose(WRAPPERS)(function), list(leaves), list(inputs), results))

    def params(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        shapes = {name: tuple(map(self.length, axes)) for name, axes in self.leaves.items()}
        return {
            name: rng.normal(size=shape) / np.sqrt(shape[0]) ** (len(shape) > 1)
            for name, shape in shapes.items()
        }

    def apply(self, params: dict[str, Any], x: Any) -> Any:
        values = dict(enumerate(x))
        for function, leaves, inputs, results in self.steps:
            out = function([params[name] for name in leaves], *(values[i] for i in inputs))
            values.update(zip(results, out if len(results) > 1 else [out], strict=True))
        return sum(values[i] @ params[f"read{i}"] for i in self.live), [
            values[i] for i in self.exposed
        ]

    def spec(self, groups: set[int]) -> PermutationSpec:
        """The spec in which these index sets (roots), and no others, are groups."""

        def factor(index_set: int) -> Factor:
            root = self.find(index_set)
            host = self.hosts.get(root)
            along = () if host is None else (f"g{self.find(host[0][0])}",)
            if root in groups:
                return Factor(f"g{root}", "both", along=along)
            if any(root == self.find(host[0][0]) for host in self.hosts.values()):
                return Factor(f"g{root}")
            return fixed(self.sizes[index_set])

        def axis(layout: Layout) -> AxisLike:
            pieces = []
            for piece in layout:
                pieces.append(functools.reduce(operator.mul, map(factor, piece), fixed(1)))
            return functools.reduce(operator.or_, pieces)

        axes = {name: [axis(layout) for layout in leaf] for name, leaf in self.leaves.items()}
        hosts = {self.find(host[0][0]) for host in self.hosts.values()}
        sizes = {f"g{root}": self.sizes[root] for root in groups | hosts}
        return PermutationSpec.from_axes(axes, sizes=sizes).bind(self.params())

    def groups(self) -> set[int]:
        """Index sets that are not pinned."""
        free = {i for i in map(self.find, range(len(self.sizes))) if not self.is_pinned(i)}
        return free & {
            self.find(i)
            for leaf in self.leaves.values()
            for axis in leaf
            for piece in axis
            for i in piece
        }


def custom_vjp(function: Callable) -> Callable:
    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(lambda *inputs: (function(*inputs), None), lambda residuals, cotangent: None)
    return wrapped


def collective(function: Callable, axis: int) -> Callable:
    """A collective operation along an axis that `vmap` gives a name."""
    return jax.vmap(lambda h: function(h, "name"), axis, axis, axis_name="name")


def either(function: Callable) -> Callable:
    def halved(*inputs: Any) -> Any:
        return jax.tree.map(lambda y: y / 2, function(*inputs))

    return lambda leaves, *inputs: lax.cond(inputs[0].sum() > 0, function, halved, leaves, *inputs)


WRAPPERS: dict[str, Callable[[Callable], Callable]] = {
    "none": lambda function: function,
    "jit": lambda function: jax.jit(function),
    "checkpoint": lambda function: jax.checkpoint(function),
    "custom_vjp": custom_vjp,
    "cond": either,
    "vmap": lambda function: (
        lambda leaves, *xs: jax.vmap(function, (None, *[0] * len(xs)))(leaves, *xs)
    ),
}
STORED: dict[str, tuple[bool, Callable]] = {  # whether [out, in]
    "matmul": (False, lambda w, h: h @ w[0]),
    "tensordot": (False, lambda w, h: jnp.tensordot(h, w[0], 1)),
    "einsum": (True, lambda w, h: jnp.einsum("...i,oi->...o", h, w[0])),
    "dot_general": (True, lambda w, h: lax.dot_general(h, w[0], (((h.ndim - 1,), (1,)), ((), ())))),
    "transpose": (True, lambda w, h: (w[0] @ h.mT).mT),
}
ELEMENTWISE: dict[str, Callable] = {
    "tanh": lambda w, h: jnp.tanh(h),
    "relu": lambda w, h: jax.nn.relu(h) + h / 8,  # jax.nn.relu alone may leave nothing
    "gelu": lambda w, h: jax.nn.gelu(h),
    "silu": lambda w, h: jax.nn.silu(h),
    "where": lambda w, h: jnp.where(h > 0, h, 0.1 * h),
    "clip": lambda w, h: jnp.clip(h, -2, 2) + h / 8,
    "constant": lambda w, h: h * jnp.full(h.shape[-1], 0.5),
}
SYMMETRIC: dict[str, Callable] = {
    "softmax": lambda w, h: 3 * jax.nn.softmax(h, axis=-1),
    "layer norm": lambda w, h: (
        (h - h.mean(-1, keepdims=True)) * lax.rsqrt(h.var(-1, keepdims=True) + 0.01)
    ),
    "max": lambda w, h: jnp.sin(h + h.max(-1, keepdims=True)),
    "sum": lambda w, h: jnp.sin(h + h.sum(-1, keepdims=True)),
    "logsumexp": lambda w, h: jnp.sin(h - jax.nn.logsumexp(h, axis=-1, keepdims=True)),
    "time mean": lambda w, h: h + h.mean(-2, keepdims=True),
    "time cumsum": lambda w, h: jnp.cumsum(h, axis=-2) / TIME,
    "named time mean": lambda w, h: h + collective(lax.pmean, -2)(h),
    "named max": lambda w, h: jnp.sin(h + collective(lax.pmax, -1)(h)),
    "gram": lambda w, h: jnp.tanh(jnp.einsum("...ti,...si->...ts", h, h)) @ h / TIME,
    "fori": lambda w, h: lax.fori_loop(0, 2, lambda i, y: jnp.tanh(y + h), h),
    "while": lambda w, h: lax.while_loop(lambda y: (y**2).mean() > 0.5, lambda y: y / 2, h),
}
SCALES: dict[str, Callable] = {
    "bias": lambda w, h: h + w[0],
    "scale": lambda w, h: h * w[0],
    "exp": lambda w, h: h * jnp.exp(w[0] / 4),
    "normed": lambda w, h: h * (1 + w[0] / jnp.linalg.norm(w[0])),
}
PINS: dict[str, Callable] = {
    "ramp": lambda h: h * jnp.linspace(0.5, 1.5, h.shape[-1]),
    "sort": lambda h: jnp.sort(h, axis=-1),
    "cumsum": lambda h: jnp.cumsum(h, axis=-1) / 2,
    "reversal": lambda h: h[..., ::-1],
    "matrix": lambda h: h @ np.random.default_rng(1).normal(size=(h.shape[-1],) * 2) / 2,
    "look-up": lambda h: h[..., np.r_[1 : h.shape[-1], 1]],
    "mask": lambda h: jnp.where(lax.broadcasted_iota(int, h.shape, h.ndim - 1) < 2, h, 0),
    "pad": lambda h: jnp.pad(h, [(0, 0)] * (h.ndim - 1) + [(1, 0)])[..., :-1],
    "update": lambda h: lax.dynamic_update_slice_in_dim(h, h[..., 1:2] / 2, 0, axis=-1),
    "window": lambda h: lax.reduce_window(
        h, 0.0, lax.add, (1,) * (h.ndim - 1) + (2,), (1,) * h.ndim, "SAME"
    ),
    "fourier": lambda h: jnp.fft.fft(h).real / 2,
}
MIXING_PINS: dict[str, Callable] = {  # that show beside the features themselves
    "roll": lambda h: jnp.roll(h, 1, axis=-1),
    "argmax": lambda h: jnp.argmax(h, axis=-1, keepdims=True),
}
RESIZING_PINS: dict[str, Callable] = {
    "stride": lambda h: h[..., ::2],
    "dynamic slice": lambda h: lax.dynamic_slice_in_dim(h, 1, h.shape[-1] // 2 + 1, axis=-1),
    "top k": lambda h: lax.top_k(h, h.shape[-1] // 2 + 1)[0],
}


def dense(p: Plan) -> None:
    (value, layout), new, (transposed, function) = p.pick(), p.plant(), p.choose(STORED)
    p.add(function, [p.leaf(new, layout) if transposed else p.leaf(layout, new)], [value], [new])


def factorised(p: Plan) -> None:
    (value, layout), rank, new = p.pick(), p.plant(), p.plant()
    p.add(lambda w, h: h @ (w[0] @ w[1]), [p.leaf(layout, rank), p.leaf(rank, new)], [value], [new])


def embedding(p: Plan) -> None:
    new = p.plant()
    p.add(lambda w, tokens: w[0][tokens], [p.leaf(p.fixed(VOCABULARY), new)], [1], [new])


def elementwise(p: Plan) -> None:
    value, layout = p.pick()
    p.add(p.choose(ELEMENTWISE | SYMMETRIC), [], [value], [layout])


def scale(p: Plan) -> None:
    value, layout = p.pick()
    p.add(p.choose(SCALES), [p.leaf(layout)], [value], [layout])


def position(p: Plan) -> None:
    value, layout = p.pick()
    p.add(lambda w, h: h + w[0], [p.leaf(p.fixed(TIME), layout)], [value], [layout])


def pool(p: Plan) -> None:
    """The operand stays to be read: what pinned it may not be seen by a sum."""
    (value, _), new, reduce = p.pick(), p.plant(), p.choose({"max": jnp.max, "mean": jnp.mean})
    p.add(
        lambda w, h: reduce(h, axis=-1, keepdims=True) * w[0],
        [p.leaf(new)],
        [value],
        [new],
        keep=True,
    )


def residual(p: Plan) -> None:
    """With another value of equal layout, or a new branch; a sum or a product."""
    value, layout = p.pick()
    others = [i for i in p.live if i != value and p.shape(p.layouts[i]) == p.shape(layout)]
    join = p.choose({"sum": lambda a, b: a + b, "product": lambda a, b: a * jnp.tanh(b) + b})
    if others:
        other = p.draw(st.sampled_from(others))
        p.merge(layout, p.layouts[other])
        p.add(lambda w, h, g: join(h, g), [], [value, other], [layout])
    else:
        p.add(lambda w, h: join(h, jnp.tanh(h) @ w[0]), [p.leaf(layout, layout)], [value], [layout])


def block(p: Plan) -> None:
    (value, layout), hidden = p.pick(), p.plant()
    leaves = [p.leaf(layout, hidden), p.leaf(hidden), p.leaf(hidden, layout)]
    p.add(lambda w, h: h + jax.nn.gelu(h @ w[0] + w[1]) @ w[2], leaves, [value], [layout])


def concatenation(p: Plan) -> None:
    values = [p.pick(), p.pick()]
    layout = values[0][1] + values[1][1]
    if p.length(layout) <= WIDEST:
        p.add(
            lambda w, h, g: jnp.concatenate([h, g], axis=-1),
            [],
            [value for value, _ in values],
            [layout],
        )


def split(p: Plan) -> None:
    """At a boundary of a concatenation, or of a dense layer that is there to be split."""
    value, layout = p.pick()
    if len(layout) > 1:
        at = p.draw(st.integers(1, len(layout) - 1))
        boundary = p.length(layout[:at])
        p.add(
            lambda w, h: (h[..., :boundary], h[..., boundary:]),
            [],
            [value],
            [layout[:at], layout[at:]],
        )
    else:
        new = [p.plant(), p.plant()]
        boundary = p.length(new[0])
        p.add(
            lambda w, h: jnp.split(h @ w[0], [boundary], axis=-1),
            [p.leaf(layout, new[0] + new[1])],
            [value],
            new,
        )


def joined(p: Plan) -> None:
    """A kernel made of two leaves."""
    (value, layout), new = p.pick(), [p.plant(), p.plant()]
    leaves = [p.leaf(layout, axis) for axis in new]
    p.add(lambda w, h: h @ jnp.concatenate(w, axis=1), leaves, [value], [new[0] + new[1]])


def gated(p: Plan) -> None:
    """Two halves that meet are one group, twice in one axis."""
    (value, layout), new = p.pick(), p.plant()

    def function(w: list, h: Any) -> Any:
        a, b = jnp.split(h @ w[0], 2, axis=-1)
        return a * jax.nn.sigmoid(b)

    p.add(function, [p.leaf(layout, new + new)], [value], [new])


def one_entry(p: Plan) -> None:
    """One feature apart; the others are a group."""
    (value, layout), new = p.pick(), p.plant()

    def function(w: list, h: Any) -> Any:
        y = h @ w[0]
        return jnp.sin(y[..., 1:] + y[..., :1])

    p.add(function, [p.leaf(layout, p.fixed(1) + new)], [value], [new])


def heads(p: Plan) -> None:
    """A product of two index sets, written as two axes or as one; one of them may be pinned."""
    (value, layout), outer, pins = p.pick(), p.plant(), p.draw(st.sampled_from([None, -2, -1]))
    inner = p.index_set(p.size(), host=outer if pins is None else None)
    product, flat = ((*outer[0], *inner[0]),), p.draw(st.booleans())
    shape = (p.length(outer), p.length(inner))
    if pins is not None:
        p.pin(outer if pins == -2 else inner)

    def function(w: list, h: Any) -> Any:
        y = jnp.tensordot(h, w[0], 1).reshape(*h.shape[:-1], *shape)
        y = jnp.sin(y - y.max(-1, keepdims=True))
        return (y if pins is None else jnp.sin(y + jnp.cumsum(y, axis=pins))).reshape(
            *h.shape[:-1], -1
        )

    p.add(
        function,
        [p.leaf(layout, product) if flat else p.leaf(layout, outer, inner)],
        [value],
        [product],
    )


def attention(p: Plan) -> None:
    """Heads, and within each the channels in which queries meet keys, and those of values."""
    (value, layout), head, new = p.pick(), p.plant(), p.plant()
    channel, content = (p.index_set(p.size(), host=head) for _ in range(2))
    leaves = [
        p.leaf(layout, head, channel),
        p.leaf(layout, head, channel),
        p.leaf(layout, head, content),
    ]

    def function(w: list, h: Any) -> Any:
        q, k, v = (jnp.einsum("...ti,ihc->...thc", h, kernel) for kernel in w[:3])
        weights = jax.nn.softmax(jnp.einsum("...thc,...shc->...hts", q, k), axis=-1)
        return jnp.einsum("...hts,...shc,hco->...to", weights, v, w[3])

    p.add(function, [*leaves, p.leaf(head, content, new)], [value], [new])


def tied(p: Plan) -> None:
    """One leaf used twice: there and back again, or a square one."""
    value, layout = p.pick()
    if p.draw(st.booleans()):
        p.add(
            lambda w, h: jnp.tanh(jnp.tanh(h @ w[0]) @ w[0]),
            [p.leaf(layout, layout)],
            [value],
            [layout],
        )
    else:
        p.add(
            lambda w, h: jnp.tanh(h @ w[0]) @ w[0].T, [p.leaf(layout, p.plant())], [value], [layout]
        )


def recurrent(p: Plan) -> None:
    """A scan over time; the state starts from zeros or from a leaf."""
    (value, layout), new = p.pick(), p.plant()
    learned = p.draw(st.booleans())

    def function(w: list, h: Any) -> Any:
        def turn(state: Any, entry: Any) -> Any:
            state = jnp.tanh(entry @ w[0] + state @ w[1])
            return state, state

        start = jnp.zeros((*h.shape[:-2], w[1].shape[0]), h.dtype) + (w[2] if learned else 0)
        return jnp.moveaxis(lax.scan(turn, start, jnp.moveaxis(h, -2, 0))[1], 0, -2)

    leaves = [p.leaf(layout, new), p.leaf(new, new)] + ([p.leaf(new)] if learned else [])
    p.add(function, leaves, [value], [new])


def stack(p: Plan) -> None:
    """A scan over layers: a permutation of the hidden neurons each, unless they share a bias."""
    (value, layout), shared = p.pick(), p.draw(st.booleans())
    layers = p.fixed(2)
    hidden = p.index_set(p.size(), host=None if shared else layers)
    leaves = [p.leaf(layers, layout, hidden), p.leaf(layers, hidden, layout)] + (
        [p.leaf(hidden)] if shared else []
    )

    def function(w: list, h: Any) -> Any:
        def layer(stream: Any, kernels: Any) -> Any:
            return stream + jnp.tanh(stream @ kernels[0] + (w[2] if shared else 0)) @ kernels[
                1
            ], None

        return lax.scan(layer, h, (w[0], w[1]))[0]

    p.add(function, leaves, [value], [layout])


MIXES = {
    "nothing": lambda y: y,
    "mean over time": lambda y: y + y.mean(-2, keepdims=True),
    "times attend": lambda y: (
        y + jnp.tanh(jnp.einsum("...tj,...sj->...ts", y, y)).sum(-1, keepdims=True)
    ),
}


def local(p: Plan) -> None:
    """Kernels of their own at every time: a permutation each, unless something works along time."""
    (value, layout), new = p.pick(), p.plant()
    mix = p.choose(MIXES)
    time = p.fixed(TIME)
    hidden = p.index_set(p.size(), host=time if mix is MIXES["nothing"] else None)

    def function(w: list, h: Any) -> Any:
        y = mix(jnp.tanh(jnp.einsum("...ti,tij->...tj", h, w[0])))
        return jnp.einsum("...tj,tjo->...to", y, w[1]) + w[2]

    p.add(
        function,
        [p.leaf(time, layout, hidden), p.leaf(time, hidden, new), p.leaf(new)],
        [value],
        [new],
    )


def convolution(p: Plan) -> None:
    """Over time, full or depthwise."""
    (value, layout), depthwise = p.pick(), p.draw(st.booleans())
    new = layout if depthwise else p.plant()

    def function(w: list, h: Any) -> Any:
        image, groups = h.reshape(-1, *h.shape[-2:]), h.shape[-1] if depthwise else 1
        kwargs = {"dimension_numbers": ("NWC", "WIO", "NWC"), "feature_group_count": groups}
        y = lax.conv_general_dilated(image, w[0], (1,), "SAME", **kwargs)
        return y.reshape(*h.shape[:-1], -1)

    p.add(function, [p.leaf(p.fixed(2), p.fixed(1) if depthwise else layout, new)], [value], [new])


def flatten(p: Plan) -> None:
    """A kernel reads time and features as one axis."""
    (value, layout), new, time = p.pick(), p.plant(), p.fixed(TIME)
    if len(layout) > 1:
        return
    axis = ((*time[0], *layout[0]),)

    def function(w: list, h: Any) -> Any:
        y = h.reshape(*h.shape[:-2], -1) @ w[0]
        return (
            y[..., None, :] * np.linspace(1, 2, TIME)[:, None]
        )  # else times could be permuted, too

    p.add(function, [p.leaf(axis, new)], [value], [new])


def pin_beside(p: Plan) -> None:
    (value, layout), function = p.pick(), p.choose(PINS | MIXING_PINS)
    p.pin(layout)
    p.add(lambda w, h: jnp.sin(h + function(h)), [], [value], [layout])


def pin_through(p: Plan) -> None:
    """The features come out in other places."""
    value, layout = p.pick()
    function = p.choose(
        PINS if p.length(layout) < 5 else PINS | RESIZING_PINS
    )  # at least 3 features stay
    if function not in (PINS["sort"], RESIZING_PINS["top k"]):  # these forget where they began
        p.pin(layout)
    (size,) = jax.eval_shape(function, jax.ShapeDtypeStruct((p.length(layout),), float)).shape
    p.add(lambda w, h: function(h), [], [value], [p.fixed(size)])


def expose(p: Plan) -> None:
    value, layout = p.pick()
    p.pin(layout)
    p.exposed.append(value)


PLANTING = [
    dense,
    factorised,
    embedding,
    pool,
    split,
    joined,
    gated,
    one_entry,
    heads,
    attention,
    recurrent,
]
PLANTING += [convolution, local]
KEEPING = [elementwise, scale, position, residual, block, concatenation, tied, stack, flatten]
PINNING = [pin_beside, pin_through, expose]


@st.composite
def programs(draw: Callable) -> Plan:
    """Up to eight steps; at the end every value that is still live is read."""
    p = Plan(draw)
    p.layouts, p.live = [p.fixed(INPUTS), ()], [0]
    for _ in range(draw(st.integers(2, 8))):
        step = draw(st.sampled_from(draw(st.sampled_from([PLANTING, KEEPING, KEEPING, PINNING]))))
        p.story.append(f"\n{step.__name__}:")
        step(p)
    for value in p.live:
        p.leaves[f"read{value}"] = (p.layouts[value], p.fixed(OUTPUTS))
    return p


def inputs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    return rng.normal(size=(BATCH, TIME, INPUTS)), rng.integers(VOCABULARY, size=(BATCH, TIME))


def places(spec: PermutationSpec, params: dict[str, np.ndarray]) -> set[tuple]:
    """Per group its shape and the entries of each of its neurons; names and roles are left out."""
    found = set()
    for group in spec.groups:
        entries: dict[tuple, set[int]] = {}
        for place in spec.places(group):
            numbers = np.arange(params[place.leaf].size).reshape(params[place.leaf].shape)
            rows = np.asarray(place.rows(numbers))
            for neuron in np.ndindex(rows.shape[:-1]):
                at = (place.leaf, place.leaf_axis, neuron)
                entries.setdefault(at, set()).update(rows[neuron].tolist())
        where = frozenset((at, frozenset(numbers)) for at, numbers in entries.items())
        found.add((dict(spec.shapes)[group], where))
    return found


def swapped(spec: PermutationSpec, params: dict[str, np.ndarray], i: int) -> Any:
    """Parameters in which the neurons `i` and `i + 1` of the only group have changed places."""
    ((group, shape),) = spec.shapes
    order = np.arange(shape[-1])
    order[[i, i + 1]] = order[[i + 1, i]]
    return permute(spec, {group: np.broadcast_to(order, shape)}, params)


def check_pinned(p: Plan) -> None:
    """Some transposition of neighbours changes the outputs; they generate all permutations."""
    params, x, outputs = p.params(), inputs(), jax.jit(p.apply)
    before = jax.tree.leaves(outputs(params, x))
    largest = max(np.abs(leaf).max() for leaf in before)
    for root in set(map(p.find, p.pinned)):
        spec = p.spec({root})

        def changes(i: int) -> bool:
            after = jax.tree.leaves(outputs(swapped(spec, params, i), x))
            return (
                max(np.abs(a - b).max() for a, b in zip(before, after, strict=True))
                > 1e-6 * largest
            )

        if spec.groups and p.sizes[root] > 1:
            assert any(map(changes, range(p.sizes[root] - 1))), f"pinned, but symmetric:\n{spec}"


def check(p: Plan, execute: bool) -> None:
    params, x = p.params(), inputs()
    found = discover(p.apply, params, x)
    planted = p.spec(p.groups())
    assert places(found, params) == places(planted, params), f"\n{found}\nplanted:\n{planted}"
    if execute:
        verification = verify(
            p.apply, found, params, x, key=jax.random.key(0, impl="rbg"), tolerance=1e-9
        )
        assert verification.finite
        assert all(verification.holds.values()), verification.difference
        check_pinned(p)


def search(seed: int, num_programs: int, every: int) -> None:
    """Every so many programs are executed."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=num_programs, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(programs(), st.integers(1, every))
    def run(p: Plan, execute: int) -> None:
        with jax.enable_x64(True):
            check(p, execute == every)

    run()


@pytest.mark.parametrize("seed", [0])
def test_what_was_planted_is_found(seed):
    search(seed, num_programs=12, every=6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_what_was_planted_is_found_in_many_programs(seed):
    search(seed, num_programs=250, every=8)


def low_rank(params: dict[str, Any], x: Any) -> Any:
    """A factorised linear map beside a skip connection: rows and columns are one index set."""
    return x + x @ (params["a"] @ params["b"])


def positions_meet(params: dict[str, Any], x: Any) -> Any:
    """Every position has its own kernels of queries and keys; all positions share the channels."""
    q, k = (jnp.einsum("bti,tic->btc", x, params[name]) for name in "ab")
    return jnp.einsum("btc,bsc->bts", q, k)


@pytest.mark.parametrize(
    ("apply", "shape_a", "shape_b", "shape_x"),
    [(low_rank, (3, 5), (5, 3), (4, 3)), (positions_meet, (3, 2, 5), (3, 2, 5), (4, 3, 2))],
)
def test_rows_of_a_contraction_share_their_permutation(apply, shape_a, shape_b, shape_x, rng):
    params = {"a": rng.normal(size=shape_a), "b": rng.normal(size=shape_b)}
    x = rng.normal(size=shape_x)
    with jax.enable_x64(True):
        spec = discover(apply, params, x)
        assert all(verify(apply, spec, params, x).holds.values())
    assert dict(spec.shapes).popitem()[1] == (5,)


def test_an_empty_leaf_beside_a_group():
    def apply(params: dict[str, Any], x: Any) -> Any:
        return jnp.tanh(x @ jnp.concatenate([params["w"], params["empty"]])) @ params["v"]

    params = {"w": jnp.ones((3, 5)), "empty": jnp.ones((0, 5)), "v": jnp.ones((5, 2))}
    assert dict(discover(apply, params, jnp.ones((4, 3))).shapes) == {"w": (5,)}


def test_a_class_token_and_a_flatten_keep_the_group():
    def apply(params: dict[str, Any], x: Any) -> Any:
        token = jnp.broadcast_to(params["token"], (x.shape[0], 1, 5))
        return (
            jnp.concatenate([token, x @ params["w"]], axis=1).reshape(x.shape[0], -1) @ params["v"]
        )

    params = {"w": jnp.ones((2, 5)), "token": jnp.ones(5), "v": jnp.ones((20, 2))}
    assert [size for _, size in discover(apply, params, jnp.ones((4, 3, 2))).shapes] == [(5,)]
