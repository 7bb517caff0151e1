"""The exact assignment against SciPy and brute force, also inside JAX's transformations."""

import faulthandler
import functools
import itertools
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import Mesh, PartitionSpec
from scipy.optimize import linear_sum_assignment

from lmcjax import linear_assignment, network_map
from lmcjax.transport import assignment_certificate, exact_plan, sinkhorn_plan, wasserstein2

BACKENDS = ("scipy", "device")
SIZES = (1, 2, 5, 16, 33)


def low_rank(rng: np.random.Generator, count: int, n: int) -> np.ndarray:
    return rng.normal(size=(count, n, 2)) @ rng.normal(size=(count, 2, n))


def duplicated_rows(rng: np.random.Generator, count: int, n: int) -> np.ndarray:
    return rng.normal(size=(count, n, n))[:, np.arange(n) // 2]


def permuted_diagonal(rng: np.random.Generator, count: int, n: int) -> np.ndarray:
    rows = np.arange(n)
    cost = np.zeros((count, n, n))
    for matrix in cost:
        matrix[rows, rng.permutation(n)] = rng.normal(size=n)
    return cost


FAMILIES: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "random": lambda rng, count, n: rng.normal(size=(count, n, n)),
    "low rank": low_rank,
    "integers with ties": lambda rng, count, n: rng.integers(0, 4, size=(count, n, n)).astype(
        float
    ),
    "duplicated rows": duplicated_rows,
    "permuted diagonal": permuted_diagonal,
    "constant": lambda rng, count, n: np.broadcast_to(
        rng.normal(size=(count, 1, 1)), (count, n, n)
    ),
    "zero": lambda rng, count, n: np.zeros((count, n, n)),
}


def objective(cost: np.ndarray, permutation: np.ndarray) -> float:
    """The cost of a permutation in float64, after checking that it is one."""
    n = len(cost)
    assert sorted(np.asarray(permutation).tolist()) == list(range(n))
    return np.asarray(cost, np.float64)[np.arange(n), permutation].sum()


def scipy_objective(cost: np.ndarray, maximize: bool) -> float:
    return np.asarray(cost, np.float64)[linear_sum_assignment(cost, maximize)].sum()


def scipy_permutations(costs: np.ndarray) -> np.ndarray:
    """The permutation of each problem `[..., n, n]`; for random floats the optimum is unique."""
    flat = costs.reshape(-1, *costs.shape[-2:])
    return np.stack([linear_sum_assignment(cost)[1] for cost in flat]).reshape(costs.shape[:-1])


def brute_force(cost: np.ndarray) -> float:
    return min(objective(cost, np.array(p)) for p in itertools.permutations(range(len(cost))))


@functools.cache
def batched(backend: str, maximize: bool = False) -> Callable:
    return jax.jit(
        jax.vmap(functools.partial(linear_assignment, maximize=maximize, backend=backend))
    )


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_scipy_backend_reaches_scipys_objective(
    family: str, maximize: bool, rng: np.random.Generator
) -> None:
    """1,050 matrices minimised and maximised, 150 of each family."""
    for n in SIZES:
        costs = FAMILIES[family](rng, 30, n).astype(np.float32)
        permutations = np.asarray(batched("scipy", maximize)(costs))
        reached = [objective(cost, p) for cost, p in zip(costs, permutations, strict=True)]
        np.testing.assert_allclose(
            reached, [scipy_objective(c, maximize) for c in costs], rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_device_backend_reaches_scipys_objective(
    family: str, maximize: bool, rng: np.random.Generator
) -> None:
    costs = FAMILIES[family](rng, 8, 16).astype(np.float32)
    for cost, p in zip(costs, np.asarray(batched("device", maximize)(costs)), strict=True):
        scale = float(np.abs(cost).max())
        assert objective(cost, p) == pytest.approx(
            scipy_objective(cost, maximize), rel=1e-4, abs=1e-5 * scale
        )


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=50)
@given(
    cost=st.sampled_from([1, 2, 3, 6]).flatmap(
        lambda n: hnp.arrays(
            np.float32, (n, n), elements=st.integers(-20, 20) | st.floats(-5, 5, width=16)
        )
    )
)
@pytest.mark.slow
def test_no_permutation_is_better(backend: str, cost: np.ndarray) -> None:
    p = batched(backend)(cost[None])[0]
    assert objective(cost, p) == pytest.approx(brute_force(cost), rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.uint8])
