"""The `attnchain` command: its commands, and what it says by itself."""

from typing import Annotated

import typer

from attnchain import __version__
from attnchain.cli.evaluate import evaluate
from attnchain.cli.find_words import words
from attnchain.cli.heads import heads
from attnchain.cli.options import Marking
from attnchain.cli.page import page
from attnchain.cli.rank import rank
from attnchain.cli.score import score
from attnchain.cli.segment import segment
from attnchain.cli.serve import serve
from attnchain.cli.sheet import sheet
from attnchain.cli.text import text
from attnchain.cli.video import video

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Read a transformer's attention as a Markov chain.",
)
COMMANDS = (
    *(segment, video, rank, heads, page, serve, words, text),
    *(evaluate, score, sheet),
)
for command in COMMANDS:
    marking = command in {segment, video}
    app.command(cls=Marking if marking else None)(command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"attnchain {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Read a transformer's attention as a Markov chain."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
