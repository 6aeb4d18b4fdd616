"""``hsfuse coregister``: align any raster to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hsfuse.cli.options import with_config
from hsfuse.cli.session import AsJson, LogFile, LogFormat, NoProgress, Quiet, Session, Verbose
from hsfuse.config import CoregisterConfig


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("coregister")
    @with_config(CoregisterConfig)
    def coregister(
        target: Annotated[Path, typer.Argument(help="image to be moved")],
        reference: Annotated[Path, typer.Argument(help="image that is right")],
        output: Annotated[Path, typer.Option("-o", "--output", help="aligned GeoTIFF")],
        settings: dict[str, Any],
        field: Annotated[Path | None, typer.Option("--field", help="write dx, dy in metres (GeoTIFF)")] = None,
        tie_points: Annotated[Path | None, typer.Option("--tie-points", help="write the tie points (GeoJSON)")] = None,
        report: Annotated[Path | None, typer.Option("--report", help="write an HTML report")] = None,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="replace existing files")] = False,
        config: Annotated[Path | None, typer.Option("--config", help="TOML file with the same names")] = None,
        verbose: Verbose = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
        no_progress: NoProgress = False,
        log_format: LogFormat = None,
        log_file: LogFile = None,
    ) -> None:
        """Align TARGET to REFERENCE with one resampling, and say how well."""
        session = Session(verbose, quiet, as_json, no_progress, log_format, log_file)
        with session.errors():
            from hsfuse.workflows.coregister import coregister_files

            result = coregister_files(
                target, reference, output, field=field, tie_points=tie_points, report=report, overwrite=overwrite,
                config=CoregisterConfig.resolve(config, **settings), progress=session.progress,
            )  # fmt: skip
            facts = result.to_json()
            session.show(facts, lambda: f"{output}  {facts['verdict']}: {facts['reason']}")
