"""The contract of the core: public functions work under `jit`, `vmap`, in any precision."""

import dataclasses
import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from lmcjax import (
    evaluation,
    interpolation,
    matching,
    mlp_spec,
    statistics,
    symmetry,
    theory,
    transport,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

PACKAGES = (
    "frameworks",
    "symmetry",
    "transport",
    "statistics",
    "matching",
    "interpolation",
    "evaluation",
    "theory",
)
NOT_TRANSFORMED = {
    "frameworks.from_equinox": "on the host: takes apart an object of another library",
    "frameworks.to_equinox": "on the host: makes an object of another library",
    "frameworks.from_haiku": "on the host: takes apart an object of another library",
    "frameworks.to_haiku": "on the host: makes an object of another library",
    "frameworks.from_nnx": "on the host: takes apart an object of another library",
    "frameworks.to_nnx": "on the host: makes an object of another library",
    "frameworks.from_torch": "on the host: takes apart an object of another library",
    "frameworks.to_torch": "on the host: makes an object of another library",
    "frameworks.tied_names": "static: looks at the names of a module",
    "symmetry.check_permutations": "static: looks at names, shapes and concrete values",
    "symmetry.check_same_shapes": "static: looks at structure and shapes, returns nothing",
    "symmetry.discover": "static: reads a program and shapes, makes a spec",
    "symmetry.explain": "static: reads a program and shapes, makes texts",
    "symmetry.mlp_spec": "static: makes a spec",
    "symmetry.homogeneous_groups": "on the host: exponents are static",
    "symmetry.both": "static: makes a segment",
    "symmetry.factors_of": "static: walks along a segment",
    "symmetry.fixed": "static: makes a segment",
    "symmetry.groups_of": "static: looks at segments",
    "symmetry.reads": "static: makes a segment",
    "symmetry.spec_from_table": "static: reads texts, makes a spec",
    "symmetry.writes": "static: makes a segment",
    "statistics.activation_sources": "static: finds where a group is seen",
    "statistics.over_batch": "a transformation of functions",
    "matching.similarity_from_name": "static: chooses a class by its name",
    "matching.load_matching": "on the host: reads a file",
    "matching.save_matching": "on the host: writes a file",
    "evaluation.require_finite": "on the host: raises by the values of a result",
}
SPEC = mlp_spec(1)
PRODUCT = symmetry.PermutationSpec.from_axes(
    {"w1": (None, symmetry.writes("g")), "w2": (symmetry.reads("g"), None)}
)
COUNT = 3  # examples along the leading axis of every argument


class Case(NamedTuple):
    """A function of one example, and stacked examples."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    strict: bool = True  # False: through ott or optax, which mix dtypes


sampled = jax.jit(jax.vmap(statistics.sample_moments))


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(COUNT, *shape)), jnp.float32)


def params(seed: int) -> dict[str, dict[str, jax.Array]]:
    shapes = {"Dense_0": (3, 4), "Dense_1": (4, 2)}
    return {
        n: {"kernel": normal(seed, *s), "bias": normal(seed + 1, s[1])} for n, s in shapes.items()
    }


def kernels() -> dict[str, jax.Array]:
    return {"w1": normal(0, 3, 4), "w2": normal(1, 4, 3)}


def product(params: Any, inputs: Any) -> jax.Array:
    return jnp.matmul(jnp.matmul(inputs, params["w1"]), params["w2"])


def keys() -> jax.Array:
    return jax.random.split(jax.random.key(0), COUNT)


def permutations(seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {"Dense_0": jnp.asarray(np.stack([rng.permutation(4) for _ in range(COUNT)]))}


def apply(params: Any, inputs: Any) -> jax.Array:
    hidden = jnp.tanh(jnp.matmul(inputs, params["Dense_0"]["kernel"]) + params["Dense_0"]["bias"])
    return jnp.matmul(hidden, params["Dense_1"]["kernel"]) + params["Dense_1"]["bias"]


def mean_square(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean((outputs - targets) ** 2)


KERNEL = mlp_spec(1).kernels[0]


def moments(seed: int) -> statistics.Moments:
    return sampled(normal(seed, 9, 4), normal(seed + 1, 9, 4))


def measured(a: Any, b: Any, inputs: Any) -> statistics.ActivationMoments:
    return statistics.activation_moments(apply, SPEC, a, b, inputs, batch_size=4)


def measured_by_leaves(a: Any, b: Any, inputs: Any) -> statistics.ActivationMoments:
    leaves = (symmetry.named_leaves(a), symmetry.named_leaves(b))
    return statistics.bound_activation_moments(
        (apply, None), SPEC.bind(a), (a, b), leaves, inputs, batch_size=4
    )


def streamed(a: Any, b: Any, inputs: Any) -> dict[str, statistics.Moments]:
    return statistics.stream_moments(lambda p, x: {"out": apply(p, x)}, a, b, inputs, batch_size=4)


@functools.cache
def pair() -> tuple[Any, Any, statistics.ActivationMoments]:
    """Two networks and the moments of their activations."""
    a, b = params(0), params(2)
    return a, b, jax.jit(jax.vmap(measured))(a, b, normal(4, 9, 3))


def matched(name: str) -> Case:
    def match(a: Any, b: Any, moments: Any) -> matching.Matching:
        similarity = matching.similarity_from_name(name, moments)
        return matching.match_layerwise(SPEC, a, b, similarity=similarity)

    return Case(match, pair())


def matched_as_pair(a: Any, b: Any, moments: Any) -> matching.Matching:
    both = matching.make_pair(SPEC, a, b)
    return matching.match_pair(both, similarity=matching.Covariance(moments))


def dimensions_of_both(a: Any, b: Any, moments: Any) -> dict[str, jax.Array]:
    both = matching.make_pair(SPEC, a, b)
    return matching.dimensions_of_pair(both, similarity=matching.Covariance(moments))


def leaves_of_both(a: Any, b: Any) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    both = matching.make_pair(SPEC, a, b)
    return both.leaves_a, both.leaves_b


def matched_softly(a: Any, b: Any, moments: Any) -> matching.Matching:
    similarity = matching.Correlation(moments)
    return matching.match_soft(SPEC, a, b, similarity=similarity, temperature=0.5)


def inner_product(a: Any, b: Any, p: Any) -> tuple[jax.Array, jax.Array]:
    alignments = symmetry.as_alignments(p)
    return tuple(matching.weight_inner_product(SPEC, x, a, b) for x in (p, alignments))


def similar(a: Any, b: Any, moments: Any) -> jax.Array:
    return matching.layer_similarity(SPEC, "Dense_0", a, b, similarity=matching.Covariance(moments))


def similar_by_all_weights(a: Any, b: Any, moments: Any, p: Any) -> jax.Array:
    options = {"permutations": p, "similarity": matching.Covariance(moments)}
    return matching.weight_similarity(SPEC, "Dense_0", a, b, **options)


def covariance_distance(a: Any, b: Any, moments: Any) -> jax.Array:
    return matching.covariance_distance(SPEC, matching.Covariance(moments))(a, b, None)


def dimensions(name: str) -> Case:
    def dimension(a: Any, moments: Any) -> dict[str, jax.Array]:
        similarity = matching.similarity_from_name(name, moments)
        return matching.approximate_dimensions(SPEC, a, similarity=similarity)

    return Case(dimension, pair()[::2])


def barrier(a: Any, b: Any, inputs: Any, targets: Any) -> evaluation.BarrierResult:
    loss = evaluation.batched_loss(apply, mean_square, (inputs, targets), 4)
    return evaluation.linear_barrier(loss, a, b, num_points=4)


def barrier_along_a_bow(a: Any, b: Any, inputs: Any, targets: Any) -> evaluation.BarrierResult:
    loss = evaluation.batched_loss(apply, mean_square, (inputs, targets), 4)

    def bow(t: jax.Array) -> Any:
        def between(x: jax.Array, y: jax.Array) -> jax.Array:
            weight = t.astype(x.dtype)
            return (1 - weight) * (1 - weight) * x + weight * weight * y

        return jax.tree.map(between, a, b)

    return evaluation.barrier_along(loss, bow, num_points=4)


def on_the_line(loss: Callable[..., Any]) -> Callable[..., Any]:
    def value(a: Any, b: Any, key: Any, inputs: Any, targets: Any) -> jax.Array:
        return loss(apply, mean_square, (inputs, targets), batch_size=4)(a, b, key)

    return value


def on_the_line_arguments() -> tuple[Any, ...]:
    return params(0), params(2), keys(), normal(4, 9, 3), normal(5, 9, 2)


def labels() -> jax.Array:
    return jnp.asarray(np.tile(np.arange(9) % 2, (COUNT, 1)))


def diagnosed(a: Any, b: Any, p: Any, inputs: Any, targets: Any) -> evaluation.Diagnosis:
    return evaluation.diagnose(SPEC, a, b, p, barrier(a, b, inputs, targets))


BOUND, WIDE = (dataclasses.replace(SPEC, shapes=(("Dense_0", (n,)),)) for n in (4, 6))
AXES = dict(SPEC.leaves)["Dense_1/kernel"]


def moments_of_group(a: Any, b: Any, moments: Any) -> statistics.Moments:
    leaves = (symmetry.named_leaves(a), symmetry.named_leaves(b))
    return statistics.bound_group_moments((BOUND, BOUND), leaves, "Dense_0", moments)


CASES: dict[str, Callable[[], Case]] = {
    "symmetry.named_leaves": lambda: Case(symmetry.named_leaves, (params(0),)),
    "symmetry.permute": lambda: Case(
        lambda p, x: symmetry.permute(SPEC, p, x), (permutations(0), params(0))
    ),
    "symmetry.permute_leaf": lambda: Case(
        lambda p, x: symmetry.permute_leaf(AXES, p, x), (permutations(0), normal(0, 4, 2))
    ),
    "symmetry.compose": lambda: Case(
        lambda p, q: symmetry.compose(SPEC, p, q), (permutations(0), permutations(1))
    ),
    "symmetry.invert": lambda: Case(lambda p: symmetry.invert(SPEC, p), (permutations(0),)),
    "symmetry.identity_permutations": lambda: Case(
        lambda x: symmetry.identity_permutations(SPEC, x), (params(0),)
    ),
    "symmetry.random_permutations": lambda: Case(
        lambda key, x: symmetry.random_permutations(key, SPEC, x),
        (keys(), params(0)),
    ),
    "symmetry.verify": lambda: Case(
        lambda p, x, key: symmetry.verify(product, PRODUCT, p, x, key=key),
        (kernels(), normal(4, 9, 3), keys()),
    ),
    "symmetry.perturb": lambda: Case(symmetry.perturb, (keys(), kernels())),
    "symmetry.rescale": lambda: Case(
        lambda c, p: symmetry.rescale(
            PRODUCT, {"g": {("w1", 1): 1, ("w2", 0): -1}}, {"g": c**2 + 1}, p
        ),
        (normal(4, 4), kernels()),
    ),
    "symmetry.canonical_scales": lambda: Case(
        lambda p: symmetry.canonical_scales(PRODUCT, {"g": {("w1", 1): 1, ("w2", 0): -1}}, p),
        (kernels(),),
    ),
    "symmetry.rebuild": lambda: Case(
        lambda p: symmetry.rebuild(p, symmetry.named_leaves(p)), (params(0),)
    ),
    "symmetry.pad_neurons": lambda: Case(
        lambda p: symmetry.pad_neurons(BOUND, WIDE, p), (params(0),)
    ),
    "symmetry.drop_padding": lambda: Case(
        lambda p: symmetry.drop_padding(WIDE, BOUND, symmetry.pad_neurons(BOUND, WIDE, p)),
        (params(0),),
    ),
    "symmetry.as_alignments": lambda: Case(lambda p: symmetry.as_alignments(p), (permutations(0),)),
    "symmetry.apply_soft": lambda: Case(
        lambda p, x: symmetry.apply_soft(SPEC, p, x), ({"Dense_0": normal(0, 3, 4)}, params(0))
    ),
    "symmetry.mix_leaf": lambda: Case(
        lambda p, x: symmetry.mix_leaf(AXES, p, x), ({"Dense_0": normal(0, 3, 4)}, normal(0, 4, 2))
    ),
    "symmetry.real_entries": lambda: Case(
        lambda p: symmetry.real_entries(BOUND, WIDE, p), (params(0),)
    ),
    "symmetry.tap": lambda: Case(
        lambda p, x: symmetry.tap(apply, SPEC, p, x), (params(0), normal(4, 9, 3))
    ),
    "symmetry.kernel_inputs": lambda: Case(
        lambda p, x: symmetry.kernel_inputs(apply, SPEC, p, x), (params(0), normal(4, 9, 3))
    ),
    "symmetry.kernel_matrix": lambda: Case(
        lambda x: symmetry.kernel_matrix(KERNEL, x), (normal(0, 3, 4),)
    ),
    "symmetry.kernel_outputs": lambda: Case(
        lambda x, y: symmetry.kernel_outputs(KERNEL, x, y), (normal(0, 3, 4), normal(1, 9, 3))
    ),
    "symmetry.from_kernel_matrix": lambda: Case(
        lambda x: symmetry.from_kernel_matrix(KERNEL, x, (3, 4)), (normal(0, 3, 4),)
    ),
    "transport.linear_assignment[scipy]": lambda: Case(
        lambda cost: transport.linear_assignment(cost, backend="scipy"), (normal(0, 5, 5),)
    ),
    "transport.linear_assignment[device]": lambda: Case(
        lambda cost: transport.linear_assignment(cost, backend="device"), (normal(0, 5, 5),)
    ),
    "transport.exact_plan": lambda: Case(
        lambda cost: transport.exact_plan(cost, maximize=True), (normal(0, 4, 6),)
    ),
    "transport.assignment_certificate": lambda: Case(
        lambda cost, p: transport.assignment_certificate(cost, p["Dense_0"]),
        (normal(0, 4, 4), permutations(0)),
    ),
    "transport.wasserstein2": lambda: Case(
        transport.wasserstein2, (normal(0, 5, 2), normal(1, 5, 2))
    ),
    "transport.sinkhorn_plan": lambda: Case(
        lambda cost, epsilon: transport.sinkhorn_plan(cost**2, epsilon=epsilon, threshold=1e-3),
        (normal(0, 4, 3), jnp.array([0.5, 1.0, 2.0])),
        strict=False,
    ),
    "statistics.approximate_dimension": lambda: Case(
        statistics.approximate_dimension, (moments(0).centred_aa,)
    ),
    "statistics.sample_moments": lambda: Case(
        statistics.sample_moments, (normal(0, 9, 4), normal(1, 9, 4))
    ),
    "statistics.merge_moments": lambda: Case(statistics.merge_moments, (moments(0), moments(2))),
    "statistics.activation_moments": lambda: Case(
        measured, (params(0), params(2), normal(4, 9, 3))
    ),
    "statistics.bound_activation_moments": lambda: Case(
        measured_by_leaves, (params(0), params(2), normal(4, 9, 3))
    ),
    "statistics.stream_moments": lambda: Case(streamed, (params(0), params(2), normal(4, 9, 3))),
    "statistics.group_moments": lambda: Case(
        lambda a, moments: statistics.group_moments(SPEC, "Dense_0", a, moments), pair()[::2]
    ),
    "statistics.bound_group_moments": lambda: Case(moments_of_group, pair()),
    "statistics.independence_test": lambda: Case(
        lambda key, z: statistics.independence_test(key, z, num_permutations=9),
        (keys(), normal(0, 2, 3, 4)),
    ),
    "statistics.neuron_coordinates": lambda: Case(
        lambda p, x: statistics.neuron_coordinates(apply, SPEC, p, x), (params(0), normal(4, 9, 3))
    ),
    "statistics.second_moment": lambda: Case(statistics.second_moment, (moments(0),)),
    "statistics.cross_covariance": lambda: Case(statistics.cross_covariance, (moments(0),)),
    "statistics.cross_correlation": lambda: Case(statistics.cross_correlation, (moments(0),)),
    "matching.match_layerwise[weights]": lambda: matched("weights"),
    "matching.match_layerwise[covariance]": lambda: matched("covariance"),
    "matching.match_layerwise[activations]": lambda: matched("activations"),
    "matching.match_layerwise[correlation]": lambda: matched("correlation"),
    "matching.match_sinkhorn": lambda: Case(
        lambda a, b: matching.match_sinkhorn(SPEC, a, b, num_iterations=2),
        (params(0), params(2)),
        strict=False,
    ),
    "matching.match_straight_through": lambda: Case(
        lambda a, b: matching.match_straight_through(SPEC, a, b, num_iterations=2),
        (params(0), params(2)),
        strict=False,
    ),
    "matching.match_annealing": lambda: Case(
        lambda a, b, key: matching.match_annealing(SPEC, a, b, key=key, num_iterations=5),
        (params(0), params(2), keys()),
    ),
    "matching.make_pair": lambda: Case(leaves_of_both, (params(0), params(2))),
    "matching.match_pair": lambda: Case(matched_as_pair, pair()),
    "matching.dimensions_of_pair": lambda: Case(dimensions_of_both, pair()),
    "matching.match_soft": lambda: Case(
        lambda a, b: matching.match_soft(SPEC, a, b, similarity=matching.Weights()),
        (params(0), params(2)),
    ),
    "matching.match_soft[entropic]": lambda: Case(matched_softly, pair(), strict=False),
    "matching.soft_alignments": lambda: Case(
        lambda x: matching.soft_alignments({"g": x}, temperature=1.0),
        (normal(0, 4, 4),),
        strict=False,
    ),
    "matching.covariance_distance": lambda: Case(covariance_distance, pair()),
    "matching.weight_distance": lambda: Case(matching.weight_distance, (params(0), params(2))),
    "matching.midpoint_loss": lambda: Case(
        on_the_line(matching.midpoint_loss), on_the_line_arguments()
    ),
    "matching.random_point_loss": lambda: Case(
        on_the_line(matching.random_point_loss), on_the_line_arguments()
    ),
    "matching.match_coordinate_descent": lambda: Case(
        lambda a, b: matching.match_coordinate_descent(SPEC, a, b), (params(0), params(2))
    ),
    "matching.match_frank_wolfe": lambda: Case(
        lambda a, b: matching.match_frank_wolfe(SPEC, a, b, polish=False), (params(0), params(2))
    ),
    "matching.weight_inner_product": lambda: Case(
        inner_product, (params(0), params(2), permutations(0))
    ),
    "matching.weight_similarity": lambda: Case(similar_by_all_weights, (*pair(), permutations(0))),
    "matching.layer_similarity": lambda: Case(similar, pair()),
    "matching.approximate_dimensions[weights]": lambda: dimensions("weights"),
    "matching.approximate_dimensions[covariance]": lambda: dimensions("covariance"),
    "matching.approximate_dimensions[activations]": lambda: dimensions("activations"),
    "interpolation.interpolate": lambda: Case(
        interpolation.interpolate, (params(0), params(2), normal(4))
    ),
    "interpolation.straight_line": lambda: Case(
        lambda a, b, t: interpolation.straight_line(a, b)(t), (params(0), params(2), normal(4))
    ),
    "evaluation.linear_barrier": lambda: Case(
        barrier, (params(0), params(2), normal(4, 9, 3), normal(5, 9, 2))
    ),
    "evaluation.barrier_along": lambda: Case(
        barrier_along_a_bow, (params(0), params(2), normal(4, 9, 3), normal(5, 9, 2))
    ),
    "evaluation.diagnose": lambda: Case(
        diagnosed, (params(0), params(2), permutations(0), normal(4, 9, 3), normal(5, 9, 2))
    ),
    "evaluation.batched_loss": lambda: Case(
        lambda p, x, y: evaluation.batched_loss(apply, mean_square, (x, y), 4)(p),
        (params(0), normal(4, 9, 3), normal(5, 9, 2)),
    ),
    "evaluation.cross_entropy_and_accuracy": lambda: Case(
        evaluation.cross_entropy_and_accuracy, (normal(0, 9, 2), labels()), strict=False
    ),
    "theory.matching_lower_bound": lambda: Case(
        lambda m, log_f, s: theory.matching_lower_bound(m, 4, log_f, s, rows="gaussian"),
        (jnp.array([2.0, 30.0, 1e6]), normal(0), moments(0).centred_aa),
    ),
    "theory.empirical_wasserstein_rate": lambda: Case(
        theory.empirical_wasserstein_rate, (jnp.array([2.0, 30.0, 1e6]), jnp.array([1.0, 4.0, 9.0]))
    ),
    "theory.fit_exponent": lambda: Case(
        lambda n, y, e: theory.fit_exponent(n**2 + 1, y**2 + 1, e**2, repetitions=5),
        (normal(0, 4), normal(1, 4), normal(2, 4)),
    ),
    "theory.calibrate_wasserstein_rate": lambda: Case(
        lambda key, cloud: theory.calibrate_wasserstein_rate(key, cloud, (2, 4), repetitions=3),
        (keys(), normal(0, 9, 2)),
    ),
    "theory.width_upper_bound": lambda: Case(
        lambda eps, m: theory.width_upper_bound(eps, m, 4, constants=jnp.ones(4, eps.dtype)),
        (jnp.array([0.5, 0.1, 0.01]), jnp.array([2.0, 5.0, 784.0])),
    ),
    "theory.two_layer_width": lambda: Case(
        theory.two_layer_width, (jnp.array([0.5, 0.1, 0.01]), jnp.array([2.0, 5.0, 784.0]))
    ),
    "theory.low_dimensional_width": lambda: Case(
        theory.low_dimensional_width,
        (jnp.array([0.5, 0.1, 0.01]), *(jnp.full(COUNT, x) for x in (3.0, 50.0, 0.05))),
    ),
    "theory.propagate": lambda: Case(
        lambda a, b, m: theory.propagate(SPEC, a, b, m, num_points=3), pair()
    ),
    "theory.path_deviation": lambda: Case(
        lambda a, b, x: theory.path_deviation(apply, SPEC, a, b, x, num_points=3),
        (*pair()[:2], normal(4, 9, 3)),
    ),
    "theory.gaussian_matching_lower_bound": lambda: Case(
        theory.gaussian_matching_lower_bound,
        (jnp.array([2.0, 30.0, 1e6]), moments(0).centred_aa, moments(2).centred_aa),
    ),
}


def public_functions() -> Iterator[str]:
    """`package.function` of all that can be called, and is neither a class nor a type alias."""
    for package in PACKAGES:
        module = importlib.import_module(f"lmcjax.{package}")
        for name, value in vars(module).items():
            own = getattr(value, "__module__", "").startswith(
                module.__name__
            )  # not what a file imports
            alias = inspect.isclass(value) or typing.get_origin(value) is not None
            if callable(value) and own and not alias and not name.startswith("_"):
                yield f"{package}.{name}"


def test_the_table_covers_every_public_function() -> None:
    covered = {name.split("[")[0] for name in CASES}
    assert covered | NOT_TRANSFORMED.keys() == set(public_functions())
    assert not covered & NOT_TRANSFORMED.keys()


def take(tree: Any, i: int) -> Any:
    """One example; sliced by NumPy, because each slice by JAX is a compilation."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(
        lambda leaf: leaf[i] if is_key(leaf) else jnp.asarray(np.asarray(leaf)[i]), tree
    )


