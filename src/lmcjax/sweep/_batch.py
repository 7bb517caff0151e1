"""Computing a batch: its networks trained, its pairs matched and measured, everything stored."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import PyTree

from lmcjax.batching import map_in_chunks, replicate
from lmcjax.sweep._batch_training import Trained, TrainingCall, train_call
from lmcjax.sweep._context import RunContext
from lmcjax.sweep._folder import StoredBatch
from lmcjax.sweep._grid import Cell
from lmcjax.sweep._network_programs import Program
from lmcjax.sweep._pairs import Compared, compiled_comparison
from lmcjax.sweep._sweep_plan import Group, Plan, PlannedNetwork, ceil_div
from lmcjax.sweep._training_checkpoints import Checkpoints
from lmcjax.symmetry import drop_padding, named_leaves

_PAIRS_ON_A_CPU = 2  # per device and call: more would gain nothing


class Batches:
    """Computes the batches of a plan.

    Attributes:
        plan: may be replaced by one with more calls per batch.
        units: of each batch.
    """

    def __init__(self, context: RunContext, plan: Plan) -> None:
        self.plan = plan
        self._programs = context.programs
        self._sweep = context.programs.sweep
        self._folder = context.folder
        self._devices = context.devices
        self._checkpoint_seconds = context.checkpoint_seconds
        self._reporter = context.reporter
        self.units = [plan.units(self._sweep, number) for number in range(len(plan.batches))]
        self._most_pairs = self._count_most_pairs()
        dataset = context.programs.dataset
        samples = (tuple(dataset.train), tuple(dataset.test))
        self._train_data, self._test_data = replicate(samples, context.devices)

    def networks_per_call(self, number: int) -> int:
        """Networks per compiled call of a batch."""
        return self.plan.per_call(self._sweep, self.plan.batches[number], len(self._devices))

    def compute(self, number: int) -> None:
        """Train, match, measure and store a batch."""
        start = time.perf_counter()
        trained = self._train(number)
        middle = time.perf_counter()
        compared = self._compare(number, trained)
        end = time.perf_counter()
        seconds = {"train": middle - start, "compare": end - middle}
        arrays = {"training_loss": trained.losses, "training_finite": trained.finite, **compared}
        if self._sweep.keep_networks:
            self._store_networks(number, trained)
        self._folder.write_batch(number, StoredBatch(arrays, seconds))
        # On the test set, without matching
        barriers = compared["barrier"][:, 1, 0]
        self._reporter.barrier = np.nanmean(barriers) if np.isfinite(barriers).any() else np.nan

    def _group(self, number: int) -> Group:
        return self.plan.groups[self.plan.batches[number].group]

    def _cell(self, network: PlannedNetwork) -> Cell:
        return self._sweep.cells[network.cell]

    def _program(self, number: int, width: int) -> Program:
        """The program of a width among the networks of a batch."""
        return self._programs.program(width, self._group(number).num_hidden_layers)

    def _widest_program(self, number: int) -> Program:
        """The program in whose shape the networks of a batch train."""
        return self._program(number, self._group(number).widths[-1])

    # Training

    def _train(self, number: int) -> Trained:
        """Train the networks of a batch, call after call."""
        self._reporter.stage = "train"
        networks = self.plan.networks(self._sweep, number)
        per_call = self.networks_per_call(number)
        parts = [
            self._train_in_one_call(number, first) for first in range(0, len(networks), per_call)
        ]
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        # The last call may have been filled up
        return jax.tree.map(lambda leaf: leaf[: len(networks)], whole)

    def _train_in_one_call(self, number: int, first: int) -> Trained:
        """Train the networks of a batch from its `first` on, as many as fit into a call."""
        networks = self.plan.networks(self._sweep, number)
        per_call = self.networks_per_call(number)
        chosen = networks[first : first + per_call]
        # Filled up by repeating the last network, so that all calls share a compiled program
        filled = chosen + [chosen[-1]] * (per_call - len(chosen))
        call = TrainingCall(
            group=self._group(number),
            cells=[self._cell(network) for network in filled],
            seeds=[self._sweep.seeds[network.seed] for network in filled],
            devices=self._devices,
        )

        def after_epoch(epochs_done: int, losses: np.ndarray) -> bool:
            whole_trainings = first * self._sweep.epochs
            self._report_training(
                number, whole_trainings + len(chosen) * epochs_done, losses[: len(chosen), -1]
            )
            return not self._reporter.signalled

        path = self._folder.checkpoint_path(number, f"{per_call}-{first // per_call}")
        trained = train_call(
            self._programs,
            call,
            self._train_data,
            Checkpoints(path, self._checkpoint_seconds),
            after_epoch,
            keep=first + per_call < len(networks),
        )
        if trained is None:
            self._reporter.stop_if_signalled()
        assert trained is not None  # it stops early for a signal only
        return trained

    def _report_training(self, number: int, epochs_done: int, losses: np.ndarray) -> None:
        """Report the training of a batch: epochs of single networks, and their newest losses."""
        group = self._group(number)
        per_epoch = self._programs.training_work(group.widths[-1], group.num_hidden_layers)
        self._reporter.operations_under_way = epochs_done * per_epoch
        finite = losses[np.isfinite(losses)]
        self._reporter.training_loss = finite.mean() if finite.size else np.nan
        self._reporter.report()

    # Comparing

    def _compare(self, number: int, trained: Trained) -> dict[str, np.ndarray]:
        """Compare all pairs of a batch in the order of its units, width by width."""
        self._reporter.stage = "compare"
        parts: list[Compared] = []
        permutations: list[np.ndarray] = []
        for width, pairs in self._pairs_by_width(number).items():
            compared = self._compare_width(number, width, trained, np.array(pairs))
            spec = self._program(number, width).spec
            by_group = [np.asarray(compared.permutations[group]) for group in spec.groups]
            permutations.append(_permutations_in_one_array(by_group))
            parts.append(compared._replace(permutations={}))
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        arrays = whole._asdict()
        del arrays["permutations"]
        if self._sweep.keep_permutations:
            arrays["permutation"] = _concatenate_filled(permutations, axis=0)
        return arrays

    def _pairs_by_width(self, number: int) -> dict[int, list[tuple[int, int]]]:
        """The pairs of a batch, as positions among its networks; widths rise, as its units do."""
        pairs: dict[int, list[tuple[int, int]]] = {}
        first = 0
        for unit in self.units[number]:
            width = self._cell(unit[0]).width
            positions = range(first, first + len(unit))
            pairs.setdefault(width, []).extend(itertools.combinations(positions, 2))
            first += len(unit)
        return pairs

    def _compare_width(
        self, number: int, width: int, trained: Trained, pairs: np.ndarray
    ) -> Compared:
        """Compare the pairs of one width in a batch; fields have a leading axis of pairs."""
        own = self._program(number, width)
        compare = compiled_comparison(
            own.network,
            own.spec,
            self._widest_program(number).spec,
            self._sweep.matchings,
            self._sweep.num_points,
            self._sweep.moment_samples,
            self._devices,
        )
        done_before = self._reporter.operations_under_way
        per_pair = self._programs.comparing_work(width, self._group(number).num_hidden_layers)

        def on_progress(done: int, total: int) -> None:
            self._reporter.operations_under_way = done_before + done * per_pair
            self._reporter.report()
            self._reporter.stop_if_signalled()

        return map_in_chunks(
            compare,
            self._pairs_per_call(number, width),
            (_take(trained.params, pairs[:, 0]), _take(trained.params, pairs[:, 1])),
            (self._train_data, self._test_data),
            on_progress=on_progress,
        )

    def _pairs_per_call(self, number: int, width: int) -> int:
        """Pairs per compiled call, a multiple of the devices: the same for a whole group."""
        num_devices = len(self._devices)
        if self._devices[0].platform == "cpu":
            most = _PAIRS_ON_A_CPU * num_devices
        else:
            most = self.networks_per_call(number) // 2
        # No batch of the group has more: larger calls would be filled up only
        most = min(most, self._most_pairs[self.plan.batches[number].group, width])
        return ceil_div(max(1, most), num_devices) * num_devices

    def _count_most_pairs(self) -> dict[tuple[int, int], int]:
        """Pairs of one width in any batch of a group, by group and width."""
        most: dict[tuple[int, int], int] = {}
        for batch, units in zip(self.plan.batches, self.units, strict=True):
            num_pairs: Counter[int] = Counter()
            for unit in units:
                num_pairs[self._cell(unit[0]).width] += math.comb(len(unit), 2)
            for width, count in num_pairs.items():
                key = (batch.group, width)
                most[key] = max(most.get(key, 0), count)
        return most

    # Storing

    def _store_networks(self, number: int, trained: Trained) -> None:
        arrays = {}
        wide = self._widest_program(number)
        for row, network in enumerate(self.plan.networks(self._sweep, number)):
            own = self._program(number, self._cell(network).width)
            params = drop_padding(wide.spec, own.spec, _take(trained.params, row))
            for name, leaf in named_leaves(params).items():
                arrays[f"{network.cell}/{network.seed}/{name}"] = np.asarray(leaf)
        self._folder.write_networks(number, arrays)


def _take(params: PyTree, rows: int | np.ndarray) -> PyTree:
    """Networks out of many, by their positions on the leading axis."""
    return jax.tree.map(lambda leaf: leaf[rows], params)


def _permutations_in_one_array(by_group: Sequence[np.ndarray]) -> np.ndarray:
    """Stack the permutations of all groups: `[pairs, matchings, groups, neurons]`.

    Short ones are filled up with -1. Those of stacked layers, or of heads, lie end to end.
    """
    rows = []
    for permutations in by_group:
        num_pairs, num_matchings = permutations.shape[:2]
        rows.append(permutations.reshape(num_pairs, num_matchings, 1, -1))
    return _concatenate_filled(rows, axis=2)


def _concatenate_filled(arrays: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Concatenate arrays along an axis, their last axes filled up with -1 to the same length."""
    longest = max(array.shape[-1] for array in arrays)
    filled = []
    for array in arrays:
        widths = [(0, 0)] * array.ndim
        widths[-1] = (0, longest - array.shape[-1])
        filled.append(np.pad(array, widths, constant_values=-1))
    return np.concatenate(filled, axis=axis)
