"""What every matching algorithm returns, and keeping it in a file."""

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from jaxtyping import Array, Bool, Float, Int
from safetensors.numpy import load_file, save_file

from lmcjax._powers_of_two import in_original_unit
from lmcjax.transport import AssignmentCertificate

_BY_GROUP = ("permutations", "objective", "identity_objective", "alignments")
_IN_PRODUCTS = (  # what is in the unit of products of two weights
    "objective",
    "identity_objective",
    "certificate",
    "total_objective",
    "total_identity_objective",
    "restart_objectives",
)


class Matching(NamedTuple):
    """One pair of networks, matched, by whichever algorithm; `vmap` prepends axes to every field.

    `permutations[g][i]` is the neuron of B that takes the place of A's neuron `i`. The objectives are, per group, in
    the unit of the algorithm's similarity, at the permutations that every other group has in the end (or had when the
    group's turn came, where one pass is all there is); they are comparable within one matching, not between
    similarities. Where an algorithm has one objective for the whole network, that stands in `total_objective`: a leaf
    on which two groups act counts once in it, and in both groups' objectives. A search for a small loss says in `loss`
    what it has found. None: the algorithm has none such.

    `match_layerwise`, `match_weights` and `match_frank_wolfe` solve their assignments in a unit in
    which each network's largest weight is about 1, and report in the unit of the weights. So the
    permutations, `finite`, `converged` and `optimal` do not depend on the size of the weights. Where
    an objective, or a number of a certificate, cannot be written in its dtype, it says so: inf (or
    -inf) is too large, nan is smaller than the smallest normal number, and 0 is exactly 0. `finite`
    speaks of the similarities that were compared: where it is True, such an inf or nan means no more.
    """

    permutations: dict[str, Int[Array, "*batch n"]]  # none from `match_soft`, which has `alignments` instead
    objective: dict[str, Float[Array, ""]]  # the similarity that was reached
    identity_objective: dict[str, Float[Array, ""]]  # what leaving B's neurons in place would have given, if it can be
    iterations: Int[Array, ""]  # passes over the groups, or steps of the algorithm
    converged: Bool[Array, ""]
    finite: Bool[Array, ""]  # False: some similarity compared was nan or inf, and identity stands where it was
    certificate: dict[str, AssignmentCertificate] | None = None  # of each group's permutation, the others' given
    total_objective: Float[Array, ""] | None = None  # of the whole network
    total_identity_objective: Float[Array, ""] | None = None  # with all of B's neurons in place
    restart_objectives: Float[Array, " restarts"] | None = None  # total of each restart; the best was kept
    loss: Float[Array, ""] | None = None  # of a search, at the permutations, its objective's unit; smaller is better
    identity_loss: Float[Array, ""] | None = None  # with all of B's neurons in place, and the same key
    trace: Float[Array, " num_values"] | None = None  # of a search: the loss at each step, where it stood then
    alignments: dict[str, Float[Array, "*batch n_a n_b"]] | None = None  # soft ones, for `apply_soft`: rows sum to 1

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the matching to one safetensors file.

        Raises:
            FileExistsError: the file is already there; matchings are never overwritten silently.
        """
        if os.path.exists(path):
            raise FileExistsError(f"{os.fspath(path)} already exists")
        tensors = {name: np.array(value, order="C") for name, value in self._named().items()}
        save_file(tensors, path, metadata={"format": "lmcjax.Matching", "version": "1"})

    def _named(self) -> dict[str, Array]:
        """Every array by its name in the file: `objective/group`, `certificate.gap/group`, `finite`."""
        named: dict[str, Array] = {}
        for field, value in self._asdict().items():
            if field == "certificate":
                for group, parts in (value or {}).items():
                    named |= {f"certificate.{part}/{group}": array for part, array in parts._asdict().items()}
            elif isinstance(value, dict):
                named |= {f"{field}/{group}": array for group, array in value.items()}
            elif value is not None:
                named[field] = value
        return named

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
        proofs = {f"certificate.{part}": part for part in AssignmentCertificate._fields}
        fields: dict = {field: {} for field in _BY_GROUP}
        certificate: dict[str, dict[str, Array]] = {}
        for name, tensor in tensors.items():
            field, _, group = name.partition("/")
            known = field in proofs or (field in cls._fields and field != "certificate")
            if not known or bool(group) != (field in proofs or field in _BY_GROUP):
                raise ValueError(f"{os.fspath(path)} is no saved matching: it holds a tensor {name!r}")
            if field in proofs:
                certificate.setdefault(group, {})[proofs[field]] = jnp.asarray(tensor)
            elif group:
                fields[field][group] = jnp.asarray(tensor)
            else:
                fields[field] = jnp.asarray(tensor)
        missing = [field for field in cls._fields if field not in fields and field not in cls._field_defaults]
        missing += [f"{n}/{g}" for g, parts in certificate.items() for n, part in proofs.items() if part not in parts]
        if missing:
            raise ValueError(f"{os.fspath(path)} is no saved matching: it lacks {missing}")
        fields["alignments"] = fields["alignments"] or None
        if certificate:
            fields["certificate"] = {group: AssignmentCertificate(**parts) for group, parts in certificate.items()}
        return cls(**fields)


def in_unit_of_weights(matching: Matching, exponent: Int[Array, ""]) -> Matching:
    """Objectives and certificates times `2^exponent`, by which the products of weights were divided."""

    def restore(leaf: Array) -> Array:
        return leaf if leaf.dtype == bool else in_original_unit(leaf, exponent)

    restored = {}
    for name in _IN_PRODUCTS:
        restored[name] = jax.tree.map(restore, getattr(matching, name))
    return matching._replace(**restored)