@pytest.mark.parametrize("name", CASES)
def test_jit_is_eager_and_vmap_is_a_loop(name: str) -> None:
    function, arguments, _ = CASES[name]()
    eager, jitted = function(*take(arguments, 0)), jax.jit(function)
    loop = [jitted(*take(arguments, i)) for i in range(COUNT)]
    batch = jax.jit(jax.vmap(function))(*arguments)
    close = {"rtol": 1e-5, "atol": 1e-5}
    chex.assert_trees_all_close(loop[0], eager, **close)
    chex.assert_trees_all_equal_shapes_and_dtypes(loop[0], eager)
    chex.assert_trees_all_close(
        batch, jax.tree.map(lambda *leaves: np.stack(leaves), *loop), **close
    )


def cast(tree: Any, dtype: Any) -> Any:
    """The shapes of one example with another float type; moments always have JAX's default one."""
    if isinstance(tree, statistics.Moments):
        dtype = jnp.result_type(float)

    def struct(leaf: Any) -> Any:
        if isinstance(leaf, statistics.Moments) and leaf is not tree:
            return cast(leaf, dtype)
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(leaf.shape[1:], dtype if floating else leaf.dtype)

    return jax.tree.map(
        struct, tree, is_leaf=lambda x: isinstance(x, statistics.Moments) and x is not tree
    )


@pytest.mark.parametrize(
    ("dtype", "x64"), [(jnp.bfloat16, False), (jnp.float32, True), (jnp.float64, True)]
)
@pytest.mark.parametrize("name", [name for name in CASES if CASES[name]().strict])
def test_no_precision_is_mixed_by_accident(name: str, dtype: Any, x64: bool) -> None:
    """Traced under strict promotion: half precision, double, and single beside double."""
    function, arguments, _ = CASES[name]()
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(function, *cast(arguments, dtype))


def test_types_are_checked_and_our_warnings_are_errors() -> None:
    """What conftest.py sets up is in force."""
    with pytest.raises(TypeCheckError):
        transport.linear_assignment(jnp.zeros((2, 3)))
    with pytest.raises(UserWarning, match="ours"):
        exec("import warnings; warnings.warn('ours')", {"__name__": "lmcjax.somewhere"})
    with pytest.warns(UserWarning, match="theirs"):
        exec("import warnings; warnings.warn('theirs')", {"__name__": "elsewhere"})
