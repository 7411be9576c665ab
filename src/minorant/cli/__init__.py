"""The command line: ``main`` runs one command and turns whatever happens into an exit code.

What a command prints as its result goes to standard output; progress, notes and refusals go to
standard error. ``commands.py`` declares the commands and their options; ``work.py`` and ``show.py``
do what they say. Nothing heavy is imported until a command's arguments have been read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

DEBUG_VARIABLE = "MINORANT_DEBUG"
OK, BUG, REFUSED, NOT_CONVERGED, INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: the words after ``minorant``; None for those of the process.

    Returns:
        0 when all went well; 1 for an error in minorant itself; 2 when the arguments or the input
        cannot be used (nothing is written then); 3 when the climb ended without convergence (the
        fit is written); 130 when interrupted (the best fit so far is written, if there is one).

    Example:
        >>> from minorant.cli import main
        >>> main(["--version"])
        minorant 0.1.0
        0
    """
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return _told("Interrupted before there was a fit: nothing was written.", INTERRUPTED)
    except BrokenPipeError:  # the reader went away, as `| head` does
        _silence_standard_output()
        return OK
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE, "") not in {"", "0"}:
            raise
        return _refused(error)


def _run(arguments: Sequence[str] | None) -> int:
    from minorant.cli.commands import app

    try:
        app(args=arguments, prog_name="minorant")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else OK
    return OK


def _refused(error: Exception) -> int:
    """The sentence for an input that cannot be used, or for an error of our own."""
    if isinstance(error, OSError | ValueError) and str(error):
        return _told(_sentence(error), REFUSED)
    if isinstance(error, MemoryError):
        return _told("There is not enough memory for this table and model: use fewer rows.", BUG)
    return _told(
        f"an error in minorant itself, {type(error).__name__}: {error}. Set {DEBUG_VARIABLE}=1 to "
        "see where, and report it.",
        BUG,
    )


def _sentence(error: Exception) -> str:
    """One line; the names that only Python users know in the command line's words."""
    text = " ".join(str(error).split())
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _told(sentence: str, code: int) -> int:
    print(f"minorant: {sentence}", file=sys.stderr)
    return code


def _silence_standard_output() -> None:
    """Keep the interpreter from failing on its last flush into a closed pipe."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