def test_every_dtype_gives_the_optimum_as_int32(backend: str, dtype: jnp.dtype) -> None:
    cost = np.random.default_rng(3).integers(0, 10, (6, 6))
    solve = functools.partial(linear_assignment, backend=backend)
    least, most = jax.jit(lambda c: (solve(c), solve(c, maximize=True)))(jnp.asarray(cost, dtype))
    assert least.dtype == most.dtype == jnp.int32
    assert objective(cost, least) == scipy_objective(cost, maximize=False)
    assert objective(cost, most) == scipy_objective(cost, maximize=True)


def integer_objective(cost: np.ndarray, permutation: np.ndarray) -> int:
    """In Python's integers, which never round or overflow."""
    assert sorted(np.asarray(permutation).tolist()) == list(range(len(cost)))
    return sum(int(cost[i, p]) for i, p in enumerate(permutation))


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize(("dtype", "maximize"), [(np.int32, False), (np.uint32, True)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_integers_of_32_bits_are_exact(
    dtype: type, backend: str, maximize: bool, rng: np.random.Generator
) -> None:
    """Near both ends of the type, and over all of it; float32 has steps of 256 there."""
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    ranges = [(least, least + 1000), (most - 1000, most), (least, most)]
    costs = np.concatenate([rng.integers(*r, (20, 8, 8), dtype, endpoint=True) for r in ranges])
    costs[-10:] = np.where(rng.random((10, 8, 8)) < 0.6, most, costs[-10:])  # ties at the end
    for cost, p in zip(costs, np.asarray(batched(backend, maximize)(costs)), strict=True):
        expected = linear_sum_assignment(cost.astype(np.float64), maximize)[1]
        assert integer_objective(cost, p) == integer_objective(cost, expected)


@pytest.mark.parametrize(("dtype", "maximize"), [(np.int64, True), (np.uint64, False)])
def test_integers_of_64_bits_are_exact_over_all_their_range(
    dtype: type, maximize: bool, x64: None, rng: np.random.Generator
) -> None:
    """On the device; against all 120 permutations, for float64 has steps of 2,048 there."""
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    costs = rng.integers(least, most, (20, 5, 5), dtype, endpoint=True)
    costs[10:] = rng.integers(most - 50, most, (10, 5, 5), dtype, endpoint=True)
    permutations = list(itertools.permutations(range(5)))
    solve = jax.jit(
        jax.vmap(functools.partial(linear_assignment, maximize=maximize, backend="device"))
    )
    for cost, p in zip(costs, np.asarray(solve(costs)), strict=True):
        values = [integer_objective(cost, np.array(q)) for q in permutations]
        assert integer_objective(cost, p) == (max if maximize else min)(values)


@pytest.mark.parametrize(("dtype", "backend"), [(np.int64, "device"), (np.uint64, "scipy")])
def test_numpys_integers_of_64_bits_are_not_cut_off(
    dtype: type, backend: str, rng: np.random.Generator
) -> None:
    """Without x64, where JAX keeps the lower 32 bits; rows may have any offset."""
    cost = rng.integers(0, 1000, (8, 8), dtype)
    offset = (rng.integers(0, 2**20, (8, 1)) * 2**40).astype(dtype)
    moved = cost + offset
    for maximize in (False, True):
        p = linear_assignment(moved, maximize=maximize, backend=backend)
        assert integer_objective(cost, p) == scipy_objective(cost, maximize)
    plan = np.asarray(exact_plan(moved, backend="scipy"), np.float64)
    assert (8 * plan * cost).sum() == pytest.approx(scipy_objective(cost, maximize=False), rel=1e-6)
    wide = moved.copy()
    wide[0, 0] += 2**33
    with pytest.raises(ValueError, match=r"64-bit integers, spans \d+.*jax_enable_x64"):
        linear_assignment(wide, backend=backend)


@pytest.mark.usefixtures("unchecked")
def test_complex_costs_are_refused() -> None:
    cost = np.array([[0, 5j], [5, 0]], np.complex64)
    for backend in BACKENDS:
        with pytest.raises(ValueError, match=r"complex64.*no order"):
            linear_assignment(cost, backend=backend)
    for function in (
        exact_plan,
        functools.partial(sinkhorn_plan, epsilon=1.0),
        lambda c: assignment_certificate(c, np.arange(2)),
        lambda c: wasserstein2(c, c.real),
        lambda c: wasserstein2(c.real, c),
        lambda c: sinkhorn_plan(c.real, epsilon=1.0, a=c[0]),
    ):
        with pytest.raises(ValueError, match=r"complex64.*no order"):
            jax.eval_shape(function, jnp.asarray(cost))


@pytest.mark.parametrize("backend", BACKENDS)
def test_float64_is_solved_in_float64(backend: str, x64: None) -> None:
    """The two permutations differ by 1e-10, which float32 does not see."""
    solve = jax.jit(functools.partial(linear_assignment, backend=backend))
    cost = jnp.array([[1.0, 1.0], [1.0, 1.0 - 1e-10]])
    assert solve(cost).tolist() == [0, 1]
    assert solve(-cost).tolist() == [1, 0]
    assert solve(cost).dtype == jnp.int32


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_matrix_gives_the_identity_and_spoils_no_neighbour(backend: str, bad: float) -> None:
    costs = np.random.default_rng(0).normal(size=(20, 6, 6)).astype(np.float32)
    clean = np.asarray(batched(backend)(costs))
    costs[7, 2, 3] = bad
    permutations = np.asarray(batched(backend)(costs))
    np.testing.assert_array_equal(permutations[7], np.arange(6))
    np.testing.assert_array_equal(np.delete(permutations, 7, axis=0), np.delete(clean, 7, axis=0))
    assert not np.array_equal(clean[7], np.arange(6))


@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_values_end(backend: str) -> None:
    cost = np.float32(3e38) * np.sign(np.random.default_rng(0).normal(size=(6, 6))).astype(
        np.float32
    )
    assert sorted(batched(backend)(cost[None])[0].tolist()) == list(range(6))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_gradient_passes_through_the_choice(backend: str, rng: np.random.Generator) -> None:
    cost = jnp.asarray(rng.normal(size=(5, 5)), jnp.float32)

    def values(c: jax.Array) -> tuple[jax.Array, jax.Array]:
        p = linear_assignment(c, backend=backend)
        return jnp.sum(p.astype(c.dtype) * jnp.arange(5.0)), jnp.sum(c[jnp.arange(5), p])

    choice, gathered = jax.jit(jax.jacrev(values))(cost)
    np.testing.assert_array_equal(choice, np.zeros((5, 5)))
    np.testing.assert_array_equal(gathered, np.eye(5)[scipy_permutations(np.asarray(cost))])


@pytest.mark.parametrize("backend", BACKENDS)
def test_nested_vmap_scan_and_map_equal_a_loop_of_scipy(
    backend: str, rng: np.random.Generator
) -> None:
    costs = rng.normal(size=(2, 3, 6, 6)).astype(np.float32)
    solve = functools.partial(linear_assignment, backend=backend)

    @jax.jit
    def everywhere(costs: jax.Array) -> dict[str, jax.Array]:
        scanned = jax.lax.scan(lambda carry, cost: (carry, solve(cost)), 0, costs.reshape(6, 6, 6))[
            1
        ]
        return {
            "inner axis last": jax.vmap(jax.vmap(solve, 2))(jnp.moveaxis(costs, 1, -1)),
            "map": jax.lax.map(jax.vmap(solve), costs),
            "scan": scanned.reshape(2, 3, 6),
        }

    for name, result in everywhere(costs).items():
        np.testing.assert_array_equal(result, scipy_permutations(costs), err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sharded_over_two_devices_equals_a_loop_of_scipy(
    backend: str, two_devices: list[jax.Device]
) -> None:
    costs = np.random.default_rng(0).normal(size=(5, 6, 6)).astype(np.float32)
    solve = network_map(functools.partial(linear_assignment, backend=backend), devices=two_devices)
    np.testing.assert_array_equal(jax.jit(solve)(costs), scipy_permutations(costs))


def test_as_many_callbacks_as_cores_end(two_devices: list[jax.Device]) -> None:
    """Callbacks with large operands that wait for a thread of their own pool wait forever."""
    costs = np.random.default_rng(0).normal(size=(8, 200, 200)).astype(np.float32)
    solve = jax.jit(
        network_map(functools.partial(linear_assignment, backend="scipy"), devices=two_devices)
    )
    expected = scipy_permutations(costs)
    faulthandler.dump_traceback_later(60, exit=True)  # a deadlock ends the run, and shows where
    try:
        for _ in range(20):
            np.testing.assert_array_equal(solve(costs), expected)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.mark.usefixtures("strict_promotion")
def test_more_problems_than_threads_in_one_call(rng: np.random.Generator) -> None:
    """Each problem keeps its place when the batch is dealt out to threads."""
    costs = rng.normal(size=(101, 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(batched("scipy")(costs), scipy_permutations(costs))


def check_inside_shard_map(devices: list[jax.Device]) -> None:
    """Each device solves its own problems; like the costs, the columns count as varying."""
    costs = np.random.default_rng(0).normal(size=(2 * len(devices), 6, 6)).astype(np.float32)
    expected = scipy_permutations(costs)
    mesh = Mesh(np.array(devices), "pairs")
    pairs, same = PartitionSpec("pairs"), PartitionSpec()
    for backend in (*BACKENDS, "auto"):
        solve = functools.partial(linear_assignment, backend=backend)
        mapped = jax.shard_map(jax.vmap(solve), mesh=mesh, in_specs=pairs, out_specs=pairs)
        np.testing.assert_array_equal(jax.jit(mapped)(costs), expected)
        looped = functools.partial(jax.lax.map, solve)
        jax.eval_shape(jax.shard_map(looped, mesh=mesh, in_specs=pairs, out_specs=pairs), costs)
        alike = jax.shard_map(jax.vmap(solve), mesh=mesh, in_specs=pairs, out_specs=same)
        with pytest.raises(ValueError, match="replicated"):
            jax.eval_shape(alike, costs)


def test_inside_shard_map_with_its_checks_on(two_devices: list[jax.Device]) -> None:
    check_inside_shard_map(two_devices)


@pytest.mark.slow
def test_inside_shard_map_on_eight_devices() -> None:
    """In a process of its own, because JAX counts its devices once."""
    program = (
        "import runpy, sys, jax\n"
        "jax.config.update('jax_num_cpu_devices', 8)\n"
        "check = runpy.run_path(sys.argv[1])['check_inside_shard_map']\n"
        "check(jax.devices())\n"
        "print(len(jax.devices()), 'devices')\n"
    )
    command = [sys.executable, "-c", program, __file__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "8 devices\n"


@pytest.mark.parametrize("mapped", [jax.vmap, lambda f: functools.partial(jax.lax.map, f)])
def test_the_platform_of_the_program_chooses_not_that_of_its_tracing(
    mapped: Callable, exported_text: Callable
) -> None:
    """SciPy for a CPU, no callback elsewhere; in a batch and in a loop there is one solver only."""
    assert jax.default_backend() == "cpu"
    costs = jax.ShapeDtypeStruct((4, 3, 3), jnp.float32)

    def program(backend: str, *platforms: str) -> str:
        solve = mapped(functools.partial(linear_assignment, backend=backend))
        if platforms:
            return exported_text(solve, platforms, costs)
        return jax.jit(solve).lower(costs).as_text()

    def loops(text: str) -> int:
        return text.count("stablehlo.while")

    assert "callback" in program("auto")
    assert loops(program("auto")) == loops(program("scipy")) < loops(program("device"))
    for platforms in (("cuda",), ("tpu",), ("cuda", "tpu")):
        text = program("auto", *platforms)
        assert "callback" not in text
        assert "f64" not in text
        assert loops(text) == loops(program("device"))


@pytest.mark.usefixtures("unchecked")
def test_errors_show_the_shape_and_the_backend() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*square"):
        linear_assignment(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"\(4, 3, 3\).*vmap"):
        linear_assignment(jnp.zeros((4, 3, 3)))
    with pytest.raises(ValueError, match=r"'gurobi'.*'scipy', 'device'"):
        linear_assignment(jnp.zeros((3, 3)), backend="gurobi")
