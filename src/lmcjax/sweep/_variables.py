"""Variables of the results, described beside the fields that hold them."""

from typing import Annotated, NamedTuple, get_origin, get_type_hints


class Label(NamedTuple):
    """What the results say about a variable; a field has it in its annotation.

    `barrier: Annotated[Float[Array, "split matching"], Label("nats", "max of loss minus chord")]`
    """

    units: str = ""  # "1" for a share; empty: it has no unit
    long_name: str = ""


class Variable(NamedTuple):
    """A variable of the results in one cell of the grid."""

    dimensions: tuple[str, ...]  # the first one, "pair" or "seed", numbers the rows of a batch
    label: Label = Label()

    @property
    def attributes(self) -> dict[str, str]:
        """The label as xarray has it."""
        return {name: text for name, text in self.label._asdict().items() if text}


def variables_of_fields(measured: type, rows: str) -> dict[str, Variable]:
    """Read the variables off the annotations of a NamedTuple of arrays.

    The names of an array's axes are the variable's dimensions. A field that is no array, such as a
    dict, is no variable.

    Args:
        measured: the NamedTuple.
        rows: the dimension that is prepended to each field where many are stored together.
    """
    variables = {}
    for name, annotation in get_type_hints(measured, include_extras=True).items():
        label = Label()
        if get_origin(annotation) is Annotated:
            (label,) = annotation.__metadata__
            annotation = annotation.__origin__
        # What jaxtyping's annotations keep of "split matching"; others have no such thing
        axes = getattr(annotation, "dim_str", None)
        if axes is not None:
            variables[name] = Variable((rows, *axes.split()), label)
    return variables
