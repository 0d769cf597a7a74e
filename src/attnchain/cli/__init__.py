"""The command line: thin over the library, one file for each command."""

from attnchain.cli.app import app, main

__all__ = ["app", "main"]
