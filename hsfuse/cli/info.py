"""``hsfuse info``: what a file is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsfuse.cli.session import AsJson, Quiet, Session, Verbose


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("info")
    def info(
        path: Annotated[Path, typer.Argument(help="any product that hsfuse reads or writes")],
        verbose: Verbose = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
    ) -> None:
        """Print what a product is: sensor, level, time, extent, bands, warnings."""
        session = Session(verbose, quiet, as_json)
        with session.errors():
            from hsfuse.workflows.info import describe_product, description_text

            facts = describe_product(path)
            session.show(facts, lambda: description_text(facts))
