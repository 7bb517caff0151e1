"""Why a match failed: three signatures, each a number beside its threshold, and what to try."""

import math
from collections.abc import Collection
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Num, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax.evaluation._barrier import BarrierResult
from lmcjax.symmetry import (
    Permutations,
    PermutationSpec,
    check_permutations,
    check_same_shapes,
    groups_of,
    named_leaves,
    permute_leaf,
)
from lmcjax.theory import ExponentFit

_ADVICE = {
    "barrier": (
        "wider layers, a larger learning rate, "
        "similarity=Covariance(moments) or Activations(moments)"
    ),
    "reduction": (
        "another similarity; independence_test, since dependent neurons need not find a partner; "
        "gaussian_matching_lower_bound, "
        "which says how near the best matching of this width can come"
    ),
    "exponent": (
        "approximate_dimensions: more width hardly helps where many dimensions count; "
        "match in the norm of what the layer sees (similarity=Covariance(moments)), "
        "which has fewer"
    ),
}
_LABELS = {
    "barrier": "loss above the chord",
    "reduction": "share of the squared distance that permuting removes",
    "exponent": "power of the width in matched distances",
}


class Signature(NamedTuple):
    """One number beside its threshold; `vmap` prepends axes to every field."""

    value: Float[Array, ""]
    threshold: Float[Array, ""]
    failed: Bool[Array, ""]


class Diagnosis(NamedTuple):
    """What `diagnose` finds; `str` of a single one is a report. `vmap` prepends axes to fields.

    Attributes:
        barrier: the height of the barrier, in the loss's unit; fails above its threshold.
        reduction: by which share the permutations reduce the squared Frobenius distance; fails
            below.
        exponent: the power of the width with which matched distances fall; fails above; nan: not
            measured.
        group_reduction: by which share the distance of the leaves that each group writes is
            reduced.
        finite: False: the barrier or a distance is nan or inf, and those signatures count as
            failed.
    """

    barrier: Signature
    reduction: Signature
    exponent: Signature
    group_reduction: dict[str, Float[Array, ""]]
    finite: Bool[Array, ""]

    def __str__(self) -> str:
        rows = []
        for name in ("barrier", "reduction", "exponent"):
            rows += _report(name, getattr(self, name))
        reductions = {group: float(value) for group, value in self.group_reduction.items()}
        if reductions:
            worst = min(reductions, key=reductions.__getitem__)
            rows.append(f"least reduced group: {worst}, {reductions[worst]:.3g}")
        return "\n".join(rows)


def _report(name: str, signature: Signature) -> list[str]:
    """One signature in words: a line, and one of advice if it failed."""
    label = _LABELS[name]
    value = signature.value.item()
    if name == "exponent" and math.isnan(value):
        return [f"not measured  {label}: pass the fit of distances at several widths"]
    failed = signature.failed.item()
    verdict = "FAILED" if failed else "passed"
    bound = "at least" if name == "reduction" else "at most"
    threshold = f"{signature.threshold.item():.3g}"
    rows = [f"{verdict}  {label}: {value:.3g}, expected {bound} {threshold}"]
    if failed:
        rows.append(f"        try: {_ADVICE[name]}")
    return rows


