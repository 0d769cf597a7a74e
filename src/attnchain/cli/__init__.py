"""The command line: thin over the library, one file for each command."""

from typing import TYPE_CHECKING, Any

from attnchain.cli.ending import main

if TYPE_CHECKING:
    from attnchain.cli.commands import app

__all__ = ["app", "main"]


def __getattr__(name: str) -> Any:
    """The commands, imported where Ctrl-C already ends quietly."""
    if name != "app":
        raise AttributeError(name)
    from attnchain.cli.commands import app

    return app
