"""Abstract interpretation of a jaxpr: every axis of every value becomes an index set.

Index sets are those of `_nodes`. The invariant: if a permutation acts on an index set wherever it
occurs in the parameters, every value of the program is permuted along the axes that carry it, and
along no other. A rule per primitive keeps it, by merging index sets or by pinning them. A primitive
without a rule pins everything that it touches.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jax.extend import core, source_info_util

from lmcjax.symmetry._nodes import NodeAxis, Nodes, Piece, Pin

Path: TypeAlias = tuple[int, ...]
"""Where an equation stands: its number, and so on into the programs that equations call."""


class Origin(NamedTuple):
    """A value carries the entries of a leaf, in order, moved about but not mixed."""

    leaf: int
    # per axis of the value: the leaf's axes that it runs over; None: unknown
    axes: tuple[tuple[int, ...] | None, ...]
    # scans of whose stacks this is one entry, and the leaf's axis of each
    stack: tuple[tuple[Path, int], ...] = ()


class Value(NamedTuple):
    """An intermediate value, as discovery sees it."""

    axes: tuple[NodeAxis, ...]
    leaves: frozenset[int] | None  # the parameter leaves it is made of alone; None: the data enter
    # index sets of a `scan` over stacked layers, of which this is one entry
    stacked: frozenset[int] = frozenset()
    origins: tuple[Origin, ...] = ()
    # made of constants alone: all its entries are equal along any index set that is not pinned
    uniform: bool = False
    # its entries are positions along this axis, which is pinned as soon as anything reads them
    positions: NodeAxis | None = None


class Blocks(NamedTuple):
    """A value in blocks, laid end to end along one axis; each has index sets of its own.

    The rules of `_rules._blocks` make them and treat an equation on them as one per block; for all
    other rules they are joined.
    """

    axis: int
    values: tuple[Value, ...]  # of the same length along the axis


Operand: TypeAlias = Value | Blocks


def blocks_of(operand: Operand) -> tuple[Value, ...]:
    """The blocks of a value; of one that is not in blocks, itself."""
    return operand.values if isinstance(operand, Blocks) else (operand,)


class Use(NamedTuple):
    """A value made of parameters alone meets the data."""

    leaves: frozenset[int]
    axis: NodeAxis
    role: Literal["writes", "reads"]


class Contact(NamedTuple):
    """An equation in which the data are multiplied by a leaf, or look it up."""

    path: Path
    data: int  # which operand the data are
    kernel: Value
    inputs: tuple[int, ...]  # axes of the kernel value that meet the data's features
    batch: tuple[int, ...]  # axes of the kernel value along which every entry meets data of its own
    feature_groups: int  # of a convolution
    lookup: bool  # the data are positions along the one input axis


@dataclasses.dataclass
class Interpreter:
    """State of one discovery; `run` a jaxpr on values."""

    nodes: Nodes = dataclasses.field(default_factory=Nodes)
    # every value seen, in the program's order
    values: list[Value] = dataclasses.field(default_factory=list)
    uses: list[Use] = dataclasses.field(default_factory=list)
    # what products of data with data contract, as those of queries with keys
    products: list[NodeAxis] = dataclasses.field(default_factory=list)
    # parameter leaves, in order of first use
    order: dict[int, None] = dataclasses.field(default_factory=dict)
    contacts: list[Contact] = dataclasses.field(default_factory=list)
    # primitive, source line
    unknown: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    path: Path = ()  # of the equation at hand
    leaf_shapes: Sequence[tuple[int, ...]] = ()
    assume_no_ties: bool = False  # no two entries that are compared to be sorted are equal
    # False: inside a branch or a loop of unknown length, whose values cannot be taken out
    repeatable: bool = True
    in_blocks: bool = False  # reshapes may take values apart into blocks

    @property
    def source(self) -> str:
        """The line of the equation at hand."""
        return self.nodes.source or "unknown line"

    def run(
        self, jaxpr: core.Jaxpr, consts: Sequence[Value], arguments: Sequence[Operand]
    ) -> list[Operand]:
        """The values of the jaxpr's results, given those of its constants and arguments.

        Results may be positions; whoever uses these without `read_positions` loses a constraint.
        """
        environment: dict[Any, Operand] = dict(
            zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True)
        )

        def read(atom: Any) -> Operand:
            if isinstance(atom, core.Literal):
                return self.constant(atom.val)
            value = environment[atom]
            if isinstance(value, Value) and value.uniform:
                return self.detach(value)
            return value

        caller = self.path
        for number, equation in enumerate(jaxpr.eqns):
            self.path = (*caller, number)
            operands = [read(atom) for atom in equation.invars]
            results = self._apply(equation, operands)
            for result in itertools.chain.from_iterable(map(blocks_of, results)):
                self.values.append(result)
                if result.positions is not None:  # stands beside the axis along which they are
                    self.values.append(result._replace(axes=(*result.axes, result.positions)))
            environment.update(zip(equation.outvars, results, strict=True))
        self.path = caller
        return [read(atom) for atom in jaxpr.outvars]

    def run_closed(self, closed: core.ClosedJaxpr, arguments: Sequence[Value]) -> list[Value]:
        """The same with the constants that the jaxpr carries, blocks joined, and positions read."""
        results = [self.join(result) for result in self.call_closed(closed, arguments)]
        return self.read_positions(results)

    def call_closed(self, closed: core.ClosedJaxpr, arguments: Sequence[Operand]) -> list[Operand]:
        """The same, for an equation whose results are the program's own."""
        return self.run(closed.jaxpr, [self.constant(value) for value in closed.consts], arguments)

    def read_positions(self, values: Sequence[Value]) -> list[Value]:
        """Something looks at these values: axes along which they are positions are pinned."""
        read = []
        for value in values:
            if value.positions is not None:
                self.nodes.pin(value.positions, "positions along it are read as numbers")
                value = value._replace(positions=None)
            read.append(value)
        return read

    def join(self, operand: Operand) -> Value:
        """The whole of a value in blocks, whose other axes are then the same in all of them."""
        if isinstance(operand, Value):
            return operand
        first = operand.values[0]
        for value in operand.values[1:]:
            for i, axis in enumerate(value.axes):
                if i != operand.axis:
                    self.nodes.merge(first.axes[i], axis)
        axes = list(first.axes)
        axes[operand.axis] = tuple(
            piece for value in operand.values for piece in value.axes[operand.axis]
        )
        return combine(axes, operand.values)

    def _apply(self, equation: core.JaxprEqn, operands: list[Operand]) -> Sequence[Operand]:
        if not _calls_a_program(equation):
            for operand in itertools.chain.from_iterable(map(blocks_of, operands)):
                self.order.update(dict.fromkeys(operand.leaves or ()))
        caller = self.nodes.source
        # JAX's own programs name no line
        self.nodes.source = source_info_util.summarize(equation.source_info) or caller
        by_block = BLOCK_RULES.get(equation.primitive.name)
        results = None if by_block is None else by_block(self, equation, operands)
        if results is None:
            whole = [self.join(operand) for operand in operands]
            results = self._apply_to_whole(equation, whole)
        self.nodes.source = caller
        return results

    def _apply_to_whole(self, equation: core.JaxprEqn, operands: list[Value]) -> list[Value]:
        rule = RULES.get(equation.primitive.name)
        if rule is None:
            self.unknown.append((equation.primitive.name, self.source))
            rule = pin_everything
        if equation.primitive.name not in PASS_POSITIONS:
            operands = self.read_positions(operands)
        return rule(self, equation, operands)

    def constant(self, array: Any) -> Value:
        """A concrete array: free along axes on which it is uniform, pinned along the others."""
        try:
            array = np.asarray(array)
            uniform = [bool((array == array.take([0], axis=i)).all()) for i in range(array.ndim)]
        except (TypeError, IndexError):  # random keys, empty arrays
            uniform = [False] * np.ndim(array)
        pin = self.constant_pin("a constant that is not uniform along it")
        pins = [None if same else pin for same in uniform]
        axes = (self.nodes.axis(size, pin) for size, pin in zip(np.shape(array), pins, strict=True))
        return Value(tuple(axes), frozenset(), uniform=True)

    def constant_pin(self, reason: str) -> Pin:
        """Why nothing may permute an axis of a constant."""
        return Pin(reason, self.nodes.source, of_constant=True)

    def detach(self, value: Value) -> Value:
        """A uniform value with index sets of its own, in place of those that are not pinned.

        Each use of a constant gets its own. Two layers that both start from zeros need not share a
        permutation of their neurons, for no permutation changes zeros.
        """
        axes = []
        for axis in value.axes:
            pieces = [self._detach_piece(piece) for piece in self.nodes.expand(axis)]
            axes.append(tuple(pieces))
        return value._replace(axes=tuple(axes))

    def _detach_piece(self, piece: Piece) -> Piece:
        nodes = self.nodes
        factors: list[int] = []
        free = 1  # how many entries those factors have together that come one after the other
        for node in piece:
            stretches = nodes.stretches(node)
            if stretches is None and nodes.pinned(node) is None:
                free *= nodes.size(node)
                continue
            if free != 1:
                factors.append(nodes.new(free))
                free = 1
            if stretches is None:
                factors.append(node)
            else:  # of different numbers, perhaps
                detached = tuple(self._detach_piece(stretch) for stretch in stretches)
                factors.append(nodes.concatenation(detached))
        if free != 1:
            factors.append(nodes.new(free))
        return tuple(factors)

    def fresh(
        self, shape: Sequence[int], like: Sequence[Value], pinned: str | Pin | None = None
    ) -> Value:
        """A value of new index sets, made of the same things as `like`."""
        return combine([self.nodes.axis(size, pinned) for size in shape], like)

    def use(self, value: Value, axes: Sequence[int], role: Literal["writes", "reads"]) -> None:
        """Note that some axes of a value made of parameters write or read what the data carry."""
        if value.leaves:
            self.uses.extend(Use(value.leaves, value.axes[axis], role) for axis in axes)

    def multiply(
        self,
        data: int,
        kernel: Value,
        inputs: Sequence[int],
        batch: Sequence[int] = (),
        *,
        feature_groups: int = 1,
        lookup: bool = False,
    ) -> None:
        """Note that the data are multiplied by a kernel, or look it up.

        The data are operand `data` of the equation at hand.
        """
        if self.repeatable:
            contact = Contact(
                self.path, data, kernel, tuple(inputs), tuple(batch), feature_groups, lookup
            )
            self.contacts.append(contact)

    @contextlib.contextmanager
    def unrepeatable(self) -> Iterator[None]:
        """Inside a branch or a loop of unknown length: nothing can be taken out."""
        before, self.repeatable = self.repeatable, False
        yield
        self.repeatable = before

    def mix(self, value: Value, axes: Sequence[int]) -> None:
        """Note that entries along some axes of a value are mixed.

        No permutation of its other axes varies along these. The other axes by themselves count as a
        value seen. The result's own axes do not tell: they may be merged with the mixed ones later,
        as where a sum over a stack of layers is added to the stack.
        """
        rest = tuple(axis for i, axis in enumerate(value.axes) if i not in axes)
        self.values.append(value._replace(axes=rest, origins=()))

    def meet(self, operands: Sequence[Value]) -> None:
        """Operands that are combined entry by entry: parameters among data write."""
        if any(value.leaves is None for value in operands):
            for value in operands:
                self.use(value, range(len(value.axes)), "writes")