def diagnose(
    spec: PermutationSpec,
    params_a: PyTree,
    params_b: PyTree,
    permutations: Permutations,
    barrier: BarrierResult,
    *,
    rate: ExponentFit | None = None,
    max_barrier: Num[ArrayLike, ""] = 0.1,
    min_reduction: Num[ArrayLike, ""] = 0.1,
    max_exponent: Num[ArrayLike, ""] = -0.05,
) -> Diagnosis:
    """The three signatures of a failed match: a barrier, distances that stay, a slow rate.

    - barrier: `max_t loss(t) - chord(t)` along the path, above `max_barrier`;
    - reduction: `1 - ||A - P B||_F^2 / ||A - B||_F^2` over all leaves that a group acts on, below
      `min_reduction`;
    - exponent: that of the matched squared distance in the width, above `max_exponent`. Theory:
      -2/d, so that -0.05 means 40 dimensions; nan and not failed where no rate is given.

    The thresholds are conventions, not proven: `docs/theory.md` shows the numbers of some pairs. A
    smaller distance need not mean a lower barrier: matching by covariance reduces the distance less
    than matching by weights does, and the barrier more.

    Args:
        spec: static.
        params_a, params_b: traced; B as it was before it was permuted.
        permutations: of the matching, traced.
        barrier: `linear_barrier` between A and the permuted B, traced.
        rate: `fit_exponent` over widths of `||A - P B||^2` per neuron, or the `fit` of
            `calibrate_wasserstein_rate`.
        max_barrier: traced, in the loss's unit; 0.1 is meant for nats.
        min_reduction, max_exponent: traced.

    Raises:
        ValueError: shapes that differ between the networks, or permutations that do not fit the
            spec.

    Source: the failure signatures of the paper's summary; distances: Section 4 and Lemma B.3 of the
        paper.
    """
    check_same_shapes(params_a, params_b)
    spec = spec.bind(params_a)
    check_permutations(spec, permutations)
    distances = _distances(spec, named_leaves(params_a), named_leaves(params_b), permutations)
    group_reduction = {}
    for group in spec.groups:
        written = set()
        for place in spec.places(group):
            if place.role != "reads":
                written.add(place.leaf)
        group_reduction[group] = distances.reduction(written)
    reduction = distances.reduction(distances.before.keys())
    exponent = jnp.asarray(jnp.nan, reduction.dtype) if rate is None else rate.exponent
    height = jnp.asarray(barrier.height, accumulation_dtype(barrier.height))
    max_barrier = jnp.asarray(max_barrier, accumulation_dtype(height))
    min_reduction = jnp.asarray(min_reduction, accumulation_dtype(reduction))
    max_exponent = jnp.asarray(max_exponent, accumulation_dtype(exponent))
    # a value that is nan is not below or above anything: barrier and reduction then fail
    is_low = height <= max_barrier
    is_reduced = reduction >= min_reduction
    return Diagnosis(
        barrier=Signature(height, max_barrier, ~is_low | ~barrier.finite),
        reduction=Signature(reduction, min_reduction, ~is_reduced),
        exponent=Signature(exponent, max_exponent, exponent > max_exponent),
        group_reduction=group_reduction,
        finite=barrier.finite & jnp.isfinite(reduction),
    )


class _Distances(NamedTuple):
    """Squared distances between A and B, by leaf on which a group acts."""

    before: dict[str, Array]  # `||A - B||_F^2`
    after: dict[str, Array]  # `||A - P B||_F^2`
    dtype: jnp.dtype

    def reduction(self, names: Collection[str]) -> Array:
        """By which share the permutations reduce the distance of some leaves."""
        before = self._total(self.before, names)
        after = self._total(self.after, names)
        share = 1 - after / jnp.where(before > 0, before, 1)
        # networks that are equal from the start have nothing to reduce; the rest is nan
        without_distance = jnp.where(before == 0, 1, jnp.nan)
        return jnp.where(before > 0, share, without_distance)

    def _total(self, distances: dict[str, Array], names: Collection[str]) -> Array:
        total = jnp.zeros((), self.dtype)
        for name, distance in distances.items():
            if name in names:
                total = total + distance
        return total


def _distances(
    spec: PermutationSpec,
    leaves_a: dict[str, ArrayLike],
    leaves_b: dict[str, ArrayLike],
    permutations: Permutations,
) -> _Distances:
    """The distances of all leaves of floating point on which a group acts."""
    axes = dict(spec.leaves)
    compared = []
    for name, leaf in leaves_a.items():
        if groups_of(axes[name]) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            compared.append(name)
    dtype = accumulation_dtype(*[leaves_a[name] for name in compared], least=jnp.result_type(float))

    def distance(leaf_a: ArrayLike, leaf_b: ArrayLike) -> Array:
        difference = jnp.asarray(leaf_a, dtype) - jnp.asarray(leaf_b, dtype)
        return jnp.sum(difference**2)

    before = {}
    after = {}
    for name in compared:
        permuted = permute_leaf(axes[name], permutations, leaves_b[name])
        before[name] = distance(leaves_a[name], leaves_b[name])
        after[name] = distance(leaves_a[name], permuted)
    return _Distances(before, after, dtype)
