"""Pictures come after the numbers, and one that fails does not take the numbers with it."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OnFailure: TypeAlias = Callable[[str], None]
_log = logging.getLogger("lmcjax")


def draw_picture(
    draw: Callable[[], "Figure"],
    stem: Path,
    on_failure: OnFailure = _log.warning,
) -> list[Path]:
    """Draw a figure and write it as PNG and PDF; if that fails, say so in a line.

    Call it when the numbers are stored and shown: whatever is wrong with a picture is no reason to
    lose them.

    Args:
        draw: makes the figure.
        stem: path of the files, without their suffix.
        on_failure: is told which picture failed, and why.

    Returns:
        What was written; nothing if the picture failed.

    Raises:
        KeyboardInterrupt: as it came, with the message that the numbers are stored.
    """
    try:
        from lmcjax.results._style import save_figure

        return save_figure(draw(), stem)
    except KeyboardInterrupt:
        on_failure(f"no picture {stem.name}: interrupted")
        raise KeyboardInterrupt("interrupted; the numbers are stored") from None
    except Exception as error:  # matplotlib and its back ends raise anything
        reason = " ".join(str(error).split())
        on_failure(f"no picture {stem.name}: {type(error).__name__}: {reason}")
        return []
