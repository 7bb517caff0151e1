"""The leaves that the data are multiplied by, as the interpretation of a program found them."""

from collections.abc import Sequence
from typing import NamedTuple

from lmcjax.symmetry._interpreter import Contact, Interpreter, Origin
from lmcjax.symmetry._spec import Kernel


class Multiplication(NamedTuple):
    """One equation in which the data meet one kernel.

    Several share a kernel where weights are shared.
    """

    kernel: Kernel
    contact: Contact
    origin: Origin
    order: tuple[int, ...]  # the leaf's input axes as the equation has them
    sizes: tuple[int, ...]  # their lengths


def multiplications(interpreter: Interpreter, names: Sequence[str]) -> list[Multiplication]:
    """Every kernel in the program's order, except those whose entries were mixed on the way."""
    found: list[Multiplication] = []
    kernels: dict[tuple, Kernel] = {}
    for contact in interpreter.contacts:
        for origin in contact.kernel.origins:
            order = _flatten(origin, contact.inputs)
            batch = _flatten(origin, contact.batch)
            if order is None or batch is None:
                continue
            stacked = tuple(axis for _, axis in origin.stack)
            leaf, inputs = names[origin.leaf], tuple(sorted(order))
            use = (leaf, inputs, (*stacked, *batch), contact.feature_groups, contact.lookup)
            if use not in kernels:
                number = 1 + sum(kernel.leaf == leaf for kernel in kernels.values())
                kernels[use] = Kernel(leaf if number == 1 else f"{leaf} ({number})", *use)
            sizes = tuple(interpreter.leaf_shapes[origin.leaf][i] for i in order)
            found.append(Multiplication(kernels[use], contact, origin, order, sizes))
    return found


def _flatten(origin: Origin, axes: Sequence[int]) -> tuple[int, ...] | None:
    """The leaf's axes that some axes of the value run over."""
    runs = [origin.axes[i] for i in axes]
    if any(run is None for run in runs):
        return None
    return tuple(axis for run in runs if run for axis in run)
