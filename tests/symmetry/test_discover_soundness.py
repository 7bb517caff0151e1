"""What discovery claims is true: permuting all groups at once keeps the outputs of random programs.

Nothing is planted here, so nothing limits how index sets meet: programs reshape, transpose, split,
concatenate, sort, gather, scatter, loop and contract, and add a value to copies of itself that are
regrouped in another way. A program is traced by JAX, and run by NumPy in float64, before and after
a random permutation of all its groups together (each alone may hide that two of them belong
together). A permutation that changes the outputs is a symmetry that discovery has made up.

CI draws 100 programs, `pytest -m slow tests/symmetry/test_discover_soundness.py` 20,000. A failure
names its seed.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmcjax import discover
from lmcjax.symmetry import AxisLike, Factor, PermutationSpec, Product

BATCH = 3
NUM_INPUTS = 4
NUM_TOKENS = 5
NUM_OUTPUTS = 2
MOST_FEATURES = 48
WIDTHS = (4, 6, 8, 12, 16, 16)

Shape: TypeAlias = tuple[int, ...]
Params: TypeAlias = dict[str, Any]
Step: TypeAlias = Callable[[ModuleType, Params, list[Any]], Any]
"""`step(xp, params, values)` gives the next value; `xp` is NumPy or jax.numpy."""


class Program:
    """Steps on values `[batch, *features]`. The first value is the inputs."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.leaves: dict[str, Shape] = {}
        self.features: list[Shape] = [(NUM_INPUTS,)]  # of each value
        self.steps: list[Step] = []
        self.story: list[str] = []

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def choose(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def pick(self) -> int:
        """A value, more often a late one: chains get long, and now and then branch."""
        last = len(self.features) - 1
        return max(int(self.rng.integers(last + 1)) for _ in range(2))

    def axis_of(self, value: int) -> int:
        return int(self.rng.integers(len(self.features[value])))

    def factorise(self, size: int) -> Shape:
        """A random ordered factorisation, such as `12 = 2 * 6`."""
        factors = []
        while size > 1 and (not factors or self.chance(0.6)):
            divisors = [d for d in range(2, size + 1) if size % d == 0]
            factors.append(self.choose(divisors))
            size //= factors[-1]
        return (*factors, size) if size > 1 or not factors else tuple(factors)

    def order(self, num_axes: int) -> tuple[int, ...]:
        return tuple(int(i) for i in self.rng.permutation(num_axes))

    def leaf(self, shape: Shape) -> Callable[[ModuleType, Params], Any]:
        """A leaf seen in this shape; it may be stored otherwise, or be used elsewhere too."""
        size = math.prod(shape)
        shared = [name for name, stored in self.leaves.items() if math.prod(stored) == size]
        if shared and self.chance(0.25):
            name = self.choose(shared)
            self.story.append(f"again {name}")
            return lambda xp, params: xp.reshape(params[name], shape)
        name = f"w{len(self.leaves)}"
        layout = self.choose(["as it is", "regrouped", "transposed"])
        self.story.append(f"{name} {shape} stored {layout}")
        if layout == "regrouped":
            self.leaves[name] = self.factorise(size)
            return lambda xp, params: xp.reshape(params[name], shape)
        if layout == "transposed":
            order = self.order(len(shape))
            self.leaves[name] = tuple(shape[i] for i in order)
            back = tuple(int(i) for i in np.argsort(order))
            return lambda xp, params: xp.transpose(params[name], back)
        self.leaves[name] = shape
        return lambda xp, params: params[name]

    def rearrangement(self, shape: Shape) -> Callable[[ModuleType, Any], Any]:
        """A function on `[batch, *shape]` that regroups, transposes, and restores the shape."""
        turns = []
        for _ in range(int(self.rng.integers(1, 3))):
            factors = self.factorise(math.prod(shape))
            turns.append((factors, self.order(len(factors))))
        self.story.append(f"rearranged by {turns}")

        def rearrange(xp: ModuleType, h: Any) -> Any:
            for factors, order in turns:
                h = xp.reshape(h, (h.shape[0], *factors))
                h = xp.transpose(h, (0, *(1 + i for i in order)))
            return xp.reshape(h, (h.shape[0], *shape))

        return rearrange

    def add(self, shape: Shape, step: Step) -> None:
        self.features.append(shape)
        self.steps.append(step)

    def params(self) -> dict[str, np.ndarray]:
        return {name: self.rng.normal(size=shape) for name, shape in self.leaves.items()}

    def run(self, xp: ModuleType, params: Params, x: Any) -> Any:
        """`[batch, 2 * number of readers]`."""
        values = [x]
        for step in self.steps:
            values.append(step(xp, params, values))
        outputs = []
        for reader in self.readers:
            outputs.append(reader(xp, params, values))
        return xp.concatenate(outputs, axis=1)

    def finish(self) -> None:
        """Read the last value, and some of the others."""
        self.readers: list[Step] = []
        last = len(self.features) - 1
        for value in range(1, last + 1):
            if value == last or self.chance(0.3):
                self.readers.append(self.reader(value))

    def reader(self, value: int) -> Step:
        shape = self.features[value]
        size = math.prod(shape)
        if self.chance(0.2):
            self.story.append(f"sum of value {value}")

            def sum_of_bumps(xp: ModuleType, params: Params, values: list[Any]) -> Any:
                h = xp.reshape(values[value], (BATCH, size))
                return xp.exp(h / 2 - h * h / 2).sum(axis=1, keepdims=True)

            return sum_of_bumps
        kernel = self.leaf((*shape, NUM_OUTPUTS))
        self.story.append(f"reads value {value}")
        axes = tuple(range(len(shape)))
        contracted = (tuple(1 + i for i in axes), axes)
        return lambda xp, params, values: xp.tensordot(
            values[value], kernel(xp, params), contracted
        )


def dense(p: Program) -> None:
    """Some of the axes are contracted with a kernel; the new ones are one axis or several."""
    value = p.pick()
    old = p.features[value]
    num_contracted = int(p.rng.integers(1, len(old) + 1))
    contracted = sorted(p.order(len(old))[:num_contracted])
    kept = tuple(size for i, size in enumerate(old) if i not in contracted)
    new = p.factorise(p.choose(WIDTHS))
    if math.prod(kept) * math.prod(new) > MOST_FEATURES:
        return
    kernel = p.leaf((*(old[i] for i in contracted), *new))
    axes = (tuple(1 + i for i in contracted), tuple(range(num_contracted)))

    def step(xp: ModuleType, params: Params, values: list[Any]) -> Any:
        return xp.tanh(xp.tensordot(values[value], kernel(xp, params), axes) / 2)

    p.add((*kept, *new), step)


def embedding(p: Program) -> None:
    """Rows of a leaf are looked up."""
    new = p.factorise(p.choose(WIDTHS))
    table = p.leaf((NUM_TOKENS, *new))
    tokens = p.rng.integers(NUM_TOKENS, size=BATCH)
    p.add(new, lambda xp, params, values: xp.take(table(xp, params), tokens, axis=0))


def scale(p: Program) -> None:
    """A leaf of the value's shape is added or multiplied."""
    value = p.pick()
    leaf = p.leaf(p.features[value])
    times = p.chance(0.5)

    def step(xp: ModuleType, params: Params, values: list[Any]) -> Any:
        return values[value] * leaf(xp, params) if times else values[value] + leaf(xp, params)

    p.add(p.features[value], step)


def reshape(p: Program) -> None:
    value = p.pick()
    new = p.factorise(math.prod(p.features[value]))
    p.add(new, lambda xp, params, values: xp.reshape(values[value], (BATCH, *new)))


def transpose(p: Program) -> None:
    value = p.pick()
    order = p.order(len(p.features[value]))
    new = tuple(p.features[value][i] for i in order)
    p.add(new, lambda xp, params, values: xp.transpose(values[value], (0, *(1 + i for i in order))))


def sum_of_copies(p: Program) -> None:
    """A value and a rearranged copy of it, or of another value of its size."""
    value = p.pick()
    shape = p.features[value]
    others = [i for i, features in enumerate(p.features) if math.prod(features) == math.prod(shape)]
    other = value if p.chance(0.5) else p.choose(others)
    rearrange = p.rearrangement(shape)
    times = p.chance(0.3)

    def step(xp: ModuleType, params: Params, values: list[Any]) -> Any:
        copy = rearrange(xp, values[other])
        return values[value] * copy if times else values[value] + copy

    p.add(shape, step)


def split(p: Program) -> None:
    """Both parts of an axis, or their sum where they are equally long."""
    value = p.pick()
    axis = p.axis_of(value)
    shape = p.features[value]
    size = shape[axis]
    if size < 2:
        return
    at = size // 2 if p.chance(0.5) else int(p.rng.integers(1, size))
    before = (slice(None),) * (1 + axis)
    first, second = (*before, slice(0, at)), (*before, slice(at, size))

    def shape_of(length: int) -> Shape:
        return (*shape[:axis], length, *shape[axis + 1 :])

    if 2 * at == size and p.chance(0.5):
        p.add(shape_of(at), lambda xp, params, values: values[value][first] + values[value][second])
        return
    p.add(shape_of(at), lambda xp, params, values: values[value][first])
    p.add(shape_of(size - at), lambda xp, params, values: values[value][second])


def packed(p: Program) -> None:
    """An axis in a few blocks that get an axis of their own; each block is then used by itself.

    Two of them may also be added or multiplied. Later steps use the blocks together, too.
    """
    num_blocks = int(p.rng.integers(2, 5))
    if p.chance(0.7):
        dense_in_blocks(p, num_blocks)
        value = len(p.features) - 1
    else:
        value = p.pick()
    size = math.prod(p.features[value])
    if size % num_blocks:
        return
    factors = (num_blocks, *p.factorise(size // num_blocks))
    order = p.order(len(factors))
    axis = 1 + order.index(0)
    new = tuple(factors[i] for i in order)
    bent = p.chance(0.5)
    p.story.append(f"value {value} as {factors}, transposed {order}")

    def take_apart(xp: ModuleType, params: Params, values: list[Any]) -> Any:
        h = xp.reshape(values[value], (BATCH, *factors))
        h = xp.transpose(h, (0, *(1 + i for i in order)))
        return xp.tanh(h) if bent else h

    p.add(new, take_apart)
    whole = len(p.features) - 1
    entry = (*new[: axis - 1], *new[axis:]) or (1,)

    def taken(values: list[Any], number: int) -> Any:
        return values[whole][(*(slice(None),) * axis, number)].reshape(BATCH, *entry)

    for number in range(num_blocks):
        p.add(entry, lambda xp, params, values, number=number: taken(values, number))
    if p.chance(0.3):
        first, second = p.order(num_blocks)[:2]
        p.add(entry, lambda xp, params, values: taken(values, first) * taken(values, second))


def within(p: Program) -> None:
    """Stretches inside each entry of an outer axis go separate ways, and lie together again.

    So do the halves of each head's channels under rotary positions, or its query, key and value.
    """
    value = p.pick()
    size = math.prod(p.features[value])
    divisors = [outer for outer in range(2, size // 2 + 1) if size % outer == 0]
    if not divisors:
        return
    outer = p.choose(divisors)
    inner = size // outer
    at = inner // 2 if p.chance(0.5) else int(p.rng.integers(1, inner))
    swapped = p.chance(0.5)
    added = p.chance(0.5)
    new = (outer, inner) if p.chance(0.5) else p.features[value]
    p.story.append(f"value {value} as {outer} x ({at} | {inner - at}), swapped {swapped}")

    def step(xp: ModuleType, params: Params, values: list[Any]) -> Any:
        h = xp.reshape(values[value], (BATCH, outer, inner))
        first = xp.tanh(h[..., :at])
        second = h[..., at:]
        both = [second, first] if swapped else [first, second]
        joined = xp.concatenate(both, axis=-1)
        if added:
            joined = joined + h / 2
        return xp.reshape(joined, (BATCH, *new))

    p.add(new, step)


def dense_in_blocks(p: Program, num_blocks: int) -> None:
    """All axes are contracted; the new one is so many blocks long."""
    value = p.pick()
    old = p.features[value]
    width = num_blocks * p.choose((2, 4, 6, 8))
    kernel = p.leaf((*old, width))
    axes = (tuple(range(1, 1 + len(old))), tuple(range(len(old))))

    def step(xp: ModuleType, params: Params, values: list[Any]) -> Any:
        return xp.tensordot(values[value], kernel(xp, params), axes)

    p.add((width,), step)


def concatenate(p: Program) -> None:
    """With another value, with itself, or with a rearranged copy of itself."""
    value = p.pick()
    axis = p.axis_of(value)
    shape = p.features[value]

    def rest(features: Shape) -> Shape:
        return (*features[:axis], *features[axis + 1 :])

    fitting = []
    for i, features in enumerate(p.features):
        if len(features) == len(shape) and rest(features) == rest(shape):
            fitting.append(i)
    other = p.choose(fitting)
    length = shape[axis] + p.features[other][axis]
    new = (*shape[:axis], length, *shape[axis + 1 :])
    if math.prod(new) > MOST_FEATURES:
        return
    rearrange = p.rearrangement(p.features[other]) if p.chance(0.4) else None

    def step(xp: ModuleType, params: Params, values: list[Any]) -> Any:
        copy = values[other] if rearrange is None else rearrange(xp, values[other])
        return xp.concatenate([values[value], copy], axis=1 + axis)

    p.add(new, step)


def gather(p: Program) -> None:
    """Entries of one axis by number; the other axes pass."""
    value = p.pick()
    axis = p.axis_of(value)
    shape = p.features[value]
    indices = p.rng.integers(shape[axis], size=int(p.rng.integers(1, shape[axis] + 1)))
    new = (*shape[:axis], len(indices), *shape[axis + 1 :])
    p.add(new, lambda xp, params, values: xp.take(values[value], indices, axis=1 + axis))


def contract(p: Program) -> None:
    """Two values meet along one axis, and along others entry by entry."""
    first, second = p.pick(), p.pick()
    letters = "acdefghijklmnopqrs"
    names_first = letters[: len(p.features[first])]
    names_second = list(letters[len(names_first) :][: len(p.features[second])])
    free = list(range(len(names_second)))
    met = []
    for i, size in enumerate(p.features[first]):
        partners = [j for j in free if p.features[second][j] == size]
        if partners and (not met or p.chance(0.5)):
            j = p.choose(partners)
            free.remove(j)
            names_second[j] = names_first[i]
            met.append(names_first[i])
    if not met:
        return
    summed = met[: int(p.rng.integers(1, len(met) + 1))]
    sizes = dict(zip(names_first, p.features[first], strict=True))
    sizes |= dict(zip(names_second, p.features[second], strict=True))
    result = [name for name in sizes if name not in summed]
    new = tuple(sizes[name] for name in result)
    if math.prod(new) > MOST_FEATURES or not new:
        return
    formula = f"b{names_first},b{''.join(names_second)}->b{''.join(result)}"
    p.story.append(formula)
    p.add(
        new,
        lambda xp, params, values: xp.tanh(xp.einsum(formula, values[first], values[second]) / 3),
    )


def symmetric(p: Program) -> None:
    """Functions that treat all entries of an axis alike."""
    value = p.pick()
    axis = 1 + p.axis_of(value)
    kind = p.choose(["tanh", "sum", "max"])
    p.story.append(kind)

    def step(xp: ModuleType, params: Params, values: list[Any]) -> Any:
        h = values[value]
        if kind == "tanh":
            return xp.tanh(h)
        along = (
            xp.sum(h, axis=axis, keepdims=True)
            if kind == "sum"
            else xp.max(h, axis=axis, keepdims=True)
        )
        return xp.tanh(h - along / 5)

    p.add(p.features[value], step)


def ordered(p: Program) -> None:
    """Functions that look at the order of one axis."""
    value = p.pick()
    axis = 1 + p.axis_of(value)
    kind = p.choose(["cumsum", "flip", "ramp", "fourier"])
    p.story.append(kind)

    def step(xp: ModuleType, params: Params, values: list[Any]) -> Any:
        h = values[value]
        if kind == "cumsum":
            return xp.cumsum(h, axis=axis) / 2
        if kind == "flip":
            return h + xp.flip(h, axis=axis) / 2
        if kind == "fourier":
            return xp.fft.fft(h, axis=axis).real / 3
        ramp = np.linspace(0.5, 1.5, h.shape[axis])
        return h * ramp.reshape(-1, *[1] * (h.ndim - axis - 1))

    p.add(p.features[value], step)


def sort(p: Program) -> None:
    """Values that forget the order, by themselves or beside those that do not."""
    value = p.pick()
    axis = 1 + p.axis_of(value)
    beside = p.chance(0.3)

    def step(xp: ModuleType, params: Params, values: list[Any]) -> Any:
        h = values[value]
        return h + xp.sort(h, axis=axis) if beside else xp.sort(h, axis=axis)

    p.add(p.features[value], step)


def scatter(p: Program) -> None:
    """Entries of one axis are added to places of a new one, or set or compared there."""
    value = p.pick()
    axis = p.axis_of(value)
    shape = p.features[value]
    size = shape[axis]
    kind = p.choose(["add", "max", "set"])
    length = size if p.chance(0.5) else int(p.rng.integers(size, size + 4))
    new = (*shape[:axis], length, *shape[axis + 1 :])
    if math.prod(new) > MOST_FEATURES:
        return
    # of several that are set at one place, NumPy and JAX need not choose the same
    places = p.rng.choice(length, size=size, replace=kind != "set")
    p.story.append(f"{kind} at {places}")

    def step(xp: ModuleType, params: Params, values: list[Any]) -> Any:
        updates = xp.moveaxis(values[value], 1 + axis, 0)
        start = xp.full((length, *updates.shape[1:]), 0.1)
        if xp is np:
            at = {"add": np.add.at, "max": np.maximum.at, "set": np.ndarray.__setitem__}[kind]
            at(start, places, updates)
            result = start
        else:
            result = getattr(start.at[places], kind)(updates)
        return xp.moveaxis(result, 0, 1 + axis)

    p.add(new, step)


def gather_each(p: Program) -> None:
    """Entries of one axis, at places of their own for every entry of the other axes."""
    value = p.pick()
    axis = p.axis_of(value)
    shape = p.features[value]
    uniform = p.chance(0.5)
    along = [1] * (1 + len(shape))
    along[1 + axis] = 2
    places = p.rng.integers(shape[axis], size=along if uniform else (BATCH, *shape))
    if uniform:
        sizes = [BATCH, *shape]
        sizes[1 + axis] = 2
        places = np.broadcast_to(places, sizes)
    new = (*shape[:axis], places.shape[1 + axis], *shape[axis + 1 :])
    p.add(new, lambda xp, params, values: xp.take_along_axis(values[value], places, axis=1 + axis))


def constant(p: Program) -> None:
    """A value that is the same everywhere; other steps use it, more than one of them too."""
    shape = p.features[p.pick()]
    p.add(shape, lambda xp, params, values: xp.full((BATCH, *shape), 0.3))


def loop(p: Program) -> None:
    """A state that starts from a constant and sees parameters or data."""
    shape = p.features[p.pick()]
    value = p.choose([i for i, features in enumerate(p.features) if features == shape])
    leaf = p.leaf(shape)
    only_parameters = p.chance(0.5)

    def step(xp: ModuleType, params: Params, values: list[Any]) -> Any:
        kernel = leaf(xp, params)
        seen = kernel if only_parameters else values[value]

        def turn(i: Any, state: Any) -> Any:
            return xp.tanh(state * seen + kernel)

        state = xp.full(seen.shape, 0.4, seen.dtype)
        if xp is np:
            for i in range(2):
                state = turn(i, state)
        else:
            state = jax.lax.fori_loop(0, 2, turn, state)
        return state + xp.zeros((BATCH, *shape))

    p.add(shape, step)


STEPS = [dense] * 4 + [sum_of_copies] * 4 + [reshape, transpose, split, concatenate, contract] * 2
STEPS += [embedding, scale, gather, symmetric, symmetric, ordered]
STEPS += [sort, scatter, gather_each, constant, loop] + [packed] * 3 + [within] * 2


def draw_program(seed: int) -> Program:
    p = Program(seed)
    dense(p)
    for _ in range(int(p.rng.integers(2, 8))):
        step = p.choose(STEPS)
        p.story.append(f"\n{step.__name__}:")
        step(p)
    p.story.append("\nreaders:")
    p.finish()
    return p


def draw_permutations(spec: PermutationSpec, rng: np.random.Generator) -> dict[str, np.ndarray]:
    permutations = {}
    for group, shape in spec.shapes:
        numbers = np.broadcast_to(np.arange(shape[-1]), shape)
        permutations[group] = rng.permuted(numbers, axis=-1)
    return permutations


def entries_of(axis: AxisLike, length: int, sizes: dict[str, int]) -> list[tuple]:
    """What each entry of an axis is: steps from the whole axis to the entry.

    A step is the number of an item of a concatenation, or a factor and a number along it.
    """
    if axis is None:
        return [(("", number),) for number in range(length)]
    if isinstance(axis, Factor):
        size = axis.size if axis.name is None else sizes[axis.name]
        return [((axis, number),) for number in range(size)]
    inside = [entries_of(item, length, sizes) for item in axis.items]
    if isinstance(axis, Product):
        return [sum(steps, ()) for steps in itertools.product(*inside)]
    return [(("item", i), *steps) for i, item in enumerate(inside) for steps in item]


def sizes_of(spec: PermutationSpec) -> dict[str, int]:
    """The sizes of everything that has a name, from the groups' shapes."""
    sizes = {}
    for group, shape in spec.shapes:
        sizes[group] = shape[-1]
        sizes.update(zip(spec.along(group), shape, strict=False))
    return sizes


def rearranged(
    leaf: np.ndarray,
    axes: tuple[AxisLike, ...],
    permutations: dict[str, np.ndarray],
    sizes: dict[str, int],
) -> np.ndarray:
    """`permute` of one leaf by a loop over its entries."""
    entries = [
        entries_of(axis, length, sizes) for axis, length in zip(axes, leaf.shape, strict=True)
    ]
    position = [{steps: i for i, steps in enumerate(of_axis)} for of_axis in entries]
    after = leaf.copy()
    for place in np.ndindex(leaf.shape):
        steps = [of_axis[i] for of_axis, i in zip(entries, place, strict=True)]
        numbers = {f.name: number for f, number in sum(steps, ()) if isinstance(f, Factor)}

        def source(step: tuple, numbers: dict = numbers) -> tuple:
            factor, number = step
            if not isinstance(factor, Factor) or factor.group is None:
                return step
            beside = tuple(numbers[name] for name in factor.along)
            return factor, int(permutations[factor.group][(*beside, number)])

        came_from = [tuple(map(source, of_axis)) for of_axis in steps]
        after[place] = leaf[tuple(p[s] for p, s in zip(position, came_from, strict=True))]
    return after


def check(seed: int) -> int:
    """Permute all groups of one program together; how many there are."""
    p = draw_program(seed)
    params = p.params()
    x = p.rng.normal(size=(BATCH, NUM_INPUTS))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), (params, x))
    spec = discover(lambda params, x: p.run(jnp, params, x), *shapes)
    permutations = draw_permutations(spec, p.rng)
    permuted = {}
    for name, axes in spec.leaves:
        permuted[name] = rearranged(params[name], axes, permutations, sizes_of(spec))
    before = p.run(np, params, x)
    after = p.run(np, permuted, x)
    difference = np.abs(after - before).max() / np.abs(before).max()
    assert difference < 1e-9, (
        f"seed {seed}: outputs differ by {difference:.2g}\n{spec}\n{' '.join(p.story)}"
    )
    return len(spec.groups)


def test_no_symmetry_is_made_up_in_100_programs():
    num_groups = [check(seed) for seed in range(100)]
    assert np.count_nonzero(num_groups) > 50  # of the others, nothing was asked


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100, 20_000, 1_500))
def test_no_symmetry_is_made_up_in_many_programs(start):
    for seed in range(start, start + 1_500):
        check(seed)
