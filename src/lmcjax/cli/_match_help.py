"""What the help of `lmcjax match` says of methods and similarities, made from their tables."""

import inspect
from collections.abc import Sequence
from typing import get_args

from lmcjax.cli._match_methods import METHODS, LossName, MethodName
from lmcjax.matching import SIMILARITIES


def takers(option: str) -> list[MethodName]:
    """The methods that take an option of the command."""
    return [name for name, method in METHODS.items() if option in method.options]


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    *others, last = names
    if not others:
        return last
    return f"{', '.join(others)} and {last}"


def choices(names: Sequence[str]) -> str:
    """`{a,b,c}`."""
    return "{" + ",".join(names) + "}"


def similarity_choices() -> str:
    """All similarities, between braces."""
    return choices(list(SIMILARITIES))


def loss_choices() -> str:
    """All losses, between braces."""
    return choices(get_args(LossName))


def about_methods() -> str:
    """A sentence on each method."""
    return " ".join(f"{name} {method.about}." for name, method in METHODS.items())


def about_similarities() -> str:
    """A sentence on each similarity, which its docstring begins with, and who takes it."""
    methods = takers("similarity")
    sentences = [f"How {listed(methods)} compare neurons."]
    for name, kind in SIMILARITIES.items():
        takes_it = [method for method in methods if name in METHODS[method].similarities]
        limit = "" if takes_it == methods else f" ({listed(takes_it)} only)"
        paragraph = (inspect.getdoc(kind) or "").partition("\n\n")[0]
        sentence, _, _formula = " ".join(paragraph.split()).partition(":")
        sentences.append(f"{name}{limit}: {sentence.rstrip('.')}.")
    return " ".join(sentences)


def about_losses() -> str:
    """Who makes a loss small, and what each is."""
    return (
        f"What {listed(takers('loss'))} make small: the distance of the parameters, that in the "
        "covariance of what A's layers see, or the training loss half-way."
    )


def about_restarts() -> str:
    """Whose starts they are."""
    return (
        f"Starts of {listed(takers('restarts'))}: the identity, then random permutations. The "
        "best is kept."
    )


def about_iterations() -> str:
    """Whose steps they are."""
    return f"Steps of {listed(takers('iterations'))}."


def default_iterations() -> str:
    """How many each of these methods takes."""
    return ", ".join(f"{METHODS[name].default_iterations():,}" for name in takers("iterations"))
