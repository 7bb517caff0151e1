"""The commands, and what happens to mistakes."""

import contextlib
import io
import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import tyro

from lmcjax.cli._claims import Claims
from lmcjax.cli._explain import Explain
from lmcjax.cli._figure2 import Figure2
from lmcjax.cli._match import Match
from lmcjax.cli._plot import Plot
from lmcjax.cli._sweep import Status, SweepCommand

Command: TypeAlias = Figure2 | SweepCommand | Status | Plot | Match | Explain | Claims

_COMMANDS: dict[str, Callable[..., Any]] = {
    "figure2": Figure2,
    "sweep": SweepCommand,
    "status": Status,
    "plot": Plot,
    "match": Match,
    "explain": Explain,
    "claims": Claims,
}
_MISTAKE = 2  # exit codes, as other programs have them
_INTERRUPTED = 130
_BY_SIGNAL = 128  # plus the signal's number


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends it with one line of error and exit code 2."""
    logging.basicConfig(format="lmcjax: %(message)s", level=logging.WARNING)
    command = _parse(arguments)
    try:
        command.run()
    except (ValueError, OSError, ImportError) as error:
        _fail(" ".join(str(error).split()))
    except KeyboardInterrupt as stop:
        _end_interrupted(command, stop)


def _parse(arguments: Sequence[str] | None) -> Command:
    """The chosen command with its options; a mistake ends the program as in `main`."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.extras.subcommand_cli_from_dict(
                _COMMANDS,
                prog="lmcjax",
                description="Linear mode connectivity of neural networks by optimal transport.",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if stop.code:
            _fail(f"{_one_line(errors.getvalue())} (see lmcjax --help)")
        raise  # --help


def _one_line(box: str) -> str:
    """The first paragraph of a box that tyro draws around an error, as one line of text.

    What comes after it refers to the help.
    """
    lines = [line.strip("│╭╰╮╯─ ") for line in box.splitlines()]
    paragraph: list[str] = []
    for line in lines[1:]:  # without the title
        if not line and paragraph:
            break
        paragraph.append(line)
    return re.sub(r"\s+", " ", " ".join(paragraph)).strip()


def _fail(message: str) -> None:
    """End with one line of error and exit code 2."""
    print(f"lmcjax: error: {message}", file=sys.stderr)
    raise SystemExit(_MISTAKE)


def _end_interrupted(command: Command, stop: KeyboardInterrupt) -> None:
    """End with a line on what was stored and how to go on, and the exit code that shells expect."""
    # A sweep that is stopped by a signal stores what is finished, and says which signal it was.
    signal = getattr(stop, "signal", None)
    if signal is None:
        # Whoever had written something already says so
        message = str(stop) or "interrupted, nothing was written"
        print(f"lmcjax: {message}", file=sys.stderr)
        raise SystemExit(_INTERRUPTED) from None
    print(f"lmcjax: {stop}; go on with: {command.again()}", file=sys.stderr)
    raise SystemExit(_BY_SIGNAL + signal) from None
