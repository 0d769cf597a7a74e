"""The command line: thin over tasks, one file for each command."""

from attnchain.cli.app import app, main

__all__ = ["app", "main"]
