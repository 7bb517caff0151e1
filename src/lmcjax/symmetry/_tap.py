"""Taking activations out of a running network: what its kernels see and say."""

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
from lmcjax.symmetry._spec import Kernel, PermutationSpec, Place


class Taps(NamedTuple):
    """What the kernels of one network see and say; whatever is not a feature is flattened into
    samples.

    With W a kernel whose axes are put in the order `[*batch, inputs, outputs]`, the outputs are
    `inputs @ W`: biases, norms and nonlinearities come later. Convolutions see patches, look-ups
    see one-hot vectors.
    """

    inputs: dict[str, Float[Array, "*batch num_samples fan_in"]]  # per kernel
    reads: dict[
        str, dict[str, Float[Array, "*batch num_samples n"]]
    ]  # per group, per kernel that reads it
    outputs: dict[
        str, dict[str, Float[Array, "*batch num_samples n"]]
    ]  # per group, per kernel that writes it


def tap(apply: Callable[[PyTree, Any], Any], spec: PermutationSpec, params: PyTree, x: Any) -> Taps:
    """Run a network and keep what its kernels see: the inputs of each, the activations of every
    group.

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
    said = {
        k.name: kernel_outputs(k, leaves[k.leaf], inputs[k.name])
        for k in spec.kernels
        if k.name in inputs
    }
    reads: dict[str, dict[str, Array]] = {group: {} for group in spec.groups}
    outputs: dict[str, dict[str, Array]] = {group: {} for group in spec.groups}

    def activations(
        kernel: Kernel, place: Place, features: tuple[int, ...], values: Array
    ) -> Array:
        """`[*batch, num_samples, features]` to `[*batch, num_samples, n]`."""
        lengths = [jnp.shape(leaves[kernel.leaf])[i] for i in features]
        array = values.reshape(*values.shape[: len(kernel.batch)], -1, *lengths)
        return jnp.swapaxes(place.rows(array, (*kernel.batch, None, *features)), -1, -2)

    for group in spec.groups:
        for kernel, place in spec.readers(group):
            if kernel.name in inputs:
                reads[group][kernel.name] = activations(
                    kernel, place, kernel.inputs, inputs[kernel.name]
                )
        for kernel, place in spec.writers(group):
            if kernel.name in inputs:
                features = kernel.outputs(jnp.ndim(leaves[kernel.leaf]))
                outputs[group][kernel.name] = activations(
                    kernel, place, features, said[kernel.name]
                )
    return Taps(inputs, reads, outputs)


def kernel_matrix(kernel: Kernel, leaf: ArrayLike) -> Array:
    """A kernel's leaf as matrices `[*batch, fan_in, fan_out]`; with feature groups `[*batch,
    groups, fan_in, rest]`.
    """
    leaf = jnp.asarray(leaf)
    outputs = kernel.outputs(leaf.ndim)
    shape = leaf.shape
    matrix = jnp.transpose(leaf, (*kernel.batch, *kernel.inputs, *outputs))
    batch, fan_in = [shape[i] for i in kernel.batch], math.prod(shape[i] for i in kernel.inputs)
    if kernel.feature_groups == 1:
        return matrix.reshape(*batch, fan_in, -1)
    return jnp.moveaxis(matrix.reshape(*batch, fan_in, kernel.feature_groups, -1), -2, -3)


def from_kernel_matrix(kernel: Kernel, matrix: Array, shape: Sequence[int]) -> Array:
    """The leaf of which `kernel_matrix` made this."""
    order = (*kernel.batch, *kernel.inputs, *kernel.outputs(len(shape)))
    matrix = matrix if kernel.feature_groups == 1 else jnp.moveaxis(matrix, -3, -2)
    return jnp.transpose(
        matrix.reshape([shape[i] for i in order]), sorted(range(len(order)), key=order.__getitem__)
    )


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
    closed, interpreter, _ = interpret(apply, params, x)
    at: dict[Path, list[Multiplication]] = {}
    kernels = {kernel.name: kernel for kernel in spec.kernels}
    for found in multiplications(interpreter, list(named_leaves(params))):
        if (kernel := kernels.get(found.kernel.name)) is None:
            continue
        if found.kernel != kernel._replace(
            lookup=found.kernel.lookup
        ):  # which no spec written by hand says
            raise ValueError(
                f"the spec describes {kernel}, but the program has {found.kernel}, as discover would have found"
            )
        at.setdefault(found.contact.path, []).append(found)
    wanted = _Wanted(at, frozenset(path[:depth] for path in at for depth in range(1, len(path))))
    _, seen = _run(
        closed.jaxpr, closed.consts, [*jax.tree.leaves(params), *jax.tree.leaves(x)], wanted, ()
    )
    samples: dict[str, list[Array]] = {}
    for found, array in seen:
        samples.setdefault(found.kernel.name, []).append(array)
    return {
        name: jnp.concatenate(samples[name], axis=-2)
        if len(samples[name]) > 1
        else samples[name][0]
        for name in kernels
        if name in samples
    }


class _Wanted(NamedTuple):
    """What to keep of a program that is run."""

    at: Mapping[Path, Sequence[Multiplication]]
    around: frozenset[Path]  # equations that call programs in which something is wanted


_Seen: TypeAlias = list[tuple[Multiplication, Array]]


def _run(
    jaxpr: core.Jaxpr,
    consts: Sequence[Any],
    arguments: Sequence[Any],
    wanted: _Wanted,
    caller: Path,
) -> tuple[list[Any], _Seen]:
    """Run a program and return its results and what was wanted on the way."""
    environment: dict[Any, Any] = dict(
        zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True)
    )
    seen: _Seen = []

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else environment[atom]

    for number, equation in enumerate(jaxpr.eqns):
        path = (*caller, number)
        operands = [read(atom) for atom in equation.invars]
        seen += [(found, _inputs(equation, found, operands)) for found in wanted.at.get(path, ())]
        if path in wanted.around:
            results, inside = _enter(equation, operands, wanted, path)
            seen += inside
        else:
            with (
                equation.ctx.manager
            ):  # the precision and the like that were set where it was traced
                params = equation.primitive.get_bind_params(equation.params)
                results = equation.primitive.bind(*operands, **params)
            results = results if equation.primitive.multiple_results else [results]
        environment.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars], seen


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
    """A scan whose body also gives out what was wanted: a stack of layers becomes batch axes, other
    steps samples.
    """
    params = equation.params
    num_consts, num_carry = params["num_consts"], params["num_carry"]
    consts, carry, scanned = (
        operands[:num_consts],
        operands[num_consts : num_consts + num_carry],
        operands[num_consts + num_carry :],
    )
    inside: list[Multiplication] = []

    def body(
        state: list[Any], entries: list[Any]
    ) -> tuple[list[Any], tuple[list[Any], list[Array]]]:
        inner = params["jaxpr"]
        results, seen = _run(inner.jaxpr, inner.consts, [*consts, *state, *entries], wanted, path)
        inside[:] = [found for found, _ in seen]
        return results[:num_carry], (results[num_carry:], [array for _, array in seen])

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    after, (outputs, arrays) = jax.lax.scan(body, list(carry), list(scanned), **options)
    seen = []
    for found, array in zip(inside, arrays, strict=True):
        if path not in dict(found.origin.stack):  # not a stack of layers: every step gives samples
            array = jnp.moveaxis(array, 0, -3)
            array = array.reshape(*array.shape[:-3], -1, array.shape[-1])
        seen.append((found, array))
    return [*after, *outputs], seen


def _inputs(equation: core.JaxprEqn, found: Multiplication, operands: Sequence[Any]) -> Array:
    """What one equation multiplies a kernel by: `[*batch, num_samples, fan_in]`, but for the batch
    axes of scans.
    """
    data, kernel = jnp.asarray(operands[found.contact.data]), operands[1 - found.contact.data]
    if found.kernel.lookup:
        return jax.nn.one_hot(
            data.reshape(-1), kernel.shape[found.contact.inputs[0]], dtype=kernel.dtype
        )
    if equation.primitive.name == "dot_general":
        features, batch = (
            axes[found.contact.data] for axes in equation.params["dimension_numbers"]
        )
    else:
        data = _patches(equation, data, kernel.shape)
        features = tuple(range(data.ndim - len(found.contact.inputs), data.ndim))
        batch = (0,) if found.kernel.feature_groups > 1 else ()
    samples = [i for i in range(data.ndim) if i not in (*features, *batch)]
    data = jnp.transpose(data, (*batch, *samples, *features))
    data = data.reshape(*data.shape[: len(batch)], -1, *found.sizes)
    ascending = sorted(range(len(found.order)), key=found.order.__getitem__)
    data = jnp.transpose(data, (*range(len(batch) + 1), *(len(batch) + 1 + i for i in ascending)))
    return data.reshape(*data.shape[: len(batch) + 1], -1)


def _patches(equation: core.JaxprEqn, image: Array, kernel_shape: Sequence[int]) -> Array:
    """What a convolution's kernel lies on: `[num_images, *places, channels, *window]`; feature
    groups come first.
    """
    params = equation.params
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
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
    patches = patches.reshape(patches.shape[0], groups, -1, *window, *places)
    patches = jnp.moveaxis(patches, range(-len(places), 0), range(2, 2 + len(places)))
    return jnp.moveaxis(patches, 1, 0) if groups > 1 else patches[:, 0]
