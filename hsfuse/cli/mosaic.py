"""``hsfuse mosaic``: neighbouring cubes become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hsfuse.cli.options import with_config
from hsfuse.cli.session import AsJson, ConfigFile, LogFile, LogFormat, NoProgress, Quiet, Session, Verbose
from hsfuse.workflows.batch.settings import MosaicConfig


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("mosaic")
    @with_config(MosaicConfig)
    def mosaic(
        sources: Annotated[list[Path], typer.Argument(metavar="FOLDER|CUBE...", help="batch folders, or single cubes")],
        output: Annotated[Path, typer.Option("-o", "--output", help="the mosaic, such as mosaic.tif")],
        settings: dict[str, Any],
        config: ConfigFile = None,
        verbose: Verbose = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
        no_progress: NoProgress = False,
        log_format: LogFormat = None,
        log_file: LogFile = None,
    ) -> None:
        """Join neighbouring cubes of one track: the same wavelengths, feathered, as one cloud-optimised GeoTIFF."""
        again = "; the same command with --resume goes on where it stopped"
        session = Session(verbose, quiet, as_json, no_progress, log_format, log_file, interrupted=again)
        with session.errors():
            resolved = MosaicConfig.resolve(config, **settings)
            from hsfuse.workflows.mosaic import mosaic as join
            from hsfuse.workflows.mosaic import mosaic_text

            facts = join(sources, output, resolved, progress=session.progress)
            session.show(facts, lambda: mosaic_text(facts))
