"""How a command begins and ends: signals, streams, one line for every failure.

Nothing heavy is imported here, so Ctrl-C ends quietly from the first moment.
"""

import io
import logging
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn, cast

from attnchain.errors import (
    CaptureError,
    ChainError,
    ConvergenceError,
    DeliveryError,
    MaterializationWarning,
    NumericalWarning,
    PictureWarning,
    SiteNotFoundError,
    ToleranceError,
    WordNotFoundError,
    memory_ran_out,
)

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
_DONE, _FAILED, _BAD_INPUT, _INTERRUPTED = 0, 1, 2, 128 + signal.SIGINT


def main() -> NoReturn:
    """Runs the command; exit code 0, 1 (could not be computed) or 2 (bad input).

    Ctrl-C, a closed terminal or a request to end stop it without a word, with exit
    code 128 and the number of the signal, after everything unfinished was removed.
    """
    try:
        _prepare()
        from attnchain.cli.commands import app

        code = app(standalone_mode=False) or _DONE
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Exception as error:  # noqa: BLE001  (the last one to see it)
        message, code = _failure(error)
        if message:
            _say(message)
    sys.exit(code)


def _prepare() -> None:
    """Signals end the command in order, whatever was printed can be, figures draw."""
    for name in SIGNALS:
        number = getattr(signal, name, None)
        # What a parent made us ignore (nohup, a shell's background) stays ignored.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            cast("Any", stream).reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    for kind in (PictureWarning, NumericalWarning, MaterializationWarning):
        warnings.simplefilter("always", kind)
    os.environ["MPLBACKEND"] = "agg"
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    for library in ("transformers", "diffusers"):
        said = os.environ.setdefault(f"{library.upper()}_VERBOSITY", "error")
        if said == "error":  # what is imported already has read the variable before
            logging.getLogger(library).setLevel(logging.ERROR)


def _stop(number: int, _frame: object) -> NoReturn:
    """Ends in order; a terminal that closes says so twice, and is heard once."""
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _failure(error: Exception) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    if memory_ran_out(error):
        message = (
            f"memory ran out ({_first_line(error)}); give a smaller --size, fewer "
            "--sets or a smaller picture"
        )
        return message, _FAILED
    if isinstance(error, ChainError):
        computed = isinstance(
            error, ConvergenceError | ToleranceError | CaptureError | DeliveryError
        )
        asked_wrongly = isinstance(error, SiteNotFoundError | WordNotFoundError)
        bad_input = not computed or asked_wrongly
        return str(error), _BAD_INPUT if bad_input else _FAILED
    if (format_message := getattr(error, "format_message", None)) is not None:
        return f"{format_message().rstrip('.')}; see attnchain --help", _BAD_INPUT
    if isinstance(error, OSError):
        return f"the system refused: {error}", _FAILED
    if type(error).__name__ == "Abort":
        return "", _INTERRUPTED
    return _fault(error), _FAILED


def _fault(error: Exception) -> str:
    """An error that nobody foresaw, and where it came from."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    return (
        f"{type(error).__name__}: {_first_line(error)} ({where}); this is a fault of "
        "attnchain or of a package it uses: please report it with the command"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _say(message: str) -> None:
    """One line on the error stream; what cannot be printed is let go."""
    line = " ".join(message.splitlines())
    try:
        print(f"attnchain: {line}", file=sys.stderr, flush=True)
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        sys.stdout = io.StringIO()  # what is left in the old one would fail again


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _say(f"warning: {message}")
