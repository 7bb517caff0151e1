"""Taking activations out of a running network: what its kernels see and put out."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, ArrayLike, Float, PyTree

from lmcjax.symmetry._discover import interpret
from lmcjax.symmetry._interpreter import PROGRAMS, Path
from lmcjax.symmetry._kernels import Multiplication, multiplications
from lmcjax.symmetry._leaves import named_leaves
from lmcjax.symmetry._parts import Place
from lmcjax.symmetry._spec import Kernel, PermutationSpec


class Taps(NamedTuple):
    """What the kernels of one network see and put out; all that is no feature counts as samples.

    With W a kernel whose axes are put in the order `[*batch, inputs, outputs]`, the outputs are
    `inputs @ W`: biases, norms and nonlinearities come later. Convolutions see patches, look-ups
    see one-hot vectors.
    """

    # per kernel
    inputs: dict[str, Float[Array, "*batch num_samples fan_in"]]
    # per group, per kernel that reads it
    reads: dict[str, dict[str, Float[Array, "*batch num_samples n"]]]
    # per group, per kernel that writes it
    outputs: dict[str, dict[str, Float[Array, "*batch num_samples n"]]]


def tap(apply: Callable[[PyTree, Any], Any], spec: PermutationSpec, params: PyTree, x: Any) -> Taps:
    """Run a network and keep the inputs of every kernel and the activations of every group.

    The program of `apply` is run equation by equation. Inside a `scan`, a stack of layers gives a
    batch axis, and steps in time are samples; a kernel inside a branch or a loop of unknown length
    is left out. Under `jit`, what is not used is not computed.

    Args:
        apply: static; `apply(params, x)`.
        spec: static; found by `discover` or written by hand.
        params: any pytree of arrays that fits the spec, traced.
        x: inputs, traced.

    Raises:
        ValueError: the spec does not fit the parameters, or has a kernel whose inputs are others in
            the program.
    """
    spec = spec.bind(params)
    leaves = named_leaves(params)
    inputs = kernel_inputs(apply, spec, params, x)
    all_outputs = {}
    for kernel in spec.kernels:
        if kernel.name in inputs:
            seen = inputs[kernel.name]
            all_outputs[kernel.name] = kernel_outputs(kernel, leaves[kernel.leaf], seen)
    reads: dict[str, dict[str, Array]] = {}
    outputs: dict[str, dict[str, Array]] = {}
    for group in spec.groups:
        reads[group] = {}
        for kernel, place in spec.readers(group):
            if kernel.name in inputs:
                shape = jnp.shape(leaves[kernel.leaf])
                values = inputs[kernel.name]
                neurons = _neurons(kernel, place, kernel.inputs, shape, values)
                reads[group][kernel.name] = neurons
        outputs[group] = {}
        for kernel, place in spec.writers(group):
            if kernel.name in inputs:
                shape = jnp.shape(leaves[kernel.leaf])
                values = all_outputs[kernel.name]
                neurons = _neurons(kernel, place, kernel.outputs(len(shape)), shape, values)
                outputs[group][kernel.name] = neurons
    return Taps(inputs, reads, outputs)


def _neurons(
    kernel: Kernel,
    place: Place,
    features: tuple[int, ...],
    shape: tuple[int, ...],
    values: Array,
) -> Float[Array, "*batch num_samples n"]:
    """The activations of one group's neurons, all else counting as samples.

    Args:
        kernel: whose inputs or outputs these are.
        place: where the group stands in the kernel's leaf.
        features: the leaf's axes that make up the features.
        shape: of the leaf.
        values: `[*batch, num_samples, features]`.
    """
    lengths = [shape[i] for i in features]
    array = values.reshape(*values.shape[: len(kernel.batch)], -1, *lengths)
    rows = place.rows(array, (*kernel.batch, None, *features))
    return jnp.swapaxes(rows, -1, -2)


def kernel_matrix(kernel: Kernel, leaf: ArrayLike) -> Array:
    """A kernel's leaf as matrices `[*batch, fan_in, fan_out]`.

    With feature groups, `[*batch, groups, fan_in, rest]`.
    """
    leaf = jnp.asarray(leaf)
    outputs = kernel.outputs(leaf.ndim)
    matrix = jnp.transpose(leaf, (*kernel.batch, *kernel.inputs, *outputs))
    batch = [leaf.shape[i] for i in kernel.batch]
    fan_in = math.prod(leaf.shape[i] for i in kernel.inputs)
    if kernel.feature_groups == 1:
        return matrix.reshape(*batch, fan_in, -1)
    matrix = matrix.reshape(*batch, fan_in, kernel.feature_groups, -1)
    return jnp.moveaxis(matrix, -2, -3)


def from_kernel_matrix(kernel: Kernel, matrix: Array, shape: Sequence[int]) -> Array:
    """The leaf of which `kernel_matrix` made this."""
    order = (*kernel.batch, *kernel.inputs, *kernel.outputs(len(shape)))
    if kernel.feature_groups > 1:
        matrix = jnp.moveaxis(matrix, -3, -2)
    array = matrix.reshape([shape[i] for i in order])
    return jnp.transpose(array, _inverse(order))


def kernel_outputs(
    kernel: Kernel, leaf: ArrayLike, inputs: Array
) -> Float[Array, "*batch num_samples fan_out"]:
    """`inputs @ W`; of a convolution with feature groups, the groups' outputs side by side."""
    outputs = inputs @ kernel_matrix(kernel, leaf).astype(inputs.dtype)
    if kernel.feature_groups == 1:
        return outputs
    outputs = jnp.moveaxis(outputs, -3, -2)
    return outputs.reshape(*outputs.shape[:-2], -1)


