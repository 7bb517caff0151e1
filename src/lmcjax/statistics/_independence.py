"""Are a layer's neurons independent? Neurons of many networks, seen in common coordinates, permuted
over networks.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Key, Num, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax.symmetry import PermutationSpec, kernel_inputs, kernel_outputs, named_leaves

_ENTRIES = 2**20  # numbers: who is in which network, of the permutations that are tried at a time
_SHARE = 4  # probes that are used per input of a kernel: one for so many, lest their Gram matrix be near singular


class IndependenceTest(NamedTuple):
    """The result of `independence_test`; `vmap` prepends axes to every field."""

    effect: Float[
        Array, ""
    ]  # within - across, in standard deviations over permutations; > 0: attraction
    p_value: Float[Array, ""]  # two-sided
    within: Float[Array, ""]  # mean similarity of two neurons of one network, between 0 and 1
    across: Float[Array, ""]  # of two networks
    finite: Bool[Array, ""]  # False: some coordinate is nan or inf, ignore the rest


def independence_test(
    key: Key[Array, ""],
    neurons: Num[ArrayLike, "num_networks n num_coordinates"],
    *,
    num_permutations: int = 999,
) -> IndependenceTest:
    """Do neurons of one network attract or repel each other, more than neurons of different
    networks do?

    Null hypothesis: all neurons are independent draws from one law, hence exchangeable over
        networks. The statistic is
    the mean of `k(z_i, z_j) = exp(-||z_i - z_j||^2 / s)` over pairs within networks less that over
    pairs across them, coordinates standardised and s the mean squared distance, both over all
    neurons. Its law under the null comes from permuting neurons over networks:

        p = min(1, 2 min(P_+, P_-)),   P_+ = (1 + number of permutations with no smaller statistic)
        / (1 + permutations)

    and P_- likewise. At exchangeability the test is exact: it rejects at level a with probability a
    at most. A small p says "not exchangeable": neurons may depend on each other, or on something
    that their network's neurons share, such as a random scale or the coordinates they are seen in;
    see `neuron_coordinates` for the latter. Dependence that leaves pairs' distances alone is not
    seen.

    Args:
        key: a PRNG key.
        neurons: traced; the same layer of independently trained networks, a row per neuron in
            coordinates that mean the same in all networks, such as `neuron_coordinates`.
        num_permutations: static.

    Raises:
        ValueError: fewer than 2 networks or 2 neurons, or no permutations.

    Source: the permutation test of Gretton et al. (2012), applied to the paper's assumption of
        independent neurons
    (Sections 3 and 5).
    """
    shape = jnp.shape(neurons)
    if len(shape) != 3 or min(shape[:2]) < 2 or shape[2] < 1:
        raise ValueError(
            f"neurons have shape {shape}, expected [networks, neurons, coordinates], at least [2, 2, 1]"
        )
    if num_permutations < 1:
        raise ValueError(
            f"a permutation test permutes at least once, not num_permutations={num_permutations}"
        )
    num_networks, n, _ = shape
    flat = jnp.asarray(neurons, accumulation_dtype(neurons)).reshape(num_networks * n, -1)
    finite = jnp.isfinite(flat).all()
    flat = jnp.where(finite, flat, 0)
    similarity = _similarities(flat)
    num_pairs_within, num_pairs = num_networks * n * (n - 1), len(flat) * (len(flat) - 1)
    total = similarity.sum()  # of all ordered pairs, the diagonal is 0

    def mean_within(networks: Array) -> Array:
        """When neuron i belongs to network `networks[i]`."""
        members = jax.nn.one_hot(networks, num_networks, dtype=flat.dtype)
        inside = members * jnp.matmul(similarity, members, precision=jax.lax.Precision.HIGHEST)
        return inside.sum() / num_pairs_within

    def difference(within: Array) -> Array:
        return within - (total - within * num_pairs_within) / (num_pairs - num_pairs_within)

    own = jnp.repeat(jnp.arange(num_networks), n)
    within = mean_within(own)
    observed = difference(within)
    null = jax.lax.map(
        lambda key: difference(mean_within(jax.random.permutation(key, own))),
        jax.random.split(key, num_permutations),
        batch_size=max(1, min(num_permutations, _ENTRIES // (num_networks * len(flat)))),
    )
    slack = 1e-6  # a permutation that changes nothing is no smaller, whatever the rounding
    at_least, at_most = (null >= observed - slack).sum(), (null <= observed + slack).sum()
    smaller = jnp.minimum(at_least, at_most).astype(flat.dtype)
    p_value = jnp.minimum(1, 2 * (1 + smaller) / (1 + num_permutations))
    spread = jnp.std(null)
    effect = jnp.where(spread > 0, (observed - null.mean()) / jnp.where(spread > 0, spread, 1), 0)
    values = {"effect": effect, "p_value": p_value, "within": within, "across": within - observed}
    return IndependenceTest(
        **{name: jnp.where(finite, v, jnp.nan) for name, v in values.items()}, finite=finite
    )


def _similarities(points: Array) -> Array:
    """`exp(-||x - y||^2 / s)` of standardised coordinates, 0 of a point with itself."""
    centred = points - points.mean(0)
    scale = jnp.sqrt((centred**2).mean(0))
    centred = jnp.where(scale > 0, centred / jnp.where(scale > 0, scale, 1), 0)
    norms = jnp.sum(centred**2, axis=1)
    inner = jnp.matmul(centred, centred.T, precision=jax.lax.Precision.HIGHEST)
    squared = jnp.maximum(norms[:, None] + norms - 2 * inner, 0)
    mean = squared.mean()
    return jnp.where(
        jnp.eye(len(points), dtype=bool), 0, jnp.exp(-squared / jnp.where(mean > 0, mean, 1))
    )


def neuron_coordinates(
    apply: Callable[[PyTree, Any], Any],
    spec: PermutationSpec,
    params: PyTree,
    probes: Any,
    *,
    groups: Sequence[str] | None = None,
    common_frame: bool = True,
) -> dict[str, Float[Array, "n num_coordinates"]]:
    """A network's neurons in coordinates that mean the same in every network: what they say to
    common probe inputs.

    Weights beyond the first layer live in coordinates of their own network; pre-activations `z =
    Phi w` on P probes, Phi `[P, fan_in]` what the layer sees of them, do not. But all neurons of a
    network share Phi, which is random: their pre-activations are dependent through it even where
    their weights are independent, and a test of them rejects fresh networks (how often:
    `docs/theory.md`). In the common frame a neuron is `(Phi Phi^T)^(-1/2) Phi w`: its weights in an
    orthonormal basis that belongs to the probes. Independent isotropic Gaussian weights are then
    independent standard normal in every layer of every network, and `independence_test` is exact.
    With `common_frame=False`, the pre-activations themselves.

    Of P samples (a convolution's patches count), at most a quarter as many as the kernel has inputs
    are used, evenly spaced. Vectors that write the group (biases) are further coordinates. `vmap`
    over networks gives what `independence_test` takes.

    Args:
        apply: static; `apply(params, inputs)`.
        spec: static.
        params: one network's, traced.
        probes: inputs, the same for all networks, traced.
        groups: static. Default: all.
        common_frame: static.

    Raises:
        ValueError: a group whose neurons are not one axis of dense kernels or convolutions, or an
            unknown one.
    """
    spec = spec.bind(params)
    names = spec.groups if groups is None else tuple(groups)
    if unknown := [name for name in names if name not in spec.groups]:
        raise ValueError(f"group {unknown[0]!r} is not one of {spec.groups}")
    leaves, seen = named_leaves(params), kernel_inputs(apply, spec, params, probes)
    kernel_leaves = {kernel.leaf for kernel in spec.kernels}
    found = {}
    for group in names:
        columns = []
        for kernel, place in spec.writers(group):
            plain = place.segment.outer == place.segment.inner == 1 and not (
                kernel.batch or kernel.lookup
            )
            others = kernel.outputs(jnp.ndim(leaves[kernel.leaf]))
            if not plain or len(others) > 1 or kernel.feature_groups > 1 or kernel.name not in seen:
                raise ValueError(
                    f"group {group!r} is not one axis of outputs of kernel {kernel.name!r}: leave it out"
                )
            inputs = _thin(seen[kernel.name])
            outputs = kernel_outputs(kernel, leaves[kernel.leaf], inputs)
            outputs = _inverse_root(inputs) @ outputs if common_frame else outputs
            columns.append(
                jax.lax.slice_in_dim(outputs, place.offset, place.offset + place.size, axis=1).T
            )
        for place in spec.places(group):
            leaf = jnp.asarray(leaves[place.leaf])
            if (
                place.leaf not in kernel_leaves
                and leaf.ndim == 1
                and place.segment.role == "writes"
            ):
                columns.append(place.rows(leaf, (0,)))
        dtype = accumulation_dtype(*columns)
        found[group] = jnp.concatenate([column.astype(dtype) for column in columns], axis=1)
    return found


def _thin(inputs: Array) -> Array:
    """Rows, evenly spaced, a quarter as many as columns at most; at least float32."""
    num_samples, fan_in = inputs.shape
    count = min(num_samples, max(1, fan_in // _SHARE))
    rows = [i * num_samples // count for i in range(count)]
    return inputs[jnp.asarray(rows)].astype(accumulation_dtype(inputs))


def _inverse_root(inputs: Array) -> Array:
    """`(Phi Phi^T)^(-1/2)`; directions that rounding cannot tell from 0 are left out."""
    gram = jnp.matmul(inputs, inputs.T, precision=jax.lax.Precision.HIGHEST)
    values, vectors = jnp.linalg.eigh(gram)
    used = values > len(gram) * jnp.finfo(gram.dtype).eps * values[-1]
    return vectors * jnp.where(used, jax.lax.rsqrt(jnp.where(used, values, 1)), 0) @ vectors.T
