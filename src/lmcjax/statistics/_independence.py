"""Are a layer's neurons independent? A permutation test over the neurons of many networks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Key, Num, PyTree

from lmcjax._dtypes import accumulation_dtype
from lmcjax.symmetry import (
    Kernel,
    PermutationSpec,
    Place,
    kernel_inputs,
    kernel_outputs,
    named_leaves,
)

# As many permutations are tried at a time as keep this many numbers: who is in which network.
_ENTRIES = 2**20
# One probe is used for so many inputs of a kernel, lest the probes' Gram matrix be near singular.
_SHARE = 4


class IndependenceTest(NamedTuple):
    """The result of `independence_test`; `vmap` prepends axes to every field."""

    # within - across, in standard deviations over permutations; above 0: attraction
    effect: Float[Array, ""]
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
    """Test whether neurons of one network attract or repel each other.

    Null hypothesis: all neurons are independent draws from one law, hence exchangeable over
    networks. The statistic is the mean of `k(z_i, z_j) = exp(-||z_i - z_j||^2 / s)` over pairs
    within networks less that over pairs across them, coordinates standardised and s the mean
    squared distance, both over all neurons. Its law under the null comes from permuting neurons
    over networks:

        p = min(1, 2 min(P_+, P_-))
        P_+ = (1 + number of permutations with no smaller statistic) / (1 + permutations)

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
        independent neurons (Sections 3 and 5).
    """
    shape = jnp.shape(neurons)
    if len(shape) != 3 or min(shape[:2]) < 2 or shape[2] < 1:
        raise ValueError(
            f"neurons have shape {shape}, "
            "expected [networks, neurons, coordinates], at least [2, 2, 1]"
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
    pairs = _Pairs(similarity, similarity.sum(), num_networks, n)
    own_networks = jnp.repeat(jnp.arange(num_networks), n)
    within = pairs.mean_within(own_networks)
    observed = pairs.difference(within)

    def shuffled_difference(key: Key[Array, ""]) -> Array:
        return pairs.difference(pairs.mean_within(jax.random.permutation(key, own_networks)))

    fitting = _ENTRIES // (num_networks * len(flat))
    differences = jax.lax.map(
        shuffled_difference,
        jax.random.split(key, num_permutations),
        batch_size=max(1, min(num_permutations, fitting)),
    )
    deviation = jnp.std(differences)
    is_spread = deviation > 0
    standardised = (observed - differences.mean()) / jnp.where(is_spread, deviation, 1)

    def if_finite(value: Array) -> Array:
        return jnp.where(finite, value, jnp.nan)

    return IndependenceTest(
        effect=if_finite(jnp.where(is_spread, standardised, 0)),
        p_value=if_finite(_p_value(observed, differences)),
        within=if_finite(within),
        across=if_finite(within - observed),
        finite=finite,
    )


class _Pairs(NamedTuple):
    """All pairs of neurons, whose networks may be assigned anew."""

    similarity: Array  # of two neurons, 0 on the diagonal
    total: Array  # its sum, over all ordered pairs
    num_networks: int
    num_neurons: int  # per network

    def mean_within(self, networks: Array) -> Array:
        """The mean similarity within networks, neuron i belonging to network `networks[i]`."""
        dtype = self.similarity.dtype
        members = jax.nn.one_hot(networks, self.num_networks, dtype=dtype)
        to_network = jnp.matmul(self.similarity, members, precision=jax.lax.Precision.HIGHEST)
        return (members * to_network).sum() / self._num_within()

    def difference(self, mean_within: Array) -> Array:
        """The mean similarity within networks, less that across networks, which the total gives."""
        num_all = self.num_networks * self.num_neurons
        num_across = num_all * (num_all - 1) - self._num_within()
        mean_across = (self.total - mean_within * self._num_within()) / num_across
        return mean_within - mean_across

    def _num_within(self) -> int:
        """Ordered pairs within networks."""
        return self.num_networks * self.num_neurons * (self.num_neurons - 1)


def _p_value(observed: Array, differences: Array) -> Array:
    """The share of permutations with a difference at least as extreme, on both sides."""
    slack = 1e-6  # a permutation that changes nothing is no smaller, whatever the rounding
    at_least = (differences >= observed - slack).sum()
    at_most = (differences <= observed + slack).sum()
    fewer = jnp.minimum(at_least, at_most).astype(observed.dtype)
    return jnp.minimum(1, 2 * (1 + fewer) / (1 + len(differences)))


def _similarities(points: Array) -> Array:
    """`exp(-||x - y||^2 / s)` of standardised coordinates, 0 of a point with itself."""
    centred = points - points.mean(0)
    scale = jnp.sqrt((centred**2).mean(0))
    varies = scale > 0
    standardised = jnp.where(varies, centred / jnp.where(varies, scale, 1), 0)
    norms = jnp.sum(standardised**2, axis=1)
    inner = jnp.matmul(standardised, standardised.T, precision=jax.lax.Precision.HIGHEST)
    squared = jnp.maximum(norms[:, None] + norms - 2 * inner, 0)
    mean = squared.mean()
    similarities = jnp.exp(-squared / jnp.where(mean > 0, mean, 1))
    is_diagonal = jnp.eye(len(points), dtype=bool)
    return jnp.where(is_diagonal, 0, similarities)


def neuron_coordinates(
    apply: Callable[[PyTree, Any], Any],
    spec: PermutationSpec,
    params: PyTree,
    probes: Any,
    *,
    groups: Sequence[str] | None = None,
    common_frame: bool = True,
) -> dict[str, Float[Array, "n num_coordinates"]]:
    """A network's neurons in coordinates that mean the same in every network.

    The coordinates come from common probe inputs. Weights beyond the first layer live in
    coordinates of their own network; pre-activations `z = Phi w` on P probes, Phi `[P, fan_in]`
    what the layer sees of them, do not. But all neurons of a network share Phi, which is random:
    their pre-activations are dependent through it even where their weights are independent, and a
    test of them rejects fresh networks (how often: `docs/theory.md`). In the common frame a neuron
    is `(Phi Phi^T)^(-1/2) Phi w`: its weights in an orthonormal basis that belongs to the probes.
    Independent isotropic Gaussian weights are then independent standard normal in every layer of
    every network, and `independence_test` is exact. With `common_frame=False`, the pre-activations
    themselves.

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
    for name in names:
        if name not in spec.groups:
            raise ValueError(f"group {name!r} is not one of {spec.groups}")
    leaves = named_leaves(params)
    seen = kernel_inputs(apply, spec, params, probes)
    coordinates = {}
    for group in names:
        columns = []
        for kernel, place in spec.writers(group):
            leaf = leaves[kernel.leaf]
            if kernel.name not in seen or not _is_one_axis(kernel, place, jnp.ndim(leaf)):
                raise ValueError(
                    f"group {group!r} is not one axis of outputs of kernel {kernel.name!r}: "
                    "leave it out"
                )
            outputs = _probe(kernel, leaf, seen[kernel.name], common_frame)
            columns.append(place.rows(outputs, (None, place.leaf_axis)))
        for place in _bias_places(spec, group, leaves):
            columns.append(place.rows(leaves[place.leaf]))
        dtype = accumulation_dtype(*columns)
        columns = [column.astype(dtype) for column in columns]
        coordinates[group] = jnp.concatenate(columns, axis=1)
    return coordinates


