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
        paths: Annotated[
            list[Path], typer.Argument(help="any product that hsfuse reads or writes; several, or folders of them")
        ],
        verbose: Verbose = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
    ) -> None:
        """Print what a product is: sensor, level, time, extent, bands, warnings; of several also which go together."""
        session = Session(verbose, quiet, as_json)
        with session.errors():
            from hsfuse.workflows.info import (
                describe_product,
                describe_products,
                description_text,
                expanded,
                products_text,
            )  # fmt: skip

            if len(paths) == 1 and len(expanded(paths[0])) == 1:
                facts = describe_product(paths[0])
                session.show(facts, lambda: description_text(facts))
            else:
                several = describe_products(paths)
                session.show(several, lambda: products_text(several))
