"""``hsfuse info``: what a file is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsfuse.cli.raster import Nodata, Offset, Scale, Wavelengths, declared_of
from hsfuse.cli.session import AsJson, Quiet, Session, Verbose
from hsfuse.errors import UsageError


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("info")
    def info(
        paths: Annotated[
            list[Path], typer.Argument(help="any product that hsfuse reads or writes; several, or folders of them")
        ],
        wavelengths: Wavelengths = None,
        scale: Scale = None,
        offset: Offset = None,
        nodata: Nodata = None,
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

            declared = declared_of(wavelengths, scale, offset, nodata)
            if len(paths) == 1 and len(expanded(paths[0])) == 1:
                facts = describe_product(paths[0], declared)
                session.show(facts, lambda: description_text(facts))
            elif declared:
                raise UsageError(f"{declared.options} can be given for one file only.", hint="Ask for one at a time.")
            else:
                several = describe_products(paths)
                session.show(several, lambda: products_text(several))