def combine(
    axes: Sequence[NodeAxis], operands: Sequence[Value], origins: tuple[Origin, ...] = ()
) -> Value:
    """A result with these axes, made of the operands' leaves.

    It is inside the scans that any of the operands is inside of.
    """
    leaves: frozenset[int] | None = frozenset()
    stacked: frozenset[int] = frozenset()
    uniform = all(operand.uniform for operand in operands)
    for operand in operands:
        leaves = None if leaves is None or operand.leaves is None else leaves | operand.leaves
        stacked |= operand.stacked
    return Value(tuple(axes), leaves, stacked, origins, uniform)


# parameters of equations that hold programs
PROGRAMS = ("jaxpr", "call_jaxpr", "fun_jaxpr", "branches", "body_jaxpr")

# their programs work on single entries, and are not entered
_OF_ENTRIES = ("reduce", "reduce_window")


def _calls_a_program(equation: core.JaxprEqn) -> bool:
    """Whether what the equation does with its operands is seen inside."""
    if equation.primitive.name in _OF_ENTRIES:
        return False
    return any(name in equation.params for name in PROGRAMS)


Rule = Callable[[Interpreter, core.JaxprEqn, list[Value]], list[Value]]
RULES: dict[str, Rule] = {}

BlockRule = Callable[[Interpreter, core.JaxprEqn, Sequence[Operand]], Sequence[Operand] | None]
# of primitives some of whose operands need not be joined; the result is None where they do
BLOCK_RULES: dict[str, BlockRule] = {}


