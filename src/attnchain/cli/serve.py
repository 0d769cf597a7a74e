"""`attnchain serve`: the page for pictures dropped on it, on this computer only."""

import os
import signal
import sys
from typing import Annotated

import typer

from attnchain.cli.options import Model
from attnchain.cli.session import load_model

_INTERRUPTED = 128 + signal.SIGINT


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
    from attnchain.page import claim_port, page_server

    code = 0
    with claim_port(port) as held:
        loaded = load_model(model, quiet=False)
        with page_server(loaded, port=held, max_upload=max_upload * 10**6) as server:
            try:
                typer.echo(f"Drop pictures on {server.url} (Ctrl-C ends)")
                server.serve_forever()
            except KeyboardInterrupt:
                pass
            except SystemExit as stop:
                code = 0 if stop.code == _INTERRUPTED else stop.code
    if code == 0:
        typer.echo("stopped")
    if server.busy:
        # Python would trip over a thread in the middle of a product.
        sys.stdout.flush()
        os._exit(int(code or 0))
    sys.exit(code)