def _probe(kernel: Kernel, leaf: ArrayLike, seen: Array, common_frame: bool) -> Array:
    """What a kernel puts out on some of its probes, `[num_probes, fan_out]`."""
    inputs = _thin(seen)
    outputs = kernel_outputs(kernel, leaf, inputs)
    if common_frame:
        outputs = _inverse_root(inputs) @ outputs
    return outputs


def _is_one_axis(kernel: Kernel, place: Place, num_axes: int) -> bool:
    """Whether the neurons at a place are one axis of a dense kernel or a convolution."""
    strand = place.part.strands[place.leaf_axis]
    is_one_factor = strand is not None and len(strand.factors) == 1
    is_special = bool(kernel.batch) or kernel.lookup or kernel.feature_groups > 1
    return is_one_factor and not is_special and len(kernel.outputs(num_axes)) == 1


def _bias_places(spec: PermutationSpec, group: str, leaves: dict[str, Any]) -> list[Place]:
    """Where vectors that are no kernels write a group."""
    kernel_leaves = {kernel.leaf for kernel in spec.kernels}
    places = []
    for place in spec.places(group):
        is_vector = place.leaf not in kernel_leaves and jnp.ndim(leaves[place.leaf]) == 1
        if is_vector and place.role == "writes":
            places.append(place)
    return places


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
    rounding = len(gram) * jnp.finfo(gram.dtype).eps * values[-1]
    is_used = values > rounding
    inverse_roots = jnp.where(is_used, jax.lax.rsqrt(jnp.where(is_used, values, 1)), 0)
    return vectors * inverse_roots @ vectors.T