# primitives that do not look at what they pass on
PASS_POSITIONS: set[str] = set()


def rule(*names: str, passes_positions: bool = False) -> Callable[[Rule], Rule]:
    """Register the rule of some primitives.

    Args:
        passes_positions: the rule takes care of operands whose entries are positions along an axis.
    """

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        if passes_positions:
            PASS_POSITIONS.update(names)
        return function

    return register


def block_rule(*names: str) -> Callable[[BlockRule], BlockRule]:
    """Register the rule of some primitives for operands some of which may be in blocks."""

    def register(function: BlockRule) -> BlockRule:
        BLOCK_RULES.update(dict.fromkeys(names, function))
        return function

    return register


def shapes(equation: core.JaxprEqn) -> list[tuple[int, ...]]:
    """Shapes of an equation's results."""
    return [tuple(getattr(var.aval, "shape", ())) for var in equation.outvars]


def pin_everything(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """For primitives that nobody has thought about: nothing that they touch may be permuted."""
    name = equation.primitive.name
    known = "" if name in RULES else ", which is not known"
    reason = f"touched by primitive {name!r}{known}"
    for operand in operands:
        for axis in operand.axes:
            interpreter.nodes.pin(axis, reason)
    return [interpreter.fresh(shape, operands, reason) for shape in shapes(equation)]
