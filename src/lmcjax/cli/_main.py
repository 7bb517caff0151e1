"""The commands, and what happens to mistakes."""

import contextlib
import io
import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from lmcjax.cli._claims import Claims
from lmcjax.cli._figure2 import Figure2
from lmcjax.cli._match import Match
from lmcjax.cli._plot import Plot
from lmcjax.cli._sweep import Status, SweepCommand

_COMMANDS: dict[str, Callable[..., Any]] = {
    "figure2": Figure2,
    "sweep": SweepCommand,
    "status": Status,
    "plot": Plot,
    "match": Match,
    "claims": Claims,
}


def _one_line(message: str) -> str:
    """An error box of several lines as one line of text, without the reference to the help."""
    lines = [line.strip("│╭╰╮╯─ ") for line in message.splitlines()]
    body: list[str] = []
    for line in lines[1:]:
        if not line and body:
            break
        body.append(line)
    return re.sub(r"\s+", " ", " ".join(body)).strip()


def _parse(
    arguments: Sequence[str] | None,
) -> Figure2 | SweepCommand | Status | Plot | Match | Claims:
    """The chosen command with its options; a mistake ends the program with one line and exit code
    2.
    """
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
        raise


def _fail(message: str) -> None:
    """End with one line of error and exit code 2."""
    print(f"lmcjax: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; mistakes of the user end with one line of error and exit code 2."""
    logging.basicConfig(format="lmcjax: %(message)s", level=logging.WARNING)
    command = _parse(arguments)
    try:
        command.run()
    except (ValueError, OSError) as error:
        _fail(" ".join(str(error).split()))
    except KeyboardInterrupt as stop:
        signal = getattr(stop, "signal", None)
        how = f"; go on with: {command.again()}" if signal is not None else ", nothing was written"
        print(f"lmcjax: {stop if signal is not None else 'interrupted'}{how}", file=sys.stderr)
        raise SystemExit(130 if signal is None else 128 + signal) from None
