"""What a sweep computes: a grid of networks, the pairs among them, and how they are compared."""

import dataclasses
import difflib
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from lmcjax.matching import SIMILARITIES
from lmcjax.models import MODELS, takes_width
from lmcjax.training import Optimizer

Pairing: TypeAlias = Literal["disjoint", "all"]
# The axes of the grid are given as anything that makes a tuple, and kept as tuples
_Integers: TypeAlias = tuple[int, ...] | Any
_Numbers: TypeAlias = tuple[float, ...] | Any
_Names: TypeAlias = tuple[str, ...] | Any


class Cell(NamedTuple):
    """One point of the grid; all seeds are trained at each."""

    width: int
    num_hidden_layers: int
    optimizer: str
    learning_rate: float


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Every combination of widths, depths, optimizers, learning rates and seeds; hashable.

    Sequences of any kind are accepted, single values too, and are kept as tuples.

    >>> sweep = Sweep(seeds=range(4), widths=(16, 32), learning_rates="1e-3:1e-1:3")
    >>> sweep.learning_rates, len(sweep.cells), sweep.num_networks, sweep.num_pairs
    ((0.001, 0.01, 0.1), 6, 24, 12)

    Attributes:
        seeds: one network per cell and seed. Its initial weights and shuffles follow from
            `jax.random.key(seed)`, so that networks of one seed start alike in all cells of one
            architecture.
        widths: neurons in each hidden layer. For the other models, channels of the first stage or
            features of the residual stream.
        num_hidden_layers: hidden layers, or layers of the transformer. The other models have a
            depth of their own.
        learning_rates: peak rates; also as text, `"low:high:count"`, evenly spaced in the
            logarithm.
        optimizers: `"sgd"` with momentum 0.9, `"sgd_plain"` without momentum, `"adam"`,
            `"adamw"`.
        matchings: the similarities by which pairs are matched. Pairs are always measured without
            any matching as well.
        model: the kind of network, see `build_network`.
        pairing: `"disjoint"`: the first seed with the second, the third with the fourth, ...;
            `"all"`: every seed of a cell with every other.
        epochs: passes over the training set.
        batch_size: samples per step.
        num_points: points on the line between two networks.
        moment_samples: training samples on which activations are compared, evenly spaced in the
            set; None: all.
        keep_permutations: whether the results hold the permutations.
        keep_networks: whether the trained networks are stored, see `load_networks`.
    """

    seeds: _Integers
    widths: _Integers = (128,)
    num_hidden_layers: _Integers = (3,)
    learning_rates: _Numbers = (0.01,)
    optimizers: _Names = ("sgd",)
    matchings: _Names = ("weights", "covariance", "activations")
    model: str = "mlp"
    pairing: Pairing = "disjoint"
    epochs: int = 20
    batch_size: int = 100
    num_points: int = 25
    moment_samples: int | None = None
    keep_permutations: bool = False
    keep_networks: bool = False

    def __post_init__(self) -> None:
        for name, convert in _CONVERSIONS.items():
            values = _distinct_values(name, getattr(self, name), convert)
            # The class is frozen, and this is its constructor
            object.__setattr__(self, name, values)
        self._check_names()
        self._check_numbers()
        self._check_pairing()
        self._check_counts()
        self._check_model()

    def _check_names(self) -> None:
        allowed_names = {"optimizers": get_args(Optimizer), "matchings": tuple(SIMILARITIES)}
        for field, allowed in allowed_names.items():
            for name in getattr(self, field):
                if name not in allowed:
                    raise ValueError(
                        f"{field}: {name!r} is not one of {allowed}"
                        f"{did_you_mean(str(name), allowed)}"
                    )

    def _check_numbers(self) -> None:
        for name in ("widths", "num_hidden_layers"):
            sizes = getattr(self, name)
            if min(sizes) < 1:
                raise ValueError(f"{name} are at least 1, not {sizes}")
        for rate in self.learning_rates:
            # Written such that nan is refused, too
            if not 0 < rate < math.inf:
                raise ValueError(f"learning rates are positive numbers, not {self.learning_rates}")
        for seed in self.seeds:
            if not 0 <= seed < 2**32:
                raise ValueError(f"seeds lie between 0 and 2^32 - 1, not {self.seeds}")

    def _check_pairing(self) -> None:
        if self.pairing not in get_args(Pairing):
            raise ValueError(f"pairing is 'disjoint' or 'all', not {self.pairing!r}")
        count = len(self.seeds)
        one_is_left = self.pairing == "disjoint" and count % 2 == 1
        if count < 2 or one_is_left:
            raise ValueError(
                f"pairing {self.pairing!r} needs two seeds per pair, not {count} in all"
            )

    def _check_counts(self) -> None:
        smallest = {"epochs": 1, "batch_size": 1, "num_points": 2, "moment_samples": 2}
        for name, least in smallest.items():
            value = getattr(self, name)
            if name == "moment_samples" and value is None:
                continue
            if _integer(name, value) < least:
                raise ValueError(f"{name} is at least {least}, not {value}")

    def _check_model(self) -> None:
        is_import_path = ":" in self.model
        if not is_import_path and self.model not in MODELS:
            raise ValueError(
                f"model {self.model!r} is not one of {MODELS}, nor package.module:function"
                f"{did_you_mean(self.model, MODELS)}"
            )
        if len(self.num_hidden_layers) > 1 and self.model in ("vgg", "resnet20"):
            raise ValueError(
                f"model {self.model!r} has a depth of its own, num_hidden_layers cannot be swept"
            )
        takes_one_shape = len(self.widths) == 1 and len(self.num_hidden_layers) == 1
        if not takes_width(self.model) and not takes_one_shape:
            raise ValueError(
                f"{self.model} is one network as it is: widths and num_hidden_layers cannot be "
                "swept; a function that takes width=, num_hidden_layers=, input_shape=, "
                "num_classes= and returns a network can"
            )

    @functools.cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The grid, the learning rate varying fastest."""
        grid = itertools.product(
            self.widths, self.num_hidden_layers, self.optimizers, self.learning_rates
        )
        return tuple(Cell(*values) for values in grid)

    @functools.cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Positions in `seeds` of the two networks of each pair, the same in every cell."""
        positions = range(len(self.seeds))
        if self.pairing == "all":
            return tuple(itertools.combinations(positions, 2))
        return tuple(zip(positions[::2], positions[1::2], strict=True))

    @property
    def num_networks(self) -> int:
        """Cells times seeds."""
        return len(self.cells) * len(self.seeds)

    @property
    def num_pairs(self) -> int:
        """Cells times pairs of seeds."""
        return len(self.cells) * len(self.pairs)

    def asdict(self) -> dict[str, Any]:
        """Plain values, as JSON and TOML hold them."""
        values = dataclasses.asdict(self)
        for name in _CONVERSIONS:
            values[name] = list(values[name])
        return values


def parse_learning_rates(words: Iterable[Any]) -> tuple[float, ...]:
    """Read rates: numbers, texts of numbers, or ranges `low:high:count`.

    The rates of a range are evenly spaced in the logarithm and rounded to 3 digits.

    >>> parse_learning_rates(["1e-3", "1e-2:1:3"])
    (0.001, 0.01, 0.1, 1.0)

    Raises:
        ValueError: a word is neither a number nor a range; names it.
    """
    rates: list[float] = []
    for word in words:
        try:
            rates += _rates_of_word(word)
        except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
            raise ValueError(
                f"learning rate {word!r} is neither a number nor a range low:high:count "
                "(count >= 2), like 1e-4:1e-1:6"
            ) from error
    return tuple(rates)


def _rates_of_word(word: Any) -> list[float]:
    if ":" not in str(word):
        return [float(word)]
    low, high, count = word.split(":")
    start = math.log10(float(low))
    stop = math.log10(float(high))
    num_rates = int(count)
    rates = []
    for i in range(num_rates):
        rate = 10 ** (start + (stop - start) * i / (num_rates - 1))
        rates.append(float(f"{rate:.3g}"))
    return rates


def did_you_mean(word: str, allowed: Sequence[str]) -> str:
    """The end of an error message: the allowed word that is closest, or nothing."""
    close = difflib.get_close_matches(word, allowed, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _integer(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: {value!r} is no whole number") from None


def _integers(name: str, items: Sequence) -> tuple[int, ...]:
    return tuple(_integer(name, item) for item in items)


def _learning_rates(name: str, items: Sequence) -> tuple[float, ...]:
    del name  # `parse_learning_rates` names what it refuses
    return parse_learning_rates(items)


def _names(name: str, items: Sequence) -> tuple[str, ...]:
    del name  # they are checked later
    return tuple(items)


_Conversion: TypeAlias = Callable[[str, Sequence], tuple]
_CONVERSIONS: dict[str, _Conversion] = {
    "seeds": _integers,
    "widths": _integers,
    "num_hidden_layers": _integers,
    "learning_rates": _learning_rates,
    "optimizers": _names,
    "matchings": _names,
}


def _distinct_values(name: str, given: Any, convert: _Conversion) -> tuple:
    """A tuple of different values, in the order given."""
    is_single = isinstance(given, str) or not isinstance(given, Iterable)
    items: Sequence = [given] if is_single else list(given)
    values = convert(name, items)
    if not values and name != "matchings":
        raise ValueError(f"{name}: at least one is needed")
    for position, value in enumerate(values):
        if value in values[:position]:
            raise ValueError(f"{name}: {value!r} is given twice: {values}")
    return values
