"""Computing a batch: its networks trained, its pairs matched and measured, everything stored."""

import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lmcjax.batching import map_in_chunks, replicate
from lmcjax.sweep._config import Cell
from lmcjax.sweep._folder import StoredBatch, SweepFolder
from lmcjax.sweep._pairs import Compared, compiled_comparison
from lmcjax.sweep._plan import Group, Plan
from lmcjax.sweep._programs import Programs
from lmcjax.sweep._progress import Progress
from lmcjax.sweep._train import Checkpoints, Trained, train_call
from lmcjax.symmetry import drop_padding, named_leaves

_PAIRS_ON_A_CPU = 2  # per device and call: more would gain nothing


class Batches:
    """The batches of a plan, on some devices."""

    def __init__(
        self,
        programs: Programs,
        folder: SweepFolder,
        plan: Plan,
        devices: tuple[jax.Device, ...],
        checkpoint_seconds: float,
        progress: Progress,
    ) -> None:
        self.programs, self.sweep, self.folder, self.plan = programs, programs.sweep, folder, plan
        self.devices, self.checkpoint_seconds, self.progress = devices, checkpoint_seconds, progress
        self.units = [plan.units(self.sweep, batch) for batch in range(len(plan.batches))]
        self._most: dict[tuple[int, int], int] = {}
        samples = programs.dataset
        self.train, self.test = replicate((tuple(samples.train), tuple(samples.test)), devices)

    def networks_per_call(self, number: int) -> int:
        """Networks per compiled call of a batch."""
        return self.plan.per_call(self.sweep, self.plan.batches[number], len(self.devices))

    def _group(self, number: int) -> Group:
        return self.plan.groups[self.plan.batches[number].group]

    def _cell(self, network: Any) -> Cell:
        return self.sweep.cells[network.cell]

    def compute(self, number: int) -> None:
        """Train, match, measure and store a batch."""
        group = self._group(number)
        start = time.perf_counter()
        trained = self._train(number, group)
        middle = time.perf_counter()
        compared, permutations = self._compare(number, group, trained)
        seconds = {"train": middle - start, "compare": time.perf_counter() - middle}
        arrays = {"training_loss": trained.losses, "training_finite": trained.finite, **compared}
        if self.sweep.keep_permutations:
            arrays["permutation"] = permutations
        if self.sweep.keep_networks:
            self._store_networks(number, group, trained)
        self.folder.write_batch(number, StoredBatch(arrays, seconds))
        unmatched = compared["barrier"][:, 1, 0]
        self.progress.barrier = np.nanmean(unmatched) if np.isfinite(unmatched).any() else np.nan

    def _train(self, number: int, group: Group) -> Trained:
        networks = self.plan.networks(self.sweep, number)
        per_call = self.networks_per_call(number)
        parts = []
        self.progress.stage = "train"
        epoch_work = self.programs.training_work(group.widths[-1], group.num_hidden_layers)
        for call, first in enumerate(range(0, len(networks), per_call)):
            chosen = [networks[min(i, len(networks) - 1)] for i in range(first, first + per_call)]
            real = min(per_call, len(networks) - first)

            def after_epoch(
                done: int, losses: np.ndarray, first: int = first, real: int = real
            ) -> bool:
                self.progress.under_way = (first * self.sweep.epochs + real * done) * epoch_work
                finite = losses[:real, -1][np.isfinite(losses[:real, -1])]
                self.progress.training_loss = finite.mean() if finite.size else np.nan
                self.progress.report()
                return not self.progress.stopped

            path = self.folder.checkpoint_path(number, f"{per_call}-{call}")
            trained = train_call(
                self.programs,
                group,
                [self._cell(network) for network in chosen],
                [self.sweep.seeds[network.seed] for network in chosen],
                self.train,
                self.devices,
                Checkpoints(path, self.checkpoint_seconds),
                after_epoch,
                keep=first + per_call < len(networks),
            )
            if trained is None:
                self.progress.check_signals()
            parts.append(trained)
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(networks)], *parts)

    def _compare(
        self, number: int, group: Group, trained: Trained
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """All pairs of a batch in the order of its units, width by width."""
        self.progress.stage = "compare"
        pairs: dict[int, list[tuple[int, int]]] = {}  # by width, rising as the units are
        first = 0
        for unit in self.units[number]:
            of_unit = itertools.combinations(range(first, first + len(unit)), 2)
            pairs.setdefault(self._cell(unit[0]).width, []).extend(of_unit)
            first += len(unit)
        parts, permutations = [], []
        for width, chosen in pairs.items():
            result = self._compare_width(number, group, width, trained, np.array(chosen))
            groups = self.programs.program(width, group.num_hidden_layers).spec.groups
            permutations.append(_in_one_array([result.permutations[g] for g in groups]))
            parts.append(result._replace(permutations={}))
        merged = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        arrays = {name: value for name, value in merged._asdict().items() if name != "permutations"}
        return arrays, _stack_padded(permutations)

    def _compare_width(
        self, number: int, group: Group, width: int, trained: Trained, pairs: np.ndarray
    ) -> Compared:
        depth = group.num_hidden_layers
        own, wide = (self.programs.program(w, depth) for w in (width, group.widths[-1]))
        compare = compiled_comparison(
            own.network,
            own.spec,
            wide.spec,
            self.sweep.matchings,
            self.sweep.num_points,
            self.sweep.moment_samples,
            self.devices,
        )
        on_cpu = self.devices[0].platform == "cpu"
        most = (
            _PAIRS_ON_A_CPU * len(self.devices) if on_cpu else self.networks_per_call(number) // 2
        )
        chunk = max(1, min(most, self._most_pairs(self.plan.batches[number].group, width)))
        chunk = -(-chunk // len(self.devices)) * len(self.devices)
        base, work = self.progress.under_way, self.programs.comparing_work(width, depth)

        def on_progress(done: int, total: int) -> None:
            self.progress.under_way = base + done * work
            self.progress.report()
            self.progress.check_signals()

        sides = [jax.tree.map(lambda leaf, s=s: leaf[pairs[:, s]], trained.params) for s in (0, 1)]
        return map_in_chunks(
            compare, chunk, sides, (self.train, self.test), on_progress=on_progress
        )

    def _most_pairs(self, group: int, width: int) -> int:
        """Pairs of one width in any batch of a group: calls need not be larger."""
        if (group, width) not in self._most:
            batches = [
                units
                for units, batch in zip(self.units, self.plan.batches, strict=True)
                if batch.group == group
            ]
            counts = (
                sum(math.comb(len(u), 2) for u in units if self._cell(u[0]).width == width)
                for units in batches
            )
            self._most[group, width] = max(counts)
        return self._most[group, width]

    def _store_networks(self, number: int, group: Group, trained: Trained) -> None:
        arrays = {}
        wide = self.programs.program(group.widths[-1], group.num_hidden_layers).spec
        for i, network in enumerate(self.plan.networks(self.sweep, number)):
            spec = self.programs.program(self._cell(network).width, group.num_hidden_layers).spec
            params = jax.tree.map(lambda leaf, i=i: leaf[i], trained.params)
            for name, leaf in named_leaves(drop_padding(wide, spec, params)).items():
                arrays[f"{network.cell}/{network.seed}/{name}"] = np.asarray(leaf)
        self.folder.write_networks(number, arrays)


def _in_one_array(permutations: Sequence[Any]) -> np.ndarray:
    """`[pairs, matchings, groups, neurons]`, filled up with -1; stacked layers and heads lie end to
    end.
    """
    flat = [p.reshape(*p.shape[:2], -1) for p in permutations]
    return _stack_padded([p[:, :, None] for p in flat], axis=2)


def _stack_padded(arrays: list[np.ndarray], axis: int = 0) -> np.ndarray:
    """Arrays whose last axes differ in length, one after the other along an axis, filled up with
    -1.
    """
    longest = max(array.shape[-1] for array in arrays)
    filled = [
        np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, longest - a.shape[-1])], constant_values=-1)
        for a in arrays
    ]
    return np.concatenate(filled, axis=axis)
