"""Rules of products: contractions, convolutions."""

from jax.extend import core

from lmcjax.symmetry._interpreter import Interpreter, Value, combine, pin_everything, rule, shapes
from lmcjax.symmetry._nodes import NodeAxis
from lmcjax.symmetry._rules._common import meet_constant


@rule("dot_general")
def dot_general(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Contracted axes are the same, so are batch axes."""
    (contracting, batch) = equation.params["dimension_numbers"]
    left, right = operands
    for pairs in (contracting, batch):
        for i, j in zip(*pairs, strict=True):
            meet_constant(interpreter, left, i, right, j)
            interpreter.nodes.merge(left.axes[i], right.axes[j])
    if left.leaves is None and right.leaves is None:
        interpreter.products += [left.axes[i] for i in contracting[0]]
    free = []
    for i, (value, other, contracted, batched) in enumerate(
        zip(operands, (right, left), contracting, batch, strict=True)
    ):
        free += [axis for j, axis in enumerate(value.axes) if j not in (*contracted, *batched)]
        interpreter.mix(value, contracted)
        interpreter.mix(
            value, [j for j in range(len(value.axes)) if j not in (*contracted, *batched)]
        )
        if other.leaves is None and value.leaves is not None:
            interpreter.use(value, contracted, "reads")
            interpreter.use(
                value, [j for j in range(len(value.axes)) if j not in contracted], "writes"
            )
            interpreter.multiply(1 - i, value, contracted, batched)
    if left.leaves and right.leaves:  # a product of parameters: a factorised kernel
        interpreter.use(left, contracting[0], "writes")
        interpreter.use(right, contracting[1], "reads")
    return [combine([*(left.axes[i] for i in batch[0]), *free], operands)]


@rule("conv_general_dilated")
def convolution(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Feature axes connect; spatial axes are pinned. Groups are products on both sides."""
    nodes, numbers = interpreter.nodes, equation.params["dimension_numbers"]
    image, kernel = operands
    (shape,) = shapes(equation)
    for value, spec in ((image, numbers.lhs_spec), (kernel, numbers.rhs_spec)):
        for i in spec[2:]:
            nodes.pin(value.axes[i], "a spatial axis of a convolution")
        interpreter.mix(value, spec[2:])
    interpreter.mix(image, numbers.lhs_spec[:1])
    features, incoming = image.axes[numbers.lhs_spec[1]], kernel.axes[numbers.rhs_spec[1]]
    outgoing, images = kernel.axes[numbers.rhs_spec[0]], image.axes[numbers.lhs_spec[0]]
    groups = int(equation.params["feature_group_count"])
    batch_groups = int(equation.params["batch_group_count"])
    if groups == 1:
        nodes.merge(features, incoming)
        interpreter.mix(kernel, numbers.rhs_spec[:1])
    else:
        group = _merge_feature_groups(interpreter, groups, features, incoming, outgoing)
        # within a group, incoming features have one permutation for all outgoing ones
        axes_of_kernel = list(kernel.axes)
        axes_of_kernel[numbers.rhs_spec[0]] = group
        interpreter.mix(kernel._replace(axes=tuple(axes_of_kernel)), [])
    if batch_groups > 1:
        images = _merge_batch_groups(interpreter, batch_groups, images, outgoing)
    if image.leaves is None and kernel.leaves is not None:
        interpreter.use(kernel, [numbers.rhs_spec[1]], "reads")
        interpreter.use(kernel, [numbers.rhs_spec[0]], "writes")
        if batch_groups == 1:
            interpreter.multiply(0, kernel, numbers.rhs_spec[1:], feature_groups=groups)
    axes: list[NodeAxis] = [nodes.axis(size, "a spatial axis of a convolution") for size in shape]
    axes[numbers.out_spec[0]], axes[numbers.out_spec[1]] = images, outgoing
    return [combine(axes, operands)]


def _merge_feature_groups(
    interpreter: Interpreter,
    groups: int,
    features: NodeAxis,
    incoming: NodeAxis,
    outgoing: NodeAxis,
) -> NodeAxis:
    """Each group of incoming features makes a group of outgoing ones. The axis of groups."""
    nodes = interpreter.nodes
    (group,) = nodes.axis(groups)
    (each,) = nodes.axis(nodes.length(outgoing) // groups)
    nodes.merge(outgoing, ((*group, *each),))
    inside = nodes.expand(incoming)
    if len(inside) > 1:
        reason = "a concatenation inside feature groups"
        nodes.misalign(incoming, reason)  # which entries of the new axis its own are is not told
        inside = nodes.axis(nodes.length(incoming), reason)
    nodes.merge(features, ((*group, *inside[0]),))
    return (group,)


def _merge_batch_groups(
    interpreter: Interpreter, groups: int, images: NodeAxis, outgoing: NodeAxis
) -> NodeAxis:
    """Each group of images makes a group of outgoing features. The images within a group."""
    nodes = interpreter.nodes
    (group,) = nodes.axis(groups)
    (each,) = nodes.axis(nodes.length(outgoing) // groups)
    nodes.merge(outgoing, ((*group, *each),))
    (rest,) = nodes.axis(nodes.length(images) // groups)
    nodes.merge(images, ((*group, *rest),))
    return (rest,)


@rule("ragged_dot_general")
def ragged_dot(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Rows come in stretches, each with a kernel of its own; where they end, the data say."""
    left, right, sizes = operands
    params = equation.params["ragged_dot_dimension_numbers"]
    (contracting, batch) = params.dot_dimension_numbers
    (ragged,) = params.lhs_ragged_dimensions
    groups = list(params.rhs_group_dimensions)
    if ragged in contracting[0] or ragged in batch[0] or len(sizes.axes) != 1:
        return pin_everything(interpreter, equation, operands)
    nodes = interpreter.nodes
    for axis in (left.axes[ragged], sizes.axes[0], *(right.axes[i] for i in groups)):
        nodes.pin(axis, "cut into stretches, one for each kernel of a ragged product")
    for pairs in (contracting, batch):
        for i, j in zip(*pairs, strict=True):
            nodes.merge(left.axes[i], right.axes[j])
    free_left = [i for i in range(len(left.axes)) if i not in (*contracting[0], *batch[0])]
    bound_right = (*contracting[1], *batch[1], *groups)
    free_right = [i for i in range(len(right.axes)) if i not in bound_right]
    interpreter.mix(left, contracting[0])
    interpreter.mix(left, free_left)
    interpreter.mix(right, [*contracting[1], *groups])
    interpreter.mix(right, [*free_right, *groups])
    if left.leaves is None and right.leaves is not None:
        interpreter.use(right, contracting[1], "reads")
        interpreter.use(right, free_right, "writes")
    axes = [left.axes[i] for i in (*batch[0], *free_left)]
    return [combine([*axes, *(right.axes[i] for i in free_right)], operands)]
