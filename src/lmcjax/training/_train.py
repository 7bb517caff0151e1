"""One training run as a pure function."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree

from lmcjax.models import Network

Optimizer: TypeAlias = Literal["sgd", "sgd_plain", "adam", "adamw"]


def mean_cross_entropy(
    logits: Float[Array, "num_samples num_classes"], labels: Int[Array, " num_samples"]
) -> Array:
    """Mean of `-log softmax(logits)[label]`, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One run. A pytree whose arrays are the learning rate and a mask: swept by `vmap`, everything
    else is static.

    The learning rate rises linearly from 1e-6 over `warmup_steps`, then falls to 0 along a cosine
    (the paper's protocol).

    Attributes:
        learning_rate: its peak, traced.
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

    learning_rate: (
        Any  # a float, or an array of them with an axis per vmap; while JAX traces, any leaf
    )
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
    gradient_mask: Any = None  # a pytree; while JAX traces, any leaf

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(Optimizer):
            raise ValueError(f"optimizer {self.optimizer!r} is not one of {get_args(Optimizer)}")
        for name, least in (("num_steps", 1), ("batch_size", 1), ("warmup_steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is at least {least}, not {getattr(self, name)}")


def learning_rate_schedule(config: TrainConfig) -> optax.Schedule:
    """Step to learning rate; the peak may be traced (optax's ready-made warm-up with cosine refuses
    that).
    """
    peak = jnp.asarray(config.learning_rate)
    warmup = min(config.warmup_steps, config.num_steps)
    cosine = optax.cosine_decay_schedule(peak, max(config.num_steps - warmup, 1))
    return (
        optax.join_schedules([optax.linear_schedule(1e-6, peak, warmup), cosine], [warmup])
        if warmup
        else cosine
    )


def _optimizer(config: TrainConfig) -> optax.GradientTransformation:
    schedule = learning_rate_schedule(config)
    if config.optimizer == "sgd":
        return optax.sgd(schedule, momentum=config.momentum)
    if config.optimizer == "sgd_plain":
        return optax.sgd(schedule)
    if config.optimizer == "adam":
        return optax.adam(schedule)
    return optax.adamw(schedule, weight_decay=config.weight_decay)


class TrainState(NamedTuple):
    """A run between two steps: all that it needs to go on, so it can be stored, moved and batched."""

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
    """The state before the first step: parameters of `fold_in(key, 0)`, unless given, shuffles of
    `fold_in(key, 1)`.

    >>> import jax, lmcjax
    >>> network = lmcjax.FlaxNetwork(lmcjax.MLP((8,), 2), input_shape=(3,))
    >>> rates = jnp.array([0.1, 0.01])
    >>> configs = TrainConfig(rates, network, num_steps=5)
    >>> states = jax.vmap(init_state)(configs, jax.random.split(jax.random.key(0)))
    >>> states.params["Dense_0"]["kernel"].shape
    (2, 3, 8)
    """
    params = config.network.init(jax.random.fold_in(key, 0)) if params is None else params
    return TrainState(
        config=dataclasses.replace(
            config, learning_rate=jnp.asarray(config.learning_rate, jnp.result_type(float))
        ),
        params=params,
        opt_state=_optimizer(config).init(params),
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
    num_samples, num_labels = (jnp.shape(array)[0] for array in data)
    if num_samples == 0:
        raise ValueError("the data set is empty: 0 inputs")
    if num_samples != num_labels:
        raise ValueError(f"{num_samples} inputs but {num_labels} labels")
    if batch_size > num_samples:
        raise ValueError(
            f"batch size {batch_size} is larger than the data set of {num_samples} samples"
        )
    return num_samples


def _epoch_orders(state: TrainState, num_samples: int, num_steps: int) -> tuple[Array, Array]:
    """The shuffles of every epoch that the next steps touch `[num_epochs, num_samples]`, and the
    first epoch.
    """
    per_epoch = num_samples // state.config.batch_size
    first, last = state.step // per_epoch, (state.step + num_steps - 1) // per_epoch

    def shuffle(
        epoch: Array,
    ) -> Array:  # argsort of random bits: half the sorting of jax.random.permutation
        return jnp.argsort(
            jax.random.bits(jax.random.fold_in(state.key, epoch), (num_samples,))
        ).astype(jnp.int32)

    def if_touched(epoch: Array) -> Array:
        return jax.lax.cond(
            epoch <= last, shuffle, lambda _: jnp.zeros(num_samples, jnp.int32), epoch
        )

    num_epochs = (num_steps + per_epoch - 2) // per_epoch + 1
    return jax.lax.map(if_touched, first + jnp.arange(num_epochs, dtype=jnp.int32)), first


def train_steps(
    state: TrainState, data: tuple[ArrayLike, ArrayLike], num_steps: int
) -> tuple[TrainState, Float[Array, " num_steps"]]:
    """The next `num_steps` steps of a run: `train_steps` twice with 5 is once with 10.

    Each epoch visits the samples in a new order; it keeps one order per epoch touched in memory.
    Jit with `static_argnums=2`; map it over runs with `vmap` or `network_map`.

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
    inputs, labels = (jnp.asarray(array) for array in data)
    optimizer = _optimizer(config)
    orders, first_epoch = _epoch_orders(state, num_samples, num_steps)
    per_epoch = num_samples // config.batch_size

    def step(carry: tuple, number: Array) -> tuple[tuple, Array]:
        params, opt_state, finite = carry
        start = (number // per_epoch - first_epoch, number % per_epoch * config.batch_size)
        batch = jax.lax.dynamic_slice(orders, start, (1, config.batch_size))[0]

        def loss_fn(p: PyTree) -> Array:
            return config.loss(config.network.apply(p, inputs[batch]), labels[batch])

        loss, gradient = jax.value_and_grad(loss_fn)(params)
        if config.gradient_mask is not None:
            gradient = jax.tree.map(
                lambda g, real: jnp.where(real, g, 0), gradient, config.gradient_mask
            )
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, finite & jnp.isfinite(loss)), loss

    carry = (state.params, state.opt_state, state.finite)
    steps = state.step + jnp.arange(num_steps, dtype=jnp.int32)
    (params, opt_state, finite), losses = jax.lax.scan(step, carry, steps)
    after = TrainState(config, params, opt_state, state.step + num_steps, state.key, finite)
    return after, losses


def train(
    config: TrainConfig, key: Key[Array, ""], data: tuple[ArrayLike, ArrayLike]
) -> TrainResult:
    """A whole run, `init_state` and all its steps, as one pure function of its configuration, key
    and data.

    Under `vmap` over `config` and `key`, many runs at once; `train_networks` does it in pieces,
    with progress.
    """
    state, losses = train_steps(init_state(config, key), data, config.num_steps)
    return TrainResult(state.params, losses, state.finite)
