"""What every matching algorithm returns, and keeping it in a file."""

import os
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
from jaxtyping import Array, Bool, Float, Int
from safetensors.numpy import load_file, save_file


class Matching(NamedTuple):
    """One pair of networks, matched; `vmap` prepends axes to every field.

    `permutations[g][i]` is the neuron of B that takes the place of A's neuron `i`. The objectives are, per group, in
    the unit of the algorithm's similarity; they are comparable within one matching, not between similarities.
    """

    permutations: dict[str, Int[Array, "*batch n"]]
    objective: dict[str, Float[Array, ""]]  # the similarity that was reached
    identity_objective: dict[str, Float[Array, ""]]  # what leaving B's neurons in place would have given
    iterations: Int[Array, ""]  # passes over the groups
    converged: Bool[Array, ""]
    finite: Bool[Array, ""]  # False: some similarity was nan or inf, and identity stands where it was

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the matching to one safetensors file.

        Raises:
            FileExistsError: the file is already there; matchings are never overwritten silently.
        """
        if os.path.exists(path):
            raise FileExistsError(f"{os.fspath(path)} already exists")
        tensors = {}
        for field, value in self._asdict().items():
            named = {f"{field}/{group}": v for group, v in value.items()} if isinstance(value, dict) else {field: value}
            tensors.update({name: np.array(v, order="C") for name, v in named.items()})
        save_file(tensors, path, metadata={"format": "lmcjax.Matching", "version": "1"})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Matching":
        """Read a matching that `save` wrote.

        Raises:
            ValueError: the file is no matching, or damaged.
        """
        try:
            tensors = load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{os.fspath(path)} is not a readable safetensors file: {error}") from error
        fields: dict = {field: {} for field in cls._fields[:3]}
        for name, tensor in tensors.items():
            field, _, group = name.partition("/")
            if field not in cls._fields or bool(group) != (field in cls._fields[:3]):
                raise ValueError(f"{os.fspath(path)} is no saved matching: it holds a tensor {name!r}")
            if group:
                fields[field][group] = jnp.asarray(tensor)
            else:
                fields[field] = jnp.asarray(tensor)
        if missing := [field for field in cls._fields if field not in fields]:
            raise ValueError(f"{os.fspath(path)} is no saved matching: it lacks {missing}")
        return cls(**fields)
