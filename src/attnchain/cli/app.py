"""The `attnchain` command and how it ends."""

import sys
from typing import Annotated

import typer

from attnchain import __version__
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
for command in (segment, rank, heads, page, serve):
    app.command()(command)


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
    try:
        app()
    except ChainError as error:
        typer.echo(f"attnchain: {error}", err=True)
        computed = isinstance(error, ConvergenceError | ToleranceError | CaptureError)
        sys.exit(1 if computed and not isinstance(error, SiteNotFoundError) else 2)
