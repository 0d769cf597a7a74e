"""`attnchain sheet`: the answers of a folder on one page."""

from pathlib import Path
from typing import Annotated

import typer

from attnchain.cli.options import Json
from attnchain.cli.session import report
from attnchain.files import Outputs

NAME = "attnchain-sheet"


def sheet(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="The folder that `attnchain segment` wrote to.",
            show_default=False,
        ),
    ],
    json_: Json = False,
) -> None:
    """Show all answers of a folder on one HTML page, the doubtful ones first."""
    from attnchain.folder import Sheet, contact_sheet

    endings = (Sheet.ending, *Sheet.beside)
    with Outputs(folder, NAME, endings=endings, source=folder) as outputs:
        found = contact_sheet(folder)
        found.write(outputs)
        payload = outputs.describe(found.facts())
    report(payload, [found.summary(), *payload["files"]], as_json=json_)
