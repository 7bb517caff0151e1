"""Variables that are described beside the fields that hold them."""

from typing import Annotated, NamedTuple

from jaxtyping import Array, Bool, Float, Int

from lmcjax.sweep._variables import Label, Variable, variables_of_fields


class Measured(NamedTuple):
    loss: Annotated[Float[Array, "split t"], Label("nats", "mean")]
    accuracy: Annotated[Float[Array, "split"], Label("1")]
    finite: Bool[Array, ""]
    permutations: dict[str, Int[Array, " n"]]


def test_dimensions_and_labels_are_read_off_the_annotations():
    assert variables_of_fields(Measured, rows="pair") == {
        "loss": Variable(("pair", "split", "t"), Label("nats", "mean")),
        "accuracy": Variable(("pair", "split"), Label("1")),
        "finite": Variable(("pair",)),
    }


def test_what_a_label_leaves_out_is_no_attribute():
    assert Variable((), Label("1")).attributes == {"units": "1"}
    assert Variable((), Label(long_name="mean")).attributes == {"long_name": "mean"}
    assert Variable(()).attributes == {}
