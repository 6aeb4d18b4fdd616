"""``hsfuse batch-status``: how a batch stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsfuse.cli.session import AsJson, Quiet, Session, Verbose


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("batch-status")
    def batch_status(
        folder: Annotated[Path, typer.Argument(help="output folder of `hsfuse batch`")],
        verbose: Verbose = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
    ) -> None:
        """Show what a batch has done, what runs and what waits; works while it runs, from another terminal."""
        session = Session(verbose, quiet, as_json)
        with session.errors():
            from hsfuse.workflows.batch_status import batch_status, status_text

            facts = batch_status(folder)
            session.show(facts, lambda: status_text(facts))