def kernel_inputs(
    apply: Callable[[PyTree, Any], Any], spec: PermutationSpec, params: PyTree, x: Any
) -> dict[str, Float[Array, "*batch num_samples fan_in"]]:
    """What the kernels of a bound spec see, by kernel; arguments and errors as of `tap`."""
    return KernelTap(apply, spec, list(named_leaves(params)))(params, x)


class KernelTap:
    """Runs a network again and again, and gives the inputs of its kernels each time.

    The program is interpreted once for each set of shapes, at the first call that has them. Make
    one within the function that uses it and let it go with it: `apply` may close over traced
    values, which must not outlive their trace.

    Args:
        apply: static; `apply(params, x)`.
        spec: static, bound.
        names: static; of the parameters' leaves, in the tree's order.
    """

    def __init__(
        self, apply: Callable[[PyTree, Any], Any], spec: PermutationSpec, names: Sequence[str]
    ):
        self._apply = apply
        self._names = names
        self._kernels = {kernel.name: kernel for kernel in spec.kernels}
        self._programs: dict[tuple, _Program] = {}

    def __call__(
        self, params: PyTree, x: Any
    ) -> dict[str, Float[Array, "*batch num_samples fan_in"]]:
        """What each kernel sees; arguments and errors as of `tap`."""
        arguments, structure = jax.tree.flatten((params, x))
        shapes = tuple((jnp.shape(array), jnp.result_type(array)) for array in arguments)
        if (structure, shapes) not in self._programs:
            self._programs[structure, shapes] = self._interpret(params, x)
        program = self._programs[structure, shapes]
        _, seen = _run(program.jaxpr, program.consts, arguments, program.wanted, ())
        samples: dict[str, list[Array]] = {}
        for multiplication, array in seen:
            samples.setdefault(multiplication.kernel.name, []).append(array)
        inputs = {}
        for name in self._kernels:
            if name in samples:
                inputs[name] = _join_samples(samples[name])
        return inputs

    def _interpret(self, params: PyTree, x: Any) -> "_Program":
        """The program for these shapes, and where the kernels meet the data in it."""
        closed, interpreter, _ = interpret(self._apply, params, x)
        at: dict[Path, list[Multiplication]] = {}
        for multiplication in multiplications(interpreter, self._names):
            found = multiplication.kernel
            kernel = self._kernels.get(found.name)
            if kernel is None:
                continue
            # a spec written by hand doesn't say which kernels are looked up in
            if found != kernel._replace(lookup=found.lookup):
                raise ValueError(
                    f"the spec describes {kernel}, but the program has {found}, "
                    "as discover would have found"
                )
            at.setdefault(multiplication.contact.path, []).append(multiplication)
        around = set()
        for path in at:
            for depth in range(1, len(path)):
                around.add(path[:depth])
        return _Program(closed.jaxpr, closed.consts, _Wanted(at, frozenset(around)))


class _Wanted(NamedTuple):
    """What to keep of a program that is run."""

    at: Mapping[Path, Sequence[Multiplication]]
    around: frozenset[Path]  # equations that call programs in which something is wanted


class _Program(NamedTuple):
    """An interpreted program."""

    jaxpr: core.Jaxpr
    consts: Sequence[Any]
    wanted: _Wanted


def _join_samples(arrays: Sequence[Array]) -> Array:
    """All that one kernel sees, where weights are shared: one use after the other."""
    if len(arrays) == 1:
        return arrays[0]
    return jnp.concatenate(arrays, axis=-2)


_Seen: TypeAlias = list[tuple[Multiplication, Array]]


def _run(
    jaxpr: core.Jaxpr,
    consts: Sequence[Any],
    arguments: Sequence[Any],
    wanted: _Wanted,
    caller: Path,
) -> tuple[list[Any], _Seen]:
    """Run a program and return its results and what was wanted on the way."""
    environment: dict[Any, Any] = {}
    environment.update(zip(jaxpr.constvars, consts, strict=True))
    environment.update(zip(jaxpr.invars, arguments, strict=True))
    seen: _Seen = []

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else environment[atom]

    for number, equation in enumerate(jaxpr.eqns):
        path = (*caller, number)
        operands = [read(atom) for atom in equation.invars]
        for multiplication in wanted.at.get(path, ()):
            seen.append((multiplication, _inputs(equation, multiplication, operands)))
        if path in wanted.around:
            results, inside = _enter(equation, operands, wanted, path)
            seen += inside
        else:
            results = _evaluate(equation, operands)
        environment.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars], seen


