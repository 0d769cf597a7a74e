"""The `attnchain` command and how it ends."""

import signal
import sys
import warnings
from typing import Annotated, Any, NoReturn, cast

import typer

from attnchain import __version__
from attnchain.cli.evaluate import evaluate
from attnchain.cli.heads import heads
from attnchain.cli.page import page
from attnchain.cli.rank import rank
from attnchain.cli.segment import segment
from attnchain.cli.serve import serve
from attnchain.errors import (
    CaptureError,
    ChainError,
    ConvergenceError,
    SiteNotFoundError,
    ToleranceError,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Read a transformer's attention as a Markov chain.",
)
for command in (segment, rank, heads, page, serve, evaluate):
    app.command()(command)

_UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"attnchain {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Read a transformer's attention as a Markov chain."""


def main() -> None:
    """Runs the command; exit code 0, 1 (could not be computed) or 2 (bad input)."""
    warnings.showwarning = _show_warning
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(app(standalone_mode=False))
    except ChainError as error:
        computed = isinstance(error, ConvergenceError | ToleranceError | CaptureError)
        bad_input = not computed or isinstance(error, SiteNotFoundError)
        _fail(str(error), 2 if bad_input else 1)
    except _UsageError as error:
        message: Any = getattr(error, "format_message", error.__str__)()
        _fail(f"{message.rstrip('.')}; see attnchain --help", 2)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", 128 + signal.SIGINT)
    except OSError as error:
        _fail(f"the system refused: {error}", 1)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"attnchain: {message}", err=True)
    sys.exit(code)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    typer.echo(f"attnchain: warning: {message}", err=True)
