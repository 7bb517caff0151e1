"""What a sweep computes: a grid of networks, the pairs among them, and how they are compared."""

import dataclasses
import difflib
import functools
import itertools
import math
import operator
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from lmcjax.matching import Similarity
from lmcjax.models import MODELS, takes_width
from lmcjax.training import Optimizer

Pairing: TypeAlias = Literal["disjoint", "all"]
# Of a grid: given, anything that makes a tuple; kept, a tuple
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
    """Every combination of widths, depths, optimizers and learning rates, with every seed;
    hashable.

    Sequences of any kind are accepted, single values too, and are kept as tuples.

    >>> sweep = Sweep(seeds=range(4), widths=(16, 32), learning_rates="1e-3:1e-1:3")
    >>> sweep.learning_rates, len(sweep.cells), sweep.num_networks, sweep.num_pairs
    ((0.001, 0.01, 0.1), 6, 24, 12)

    Attributes:
        seeds: one network per cell and seed; its initial weights and shuffles follow from
            `jax.random.key(seed)`, so that networks of one seed start alike in all cells of one
            architecture.
        widths: neurons in each hidden layer; of other models, channels of the first stage or
            features of the stream.
        num_hidden_layers: hidden layers; of the transformer, its layers. Other models have their
            own depth.
        learning_rates: peak rates; also as text, `"low:high:count"`, evenly spaced in the
            logarithm.
        optimizers: of `"sgd"` with momentum 0.9, `"sgd_plain"` without momentum, `"adam"`,
            `"adamw"`.
        matchings: the similarities by which pairs are matched, beside no matching, which is always
            measured.
        model: of what kind the networks are, see `build_network`.
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
        for name, convert in _GRIDS.items():
            given = getattr(self, name)
            object.__setattr__(self, name, _distinct(name, given, convert))
        for name, allowed in (
            ("optimizers", get_args(Optimizer)),
            ("matchings", get_args(Similarity)),
        ):
            for value in getattr(self, name):
                if value not in allowed:
                    raise ValueError(
                        f"{name}: {value!r} is not one of {allowed}{_did_you_mean(str(value), allowed)}"
                    )
        for name in ("widths", "num_hidden_layers"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} are at least 1, not {getattr(self, name)}")
        if not all(0 < rate < math.inf for rate in self.learning_rates):
            raise ValueError(f"learning rates are positive numbers, not {self.learning_rates}")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise ValueError(f"seeds lie between 0 and 2^32 - 1, not {self.seeds}")
        if self.pairing not in get_args(Pairing):
            raise ValueError(f"pairing is 'disjoint' or 'all', not {self.pairing!r}")
        if len(self.seeds) < 2 or (self.pairing == "disjoint" and len(self.seeds) % 2):
            raise ValueError(
                f"pairing {self.pairing!r} needs two seeds per pair, not {len(self.seeds)} in all"
            )
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("num_points", 2),
            ("moment_samples", 2),
        ):
            value = getattr(self, name)
            if (value is not None or name != "moment_samples") and _integer(name, value) < least:
                raise ValueError(f"{name} is at least {least}, not {value}")
        self._check_model()

    def _check_model(self) -> None:
        if ":" not in self.model and self.model not in MODELS:
            raise ValueError(
                f"model {self.model!r} is not one of {MODELS}, nor package.module:function"
                f"{_did_you_mean(self.model, MODELS)}"
            )
        if len(self.num_hidden_layers) > 1 and self.model in ("vgg", "resnet20"):
            raise ValueError(
                f"model {self.model!r} has a depth of its own, num_hidden_layers cannot be swept"
            )
        if not takes_width(self.model) and max(len(self.widths), len(self.num_hidden_layers)) > 1:
            raise ValueError(
                f"{self.model} is one network as it is: widths and num_hidden_layers cannot be swept; a function that "
                "takes width=, num_hidden_layers=, input_shape=, num_classes= and returns a network can"
            )

    @functools.cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The grid, the learning rate varying fastest."""
        grid = (self.widths, self.num_hidden_layers, self.optimizers, self.learning_rates)
        return tuple(Cell(*values) for values in itertools.product(*grid))

    @functools.cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Positions of the seeds that are paired in each cell."""
        positions = range(len(self.seeds))
        if self.pairing == "all":
            return tuple(itertools.combinations(positions, 2))
        return tuple(zip(positions[::2], positions[1::2], strict=True))

    @property
    def num_networks(self) -> int:
        """Cells by seeds."""
        return len(self.cells) * len(self.seeds)

    @property
    def num_pairs(self) -> int:
        """Cells by pairs of seeds."""
        return len(self.cells) * len(self.pairs)

    def asdict(self) -> dict[str, Any]:
        """Plain values, as JSON and TOML hold them."""
        values = dataclasses.asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
        }


def sweep_from_table(table: Mapping[str, Any]) -> Sweep:
    """A sweep from names and plain values; `seeds` may be a number of seeds, 0, 1, ...

    Raises:
        ValueError: a name that there is not, no seeds, or what `Sweep` refuses.
    """
    names = [field.name for field in dataclasses.fields(Sweep)]
    for name in table:
        if name not in names:
            raise ValueError(
                f"{name!r} is no option of a sweep{_did_you_mean(name, names)}; there are {names}"
            )
    if "seeds" not in table:
        raise ValueError("a sweep needs seeds, a list or their number")
    seeds = table["seeds"]
    values = {
        **table,
        "seeds": range(seeds) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds,
    }
    return Sweep(**values)


def read_sweep(path: Path) -> tuple[Sweep, str]:
    """A sweep from a TOML file, and the name of its data set (default: mnist5k).

    Raises:
        OSError: the file can't be read.
        ValueError: it is no TOML, or not of a sweep; names the file.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
        dataset = table.pop("dataset", "mnist5k")
        if not isinstance(dataset, str):
            raise ValueError(f"dataset is a name or a folder, not {dataset!r}")
        return sweep_from_table(table), dataset
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def parse_learning_rates(words: Iterable[Any]) -> tuple[float, ...]:
    """Rates from numbers, texts of numbers, or `low:high:count`, evenly spaced in the logarithm,
    rounded to 3 digits.

    >>> parse_learning_rates(["1e-3", "1e-2:1:3"])
    (0.001, 0.01, 0.1, 1.0)

    Raises:
        ValueError: a word that is neither; names it.
    """
    rates: list[float] = []
    for word in words:
        try:
            if ":" not in str(word):
                rates.append(float(word))
                continue
            low, high, count = word.split(":")
            start, stop, steps = math.log10(float(low)), math.log10(float(high)), int(count)
            rates += [
                float(f"{10 ** (start + (stop - start) * i / (steps - 1)):.3g}")
                for i in range(steps)
            ]
        except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
            raise ValueError(
                f"learning rate {word!r} is neither a number nor a range low:high:count (count >= 2), like 1e-4:1e-1:6"
            ) from error
    return tuple(rates)


def _integers(name: str, items: Sequence) -> tuple[int, ...]:
    return tuple(_integer(name, item) for item in items)


def _integer(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: {value!r} is no whole number") from None


_GRIDS: dict[str, Any] = {
    "seeds": _integers,
    "widths": _integers,
    "num_hidden_layers": _integers,
    "learning_rates": lambda _, items: parse_learning_rates(items),
    "optimizers": lambda _, items: tuple(items),
    "matchings": lambda _, items: tuple(items),
}


def _distinct(name: str, given: Any, convert: Any) -> tuple:
    """A tuple of different values, in the order given."""
    single = isinstance(given, str) or not isinstance(given, Iterable)
    items: Sequence = [given] if single else list(given)
    values = convert(name, items)
    if not values and name != "matchings":
        raise ValueError(f"{name}: at least one is needed")
    if twice := [value for i, value in enumerate(values) if value in values[:i]]:
        raise ValueError(f"{name}: {twice[0]!r} is given twice: {values}")
    return values


def _did_you_mean(word: str, allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, allowed, 1)
    return f"; did you mean {close[0]!r}?" if close else ""
