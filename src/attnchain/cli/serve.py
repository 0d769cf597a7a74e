"""`attnchain serve`: the page for pictures dropped on it, on this computer only."""

from contextlib import suppress
from typing import Annotated

import typer

from attnchain.cli.options import Model
from attnchain.cli.session import load_model


def serve(
    model: Model = "dinov2-small-saliency",
    port: Annotated[
        int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", max=65535)
    ] = 8642,
    max_upload: Annotated[
        int, typer.Option(help="Largest picture file, in MB.", min=1)
    ] = 50,
) -> None:
    """Open the page for pictures dropped on it, until Ctrl-C."""
    from attnchain.page import page_server

    loaded = load_model(model, quiet=False)
    with page_server(loaded, port=port, max_upload=max_upload * 1_000_000) as server:
        typer.echo(f"Drop pictures on {server.url} (Ctrl-C ends)")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    typer.echo("stopped")
