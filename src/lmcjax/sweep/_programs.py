"""The networks of a sweep as programs: what each width and depth computes, and whether widths can
share a program.
"""

import functools
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lmcjax.data import Dataset
from lmcjax.models import Network, build_network
from lmcjax.sweep._config import Sweep
from lmcjax.symmetry import PermutationSpec, discover, pad_neurons, real_entries
from lmcjax.training import TrainConfig, mean_cross_entropy

Padding: TypeAlias = Literal["none", "zeros", "masked"]
"""Of the networks that are narrower than the program they train in: there are none; neurons of
zeros, which stay so by
themselves; or with a mask over their gradient."""


class Program(NamedTuple):
    """A network of one width and depth."""

    network: Network
    spec: PermutationSpec


class Programs:
    """The programs of a sweep on a data set, each discovered once."""

    def __init__(self, sweep: Sweep, dataset: Dataset) -> None:
        self.sweep = sweep
        self.dataset = dataset
        self.refusals: list[str] = []  # why widths do not share a program, where it would have paid
        self.steps_per_epoch = len(dataset.train.labels) // sweep.batch_size
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"batch size {sweep.batch_size} is larger than the training set of {len(dataset.train.labels)} samples"
            )

    @property
    def num_steps(self) -> int:
        """Training steps of every network."""
        return self.sweep.epochs * self.steps_per_epoch

    @functools.cache  # noqa: B019 - lives as long as the sweep runs
    def program(self, width: int, num_hidden_layers: int) -> Program:
        """The network and what may be permuted in it.

        Raises:
            ValueError: nothing may be permuted, or the model does not fit the data.
        """
        data, shape = self.dataset, self.dataset.input_shape
        network = build_network(
            self.sweep.model,
            shape,
            data.num_classes,
            width=width,
            num_hidden_layers=num_hidden_layers,
        )
        spec = discover(
            network.apply, jax.eval_shape(network.init, jax.random.key(0)), data.train.inputs[:2]
        )
        if not spec.groups:
            raise ValueError(
                f"no neurons of this network can be permuted, as far as its program shows: {spec}"
            )
        return Program(network, spec)

    @functools.cache  # noqa: B019
    def operations(self, width: int, num_hidden_layers: int) -> float:
        """Floating-point operations of one network on one sample, as XLA counts them."""
        network = self.program(width, num_hidden_layers).network
        params = jax.eval_shape(network.init, jax.random.key(0))
        inputs = jax.ShapeDtypeStruct(
            (self.sweep.batch_size, *self.dataset.input_shape), jnp.result_type(float)
        )
        cost: Any = jax.jit(network.apply).lower(params, inputs).cost_analysis()
        return float(cost["flops"]) / self.sweep.batch_size

    def training_work(self, width: int, num_hidden_layers: int) -> float:
        """Floating-point operations of one network in one epoch: forward, and twice as many
        backward.
        """
        return (
            3
            * self.operations(width, num_hidden_layers)
            * self.steps_per_epoch
            * self.sweep.batch_size
        )

    def comparing_work(self, width: int, num_hidden_layers: int) -> float:
        """Floating-point operations of matching and measuring one pair, the assignments left out."""
        train, test = (len(samples.labels) for samples in (self.dataset.train, self.dataset.test))
        points = (self.sweep.num_points + 1) * (1 + len(self.sweep.matchings))
        return self.operations(width, num_hidden_layers) * (points * (train + test) + 4 * train)

    @functools.cache  # noqa: B019
    def padding(self, width: int, wide: int, num_hidden_layers: int) -> Padding:
        """How networks of one width can train in the program of another: by trial on random weights
        and inputs.

        Raises:
            ValueError: they cannot, since neurons of zeros change the outputs (a normalisation over
                the neurons, a scale that follows their number), or the two widths are different
                programs.
        """
        if width == wide:
            return "none"
        own, padded = self.program(width, num_hidden_layers), self.program(wide, num_hidden_layers)
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(own.network.init, jax.random.key(0))
        params = jax.tree.map(
            lambda leaf: rng.normal(size=leaf.shape, scale=0.3).astype(leaf.dtype), shapes
        )
        inputs = jnp.asarray(rng.uniform(size=(8, *self.dataset.input_shape)), jnp.float32)
        labels = jnp.arange(8) % self.dataset.num_classes

        @jax.jit
        def trial(params: PyTree) -> tuple[Array, ...]:
            wider = pad_neurons(own.spec, padded.spec, params)
            gradient = jax.grad(
                lambda p: mean_cross_entropy(padded.network.apply(p, inputs), labels)
            )(wider)
            real = real_entries(own.spec, padded.spec, params)
            moved = jax.tree.map(lambda g, r: jnp.any((g != 0) & ~r), gradient, real)
            still = ~jnp.any(jnp.stack(jax.tree.leaves(moved)))
            return own.network.apply(params, inputs), padded.network.apply(wider, inputs), still

        outputs, wide_outputs, still = trial(params)
        if not np.allclose(wide_outputs, outputs, rtol=1e-3, atol=1e-4 * np.abs(outputs).max()):
            raise ValueError(
                f"{self.sweep.model}: neurons of zeros change what networks of width {width} compute: something "
                "normalises over the neurons, or scales with their number"
            )
        return "zeros" if still else "masked"

    def train_config(self, width: int, num_hidden_layers: int, optimizer: Any) -> TrainConfig:
        """How networks of a width are trained, but for their learning rates."""
        return TrainConfig(
            learning_rate=0.0,
            network=self.program(width, num_hidden_layers).network,
            num_steps=self.num_steps,
            batch_size=self.sweep.batch_size,
            optimizer=optimizer,
        )
