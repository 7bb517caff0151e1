"""Rules of products: contractions, convolutions."""

from jax.extend import core

from lmcjax.symmetry._interpreter import Interpreter, Value, combine, pin_everything, rule, shapes
from lmcjax.symmetry._nodes import NodeAxis


@rule("dot_general")
def dot_general(
    interpreter: Interpreter, equation: core.JaxprEqn, operands: list[Value]
) -> list[Value]:
    """Contracted axes are the same, so are batch axes."""
    (contracting, batch) = equation.params["dimension_numbers"]
    left, right = operands
    for pairs in (contracting, batch):
        for i, j in zip(*pairs, strict=True):
            interpreter.nodes.merge(left.axes[i], right.axes[j])
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
    """Feature axes connect; spatial axes are pinned. Feature groups are products on both sides."""
    nodes, numbers = interpreter.nodes, equation.params["dimension_numbers"]
    image, kernel = operands
    (shape,) = shapes(equation)
    if equation.params["batch_group_count"] != 1:
        return pin_everything(interpreter, equation, operands)
    for value, spec in ((image, numbers.lhs_spec), (kernel, numbers.rhs_spec)):
        for i in spec[2:]:
            nodes.pin(value.axes[i], "a spatial axis of a convolution")
        interpreter.mix(value, spec[2:])
        interpreter.mix(value, spec[:1])
    groups = equation.params["feature_group_count"]
    features, incoming = image.axes[numbers.lhs_spec[1]], kernel.axes[numbers.rhs_spec[1]]
    outgoing = kernel.axes[numbers.rhs_spec[0]]
    if groups == 1:
        nodes.merge(features, incoming)
    else:
        (group,) = nodes.axis(groups)
        (each,) = nodes.axis(nodes.length(outgoing) // groups)
        nodes.merge(outgoing, ((*group, *each),))
        inside = nodes.expand(incoming)
        if len(inside) > 1:
            nodes.pin(incoming, "a concatenation inside feature groups")
            (single,) = nodes.axis(nodes.length(incoming), "a concatenation inside feature groups")
            inside = (single,)
        nodes.merge(features, ((*group, *inside[0]),))
    if image.leaves is None and kernel.leaves is not None:
        interpreter.use(kernel, [numbers.rhs_spec[1]], "reads")
        interpreter.use(kernel, [numbers.rhs_spec[0]], "writes")
        interpreter.multiply(0, kernel, numbers.rhs_spec[1:], feature_groups=groups)
    axes: list[NodeAxis] = [nodes.axis(size, "a spatial axis of a convolution") for size in shape]
    axes[numbers.out_spec[0]], axes[numbers.out_spec[1]] = image.axes[numbers.lhs_spec[0]], outgoing
    return [combine(axes, operands)]
