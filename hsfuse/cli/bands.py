"""``hsfuse bands``: which bands would be kept, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsfuse.cli.raster import Nodata, Offset, Scale, Wavelengths, declared_of
from hsfuse.cli.session import AsJson, NoProgress, Quiet, Session, Verbose


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("bands")
    def bands(
        path: Annotated[Path, typer.Argument(help="hyperspectral product")],
        count: Annotated[
            str | None,
            typer.Option(
                "--bands",
                help="a number, 'good' (all that pass), 'all', or a text file with wavelengths (default: 100, all of a "
                "product with fewer)",
            ),
        ] = None,
        cut_nm: Annotated[float, typer.Option("--vnir-swir-cut-nm", help="VNIR below, SWIR above")] = 950.0,
        wavelengths: Wavelengths = None,
        scale: Scale = None,
        offset: Offset = None,
        nodata: Nodata = None,
        verbose: Verbose = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
        no_progress: NoProgress = False,
    ) -> None:
        """Show the band table of a product: what is kept or dropped, with the evidence."""
        session = Session(verbose, quiet, as_json, no_progress)
        with session.errors():
            from hsfuse.workflows.bands import band_table_text, inspect_bands

            declared = declared_of(wavelengths, scale, offset, nodata)
            selection = inspect_bands(path, count, cut_nm=cut_nm, progress=session.progress, declared=declared)
            session.show(selection.to_json(), lambda: band_table_text(selection))
