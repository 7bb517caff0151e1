"""One training run as a pure function."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree

from lmcjax._cross_entropy import cross_entropies
from lmcjax.models import Network

Optimizer: TypeAlias = Literal["sgd", "sgd_plain", "adam", "adamw"]


def mean_cross_entropy(
    logits: Float[Array, "num_samples num_classes"], labels: Int[Array, " num_samples"]
) -> Array:
    """Mean of `-log softmax(logits)[label]`, in nats; nan where some label is no class."""
    return cross_entropies(logits, labels).mean()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The configuration of a run.

    It is a pytree whose arrays are the learning rate and a mask, so that `vmap` sweeps these.
    Everything else is static. The learning rate rises linearly from 1e-6 over `warmup_steps`,
    then falls to 0 along a cosine (the paper's protocol).

    Attributes:
        learning_rate: its peak, traced; a float, or an array with an axis per `vmap`.
        network: a pure init/apply pair, static.
        num_steps: length of the whole run, and of the schedule.
        batch_size: samples per step; what is left of an epoch when it is not a multiple is skipped.
        optimizer: `"sgd"` with momentum, `"sgd_plain"` without, `"adam"` or `"adamw"`.
        momentum: of `"sgd"`.
        weight_decay: of AdamW.
        warmup_steps: at most `num_steps`; shorter runs warm up all the way.
        loss: static; `loss(outputs, labels)`, the mean over a batch.
        gradient_mask: booleans in the shape of the parameters; where they are False the gradient
            counts as zero, and zeros stay zeros. None: all of it counts.
    """

    learning_rate: Any  # while JAX traces, any leaf of a pytree
    network: Network = dataclasses.field(metadata={"static": True})
    num_steps: int = dataclasses.field(metadata={"static": True})
    batch_size: int = dataclasses.field(default=100, metadata={"static": True})
    optimizer: Optimizer = dataclasses.field(default="sgd", metadata={"static": True})
    momentum: float = dataclasses.field(default=0.9, metadata={"static": True})
    weight_decay: float = dataclasses.field(default=1e-4, metadata={"static": True})
    warmup_steps: int = dataclasses.field(default=10, metadata={"static": True})
    loss: Callable[[Any, Array], Array] = dataclasses.field(
        default=mean_cross_entropy, metadata={"static": True}
    )
    gradient_mask: Any = None  # a pytree; while JAX traces, any leaf of one

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(Optimizer):
            raise ValueError(f"optimizer {self.optimizer!r} is not one of {get_args(Optimizer)}")
        smallest = {"num_steps": 1, "batch_size": 1, "warmup_steps": 0}
        for name, least in smallest.items():
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} is at least {least}, not {value}")


def learning_rate_schedule(config: TrainConfig) -> optax.Schedule:
    """The learning rate as a function of the step; the peak may be traced."""
    peak = jnp.asarray(config.learning_rate)
    warmup = min(config.warmup_steps, config.num_steps)
    cosine = optax.cosine_decay_schedule(peak, max(config.num_steps - warmup, 1))
    if warmup == 0:
        return cosine
    # Joined by hand, because optax's warm-up with cosine refuses a traced peak.
    rise = optax.linear_schedule(1e-6, peak, warmup)
    return optax.join_schedules([rise, cosine], [warmup])


def _make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """The optimizer with its schedule."""
    schedule = learning_rate_schedule(config)
    if config.optimizer == "sgd":
        return optax.sgd(schedule, momentum=config.momentum)
    if config.optimizer == "sgd_plain":
        return optax.sgd(schedule)
    if config.optimizer == "adam":
        return optax.adam(schedule)
    return optax.adamw(schedule, weight_decay=config.weight_decay)


class TrainState(NamedTuple):
    """A run between two steps: all that it needs to go on after it was stored or moved."""

    config: TrainConfig
    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]  # steps done
    key: Key[Array, ""]  # of the shuffles; epoch e uses fold_in(key, e)
    finite: Bool[Array, ""]  # False: some training loss was nan or inf, the run has diverged


class TrainResult(NamedTuple):
    """A finished run; batched runs have leading axes."""

    params: PyTree
    losses: Float[Array, " num_steps"]  # training loss of each step's batch, before the step
    finite: Bool[Array, ""]  # False: the run has diverged


def init_state(
    config: TrainConfig, key: Key[Array, ""], params: PyTree | None = None
) -> TrainState:
    """The state before the first step.

    Parameters are drawn from `fold_in(key, 0)`, unless given, and shuffles from `fold_in(key, 1)`.

    >>> import jax, lmcjax
    >>> network = lmcjax.FlaxNetwork(lmcjax.MLP((8,), 2), input_shape=(3,))
    >>> rates = jnp.array([0.1, 0.01])
    >>> configs = TrainConfig(rates, network, num_steps=5)
    >>> states = jax.vmap(init_state)(configs, jax.random.split(jax.random.key(0)))
    >>> states.params["Dense_0"]["kernel"].shape
    (2, 3, 8)
    """
    if params is None:
        params = config.network.init(jax.random.fold_in(key, 0))
    # An array, so that the state has the same type before and after a compiled step.
    learning_rate = jnp.asarray(config.learning_rate, jnp.result_type(float))
    return TrainState(
        config=dataclasses.replace(config, learning_rate=learning_rate),
        params=params,
        opt_state=_make_optimizer(config).init(params),
        step=jnp.asarray(0, jnp.int32),
        key=jax.random.fold_in(key, 1),
        finite=jnp.asarray(True),
    )