def _evaluate(equation: core.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """The results of one equation."""
    with equation.ctx.manager:  # the precision and the like that were set where it was traced
        params = equation.primitive.get_bind_params(equation.params)
        results = equation.primitive.bind(*operands, **params)
    return list(results) if equation.primitive.multiple_results else [results]


def _enter(
    equation: core.JaxprEqn, operands: Sequence[Any], wanted: _Wanted, path: Path
) -> tuple[list[Any], _Seen]:
    """Run an equation that calls a program."""
    if equation.primitive.name == "scan":
        return _scan(equation, operands, wanted, path)
    inner = next(equation.params[name] for name in PROGRAMS if name in equation.params)
    if isinstance(inner, core.ClosedJaxpr):
        return _run(inner.jaxpr, inner.consts, operands, wanted, path)
    return _run(inner, [], operands, wanted, path)


def _scan(
    equation: core.JaxprEqn, operands: Sequence[Any], wanted: _Wanted, path: Path
) -> tuple[list[Any], _Seen]:
    """Run a scan whose body also gives out what was wanted.

    A stack of layers becomes batch axes. Where the steps are no stack, they are samples.
    """
    params = equation.params
    inner = params["jaxpr"]
    num_consts = params["num_consts"]
    num_carry = params["num_carry"]
    consts = operands[:num_consts]
    carry = operands[num_consts : num_consts + num_carry]
    scanned = operands[num_consts + num_carry :]
    multiplications_inside: list[Multiplication] = []

    def body(
        state: list[Any], entries: list[Any]
    ) -> tuple[list[Any], tuple[list[Any], list[Array]]]:
        results, seen = _run(inner.jaxpr, inner.consts, [*consts, *state, *entries], wanted, path)
        # static, so it leaves the body by the side; the body may be traced more than once
        multiplications_inside[:] = [multiplication for multiplication, _ in seen]
        arrays = [array for _, array in seen]
        return results[:num_carry], (results[num_carry:], arrays)

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    after, (outputs, arrays) = jax.lax.scan(body, list(carry), list(scanned), **options)
    seen = []
    for multiplication, array in zip(multiplications_inside, arrays, strict=True):
        is_stack = path in dict(multiplication.origin.stack)
        if not is_stack:  # every step gives samples
            array = jnp.moveaxis(array, 0, -3)
            array = array.reshape(*array.shape[:-3], -1, array.shape[-1])
        seen.append((multiplication, array))
    return [*after, *outputs], seen


def _inputs(
    equation: core.JaxprEqn, multiplication: Multiplication, operands: Sequence[Any]
) -> Array:
    """What one equation multiplies a kernel by: `[*batch, num_samples, fan_in]`.

    The batch axes are the equation's own; those of scans around it come later.
    """
    contact = multiplication.contact
    data = jnp.asarray(operands[contact.data])
    kernel = operands[1 - contact.data]
    if multiplication.kernel.lookup:
        num_entries = kernel.shape[contact.inputs[0]]
        return jax.nn.one_hot(data.reshape(-1), num_entries, dtype=kernel.dtype)
    features: Sequence[int]
    batch: Sequence[int]
    if equation.primitive.name == "dot_general":
        contracted, batched = equation.params["dimension_numbers"]
        features = contracted[contact.data]
        batch = batched[contact.data]
    else:
        data = _patches(equation, data, kernel.shape)
        features = range(data.ndim - len(contact.inputs), data.ndim)
        batch = (0,) if multiplication.kernel.feature_groups > 1 else ()
    samples = [i for i in range(data.ndim) if i not in (*features, *batch)]
    data = jnp.transpose(data, (*batch, *samples, *features))
    data = data.reshape(*data.shape[: len(batch)], -1, *multiplication.sizes)
    # the features in the order in which the leaf has them, not the equation
    num_leading = len(batch) + 1
    ascending = [num_leading + i for i in _inverse(multiplication.order)]
    data = jnp.transpose(data, (*range(num_leading), *ascending))
    return data.reshape(*data.shape[:num_leading], -1)


def _inverse(order: Sequence[int]) -> list[int]:
    """Positions sorted by what stands there: of a permutation, its inverse."""
    return sorted(range(len(order)), key=order.__getitem__)


def _patches(equation: core.JaxprEqn, image: Array, kernel_shape: Sequence[int]) -> Array:
    """What a convolution's kernel lies on: `[num_images, *places, channels, *window]`.

    Feature groups, if there are several, come first.
    """
    params = equation.params
    numbers = params["dimension_numbers"]
    num_groups = params["feature_group_count"]
    window = [kernel_shape[i] for i in numbers.rhs_spec[2:]]
    patches = jax.lax.conv_general_dilated_patches(
        jnp.transpose(image, numbers.lhs_spec),
        window,
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        precision=jax.lax.Precision.HIGHEST,
    )
    places = patches.shape[2:]
    patches = patches.reshape(patches.shape[0], num_groups, -1, *window, *places)
    patches = jnp.moveaxis(patches, range(-len(places), 0), range(2, 2 + len(places)))
    if num_groups == 1:
        return patches[:, 0]
    return jnp.moveaxis(patches, 1, 0)
