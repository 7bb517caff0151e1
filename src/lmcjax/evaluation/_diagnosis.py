"""Why a match failed: three signatures, each a number beside its threshold, and what to try."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Num, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax.evaluation._barrier import BarrierResult
from lmcjax.symmetry import Permutations, PermutationSpec, check_same_shapes, named_leaves, permute
from lmcjax.theory import ExponentFit

_ADVICE = {
    "barrier": "wider layers, a larger learning rate, "
    "similarity=Covariance(moments) or Activations(moments)",
    "reduction": "another similarity; independence_test, since dependent neurons need not find a partner; "
    "gaussian_matching_lower_bound, which says how near the best matching of this width can come",
    "exponent": "approximate_dimensions: more width hardly helps where many dimensions count; "
    "match in the norm of what the layer sees (similarity=Covariance(moments)), which has fewer",
}


class Signature(NamedTuple):
    """One number beside its threshold; `vmap` prepends axes to every field."""

    value: Float[Array, ""]
    threshold: Float[Array, ""]
    failed: Bool[Array, ""]


class Diagnosis(NamedTuple):
    """What `diagnose` finds; `str` of a single one is a report. `vmap` prepends axes to every
    field.
    """

    barrier: Signature  # fails above: height of the barrier, the loss's unit
    reduction: Signature  # fails below: by which share the permutations reduce the squared Frobenius distance
    exponent: Signature  # fails above: power of the width with which matched distances fall; nan: not measured
    group_reduction: dict[
        str, Float[Array, ""]
    ]  # the same share, of the leaves that each group writes
    finite: Bool[
        Array, ""
    ]  # False: the barrier or a distance is nan or inf, and those signatures count as failed

    def __str__(self) -> str:
        rows = []
        for name, label in (
            ("barrier", "loss above the chord"),
            ("reduction", "share of the squared distance that permuting removes"),
            ("exponent", "power of the width in matched distances"),
        ):
            value, threshold, failed = (x.item() for x in getattr(self, name))
            if name == "exponent" and value != value:
                rows.append(f"not measured  {label}: pass the fit of distances at several widths")
                continue
            sign = ("at least" if name == "reduction" else "at most") + f" {threshold:.3g}"
            rows.append(
                f"{'FAILED' if failed else 'passed'}  {label}: {value:.3g}, expected {sign}"
            )
            if failed:
                rows.append(f"        try: {_ADVICE[name]}")
        worst = min(
            self.group_reduction, key=lambda g: float(self.group_reduction[g]), default=None
        )
        if worst is not None:
            rows.append(f"least reduced group: {worst}, {float(self.group_reduction[worst]):.3g}")
        return "\n".join(rows)


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
    """The three signatures of a failed match: a barrier, distances that stay, measures that do not
    converge.

    - barrier: `max_t loss(t) - chord(t)` along the path, above `max_barrier`;
    - reduction: `1 - ||A - P B||_F^2 / ||A - B||_F^2` over all leaves that a group acts on, below
        `min_reduction`;
    - exponent: that of the matched squared distance in the width, above `max_exponent`. Theory:
      -2/d, so that -0.05 means 40 dimensions; nan and not failed where no rate is given.

    The thresholds are conventions, not proven: `docs/theory.md` shows the numbers of some pairs. A
        smaller distance
    need not mean a lower barrier: matching by covariance reduces it less than by weights, and the
        barrier more.

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
    leaves_a, leaves_b = named_leaves(params_a), named_leaves(params_b)
    leaves_p = named_leaves(permute(spec, permutations, params_b))
    written = {
        group: {name for name, _, s in spec.segments(group) if s.role != "reads"}
        for group in spec.groups
    }
    acted = {name for group in spec.groups for name, _, _ in spec.segments(group)}
    kept = [
        n
        for n in leaves_a
        if n in acted and jnp.issubdtype(jnp.result_type(leaves_a[n]), jnp.inexact)
    ]
    dtype = accumulation_dtype(*(leaves_a[n] for n in kept), least=jnp.result_type(float))

    def distance(n: str, other: Mapping[str, ArrayLike]) -> Array:
        return jnp.sum((jnp.asarray(leaves_a[n], dtype) - jnp.asarray(other[n], dtype)) ** 2)

    before, after = ({n: distance(n, other) for n in kept} for other in (leaves_b, leaves_p))

    def share(names: set[str]) -> Array:
        whole, rest = (
            sum((d[n] for n in kept if n in names), jnp.zeros((), dtype)) for d in (before, after)
        )
        # networks that are equal from the start have nothing to reduce
        return jnp.where(
            whole > 0, 1 - rest / jnp.where(whole > 0, whole, 1), jnp.where(whole == 0, 1, jnp.nan)
        )

    reduction = share(acted)
    exponent = jnp.asarray(jnp.nan, reduction.dtype) if rate is None else rate.exponent
    height = jnp.asarray(barrier.height, accumulation_dtype(barrier.height))
    limits = [
        jnp.asarray(limit, accumulation_dtype(value))
        for limit, value in (
            (max_barrier, height),
            (min_reduction, reduction),
            (max_exponent, exponent),
        )
    ]
    return Diagnosis(
        barrier=Signature(height, limits[0], ~(height <= limits[0]) | ~barrier.finite),
        reduction=Signature(reduction, limits[1], ~(reduction >= limits[1])),
        exponent=Signature(exponent, limits[2], exponent > limits[2]),
        group_reduction={group: share(names) for group, names in written.items()},
        finite=barrier.finite & jnp.isfinite(reduction),
    )