def check_data(data: tuple[ArrayLike, ArrayLike], batch_size: int) -> int:
    """Check inputs against labels and the batch size, and return the number of samples.

    Raises:
        ValueError: an empty data set, inputs and labels that differ in number, a batch larger than
            the data.
    """
    inputs, labels = data
    num_samples = jnp.shape(inputs)[0]
    num_labels = jnp.shape(labels)[0]
    if num_samples == 0:
        raise ValueError("the data set is empty: 0 inputs")
    if num_samples != num_labels:
        raise ValueError(f"{num_samples} inputs but {num_labels} labels")
    if batch_size > num_samples:
        raise ValueError(
            f"batch size {batch_size} is larger than the data set of {num_samples} samples"
        )
    return num_samples


class _Orders(NamedTuple):
    """The orders in which some epochs visit the samples."""

    samples: Int[Array, "num_epochs num_samples"]
    first_epoch: Int[Array, ""]


def _epoch_orders(state: TrainState, num_samples: int, num_steps: int) -> _Orders:
    """The orders of all epochs that the next steps touch."""
    per_epoch = num_samples // state.config.batch_size
    first = state.step // per_epoch
    last = (state.step + num_steps - 1) // per_epoch

    def shuffle(epoch: Array) -> Array:
        # One sort of random bits: half the sorting of jax.random.permutation.
        bits = jax.random.bits(jax.random.fold_in(state.key, epoch), (num_samples,))
        return jnp.argsort(bits).astype(jnp.int32)

    def no_shuffle(epoch: Array) -> Array:
        return jnp.zeros(num_samples, jnp.int32)

    def shuffle_if_touched(epoch: Array) -> Array:
        return jax.lax.cond(epoch <= last, shuffle, no_shuffle, epoch)

    # As many as may be touched: how many are depends on the traced step.
    num_epochs = (num_steps + per_epoch - 2) // per_epoch + 1
    epochs = first + jnp.arange(num_epochs, dtype=jnp.int32)
    return _Orders(jax.lax.map(shuffle_if_touched, epochs), first)


class _Carry(NamedTuple):
    """What a step changes."""

    params: PyTree
    opt_state: PyTree
    finite: Bool[Array, ""]


def train_steps(
    state: TrainState, data: tuple[ArrayLike, ArrayLike], num_steps: int
) -> tuple[TrainState, Float[Array, " num_steps"]]:
    """Run the next `num_steps` steps of a run.

    Twice 5 steps are the same run as 10. Each epoch visits the samples in a new order; the orders
    of all epochs that these steps touch are in memory at a time. Jit it with `static_argnums=2`,
    and map it over runs with `vmap` or `network_map`.

    Args:
        state: traced.
        data: `(inputs, labels)` with a leading axis of samples, traced.
        num_steps: static.

    Returns:
        The state after, and the training loss of each step.

    Raises:
        ValueError: fewer than one step; data that are empty, do not belong together or are fewer
            than a batch.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is at least 1, not {num_steps}")
    config = state.config
    num_samples = check_data(data, config.batch_size)
    inputs = jnp.asarray(data[0])
    labels = jnp.asarray(data[1])
    optimizer = _make_optimizer(config)
    orders = _epoch_orders(state, num_samples, num_steps)
    per_epoch = num_samples // config.batch_size

    def step(carry: _Carry, number: Array) -> tuple[_Carry, Array]:
        epoch = number // per_epoch - orders.first_epoch
        first_sample = number % per_epoch * config.batch_size
        batch = jax.lax.dynamic_slice(
            orders.samples, (epoch, first_sample), (1, config.batch_size)
        )[0]

        def loss_fn(params: PyTree) -> Array:
            return config.loss(config.network.apply(params, inputs[batch]), labels[batch])

        loss, gradient = jax.value_and_grad(loss_fn)(carry.params)
        if config.gradient_mask is not None:
            gradient = jax.tree.map(_where_real, gradient, config.gradient_mask)
        updates, opt_state = optimizer.update(gradient, carry.opt_state, carry.params)
        params = optax.apply_updates(carry.params, updates)
        finite = carry.finite & jnp.isfinite(loss)
        return _Carry(params, opt_state, finite), loss

    carry = _Carry(state.params, state.opt_state, state.finite)
    step_numbers = state.step + jnp.arange(num_steps, dtype=jnp.int32)
    carry, losses = jax.lax.scan(step, carry, step_numbers)
    new_state = TrainState(
        config=config,
        params=carry.params,
        opt_state=carry.opt_state,
        step=state.step + num_steps,
        key=state.key,
        finite=carry.finite,
    )
    return new_state, losses


def _where_real(gradient: Array, is_real: Array) -> Array:
    """The gradient, and 0 where the mask is False."""
    return jnp.where(is_real, gradient, 0)


def train(
    config: TrainConfig, key: Key[Array, ""], data: tuple[ArrayLike, ArrayLike]
) -> TrainResult:
    """Train a network from its initial parameters to its last step.

    This is a pure function of the configuration, key and data. `vmap` over `config` and `key`
    trains many at once; `train_networks` does so in pieces, with progress.
    """
    state, losses = train_steps(init_state(config, key), data, config.num_steps)
    return TrainResult(state.params, losses, state.finite)
