"""The networks of a sweep as programs, one for each width and depth."""

import functools
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from lmcjax.data import Dataset
from lmcjax.models import Network, build_network
from lmcjax.sweep._grid import Sweep
from lmcjax.symmetry import PermutationSpec, discover, pad_neurons, real_entries
from lmcjax.training import TrainConfig, mean_cross_entropy

Padding: TypeAlias = Literal["none", "zeros", "masked"]
"""How networks that are narrower than the program they train in are padded: there are none; with
neurons of zeros, which stay zero by themselves; or with a mask over their gradient as well."""


class Program(NamedTuple):
    """A network of one width and depth."""

    network: Network
    spec: PermutationSpec


class Programs:
    """The programs of a sweep on a data set, each discovered once.

    Raises:
        ValueError: a batch is larger than the training set.
    """

    def __init__(self, sweep: Sweep, dataset: Dataset) -> None:
        num_samples = len(dataset.train.labels)
        self.sweep = sweep
        self.dataset = dataset
        self.refusals: list[str] = []  # why widths do not share a program, where it would have paid
        self.steps_per_epoch = num_samples // sweep.batch_size
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"batch size {sweep.batch_size} is larger than the training set of "
                f"{num_samples} samples"
            )

    @property
    def num_steps(self) -> int:
        """Training steps of every network."""
        return self.sweep.epochs * self.steps_per_epoch

    @functools.cache  # noqa: B019 - lives as long as the sweep runs
    def program(self, width: int, num_hidden_layers: int) -> Program:
        """The network of a width and depth, and what may be permuted in it.

        Raises:
            ValueError: nothing may be permuted, or the model does not fit the data.
        """
        network = build_network(
            self.sweep.model,
            self.dataset.input_shape,
            self.dataset.num_classes,
            width=width,
            num_hidden_layers=num_hidden_layers,
        )
        params = jax.eval_shape(network.init, jax.random.key(0))
        spec = discover(network.apply, params, self.dataset.train.inputs[:2])
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
        input_shape = (self.sweep.batch_size, *self.dataset.input_shape)
        inputs = jax.ShapeDtypeStruct(input_shape, jnp.result_type(float))
        cost: Any = jax.jit(network.apply).lower(params, inputs).cost_analysis()
        return float(cost["flops"]) / self.sweep.batch_size

    def training_work(self, width: int, num_hidden_layers: int) -> float:
        """Floating-point operations of one network in one epoch."""
        # The backward pass takes about twice as many as the forward pass
        per_sample = 3 * self.operations(width, num_hidden_layers)
        return per_sample * self.steps_per_epoch * self.sweep.batch_size

    def comparing_work(self, width: int, num_hidden_layers: int) -> float:
        """Floating-point operations of matching and measuring one pair, without the assignments."""
        num_train = len(self.dataset.train.labels)
        num_test = len(self.dataset.test.labels)
        # Each line has its points and its midpoint; there is one for each matching and for none
        num_networks = (self.sweep.num_points + 1) * (1 + len(self.sweep.matchings))
        num_passes = num_networks * (num_train + num_test) + 4 * num_train
        return self.operations(width, num_hidden_layers) * num_passes

    @functools.cache  # noqa: B019
    def padding(self, width: int, wide: int, num_hidden_layers: int) -> Padding:
        """How networks of one width can train in the program of another, found by trial.

        Raises:
            ValueError: they cannot, since neurons of zeros change the outputs (a normalisation over
                the neurons, a scale that follows their number), or the two widths are different
                programs.
        """
        if width == wide:
            return "none"
        own = self.program(width, num_hidden_layers)
        padded = self.program(wide, num_hidden_layers)
        trial = self._try_padding(own, padded)
        tolerance = 1e-4 * np.abs(trial.outputs).max()
        if not np.allclose(trial.padded_outputs, trial.outputs, rtol=1e-3, atol=tolerance):
            raise ValueError(
                f"{self.sweep.model}: neurons of zeros change what networks of width {width} "
                "compute: something normalises over the neurons, or scales with their number"
            )
        return "zeros" if trial.padding_stays else "masked"

    def _try_padding(self, own: Program, padded: Program) -> "_PaddingTrial":
        """Compare a network of random weights, on random inputs, with itself after padding."""
        rng = np.random.default_rng(0)

        def random_weights(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
            return rng.normal(size=leaf.shape, scale=0.3).astype(leaf.dtype)

        shapes = jax.eval_shape(own.network.init, jax.random.key(0))
        params = jax.tree.map(random_weights, shapes)
        inputs = jnp.asarray(rng.uniform(size=(8, *self.dataset.input_shape)), jnp.float32)
        labels = jnp.arange(8) % self.dataset.num_classes

        def padded_loss(params: PyTree) -> Float[Array, ""]:
            return mean_cross_entropy(padded.network.apply(params, inputs), labels)

        @jax.jit
        def trial(params: PyTree) -> _PaddingTrial:
            padded_params = pad_neurons(own.spec, padded.spec, params)
            gradient = jax.grad(padded_loss)(padded_params)
            real = real_entries(own.spec, padded.spec, params)
            padding_moves = jax.tree.map(lambda g, r: jnp.any((g != 0) & ~r), gradient, real)
            return _PaddingTrial(
                outputs=own.network.apply(params, inputs),
                padded_outputs=padded.network.apply(padded_params, inputs),
                padding_stays=~jnp.any(jnp.stack(jax.tree.leaves(padding_moves))),
            )

        return trial(params)

    def train_config(self, width: int, num_hidden_layers: int, optimizer: Any) -> TrainConfig:
        """How networks of a width are trained, but for their learning rates."""
        return TrainConfig(
            learning_rate=0.0,
            network=self.program(width, num_hidden_layers).network,
            num_steps=self.num_steps,
            batch_size=self.sweep.batch_size,
            optimizer=optimizer,
        )


class _PaddingTrial(NamedTuple):
    """A network beside its padded self."""

    outputs: Float[Array, "8 ..."]
    padded_outputs: Float[Array, "8 ..."]
    padding_stays: Bool[Array, ""]  # whether the gradient of every padded entry is zero
