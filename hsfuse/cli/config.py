"""``hsfuse config``: a commented configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsfuse.cli.session import Session, Verbose
from hsfuse.cli.streams import deliver


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("config")
    def config(
        output: Annotated[Path | None, typer.Option("-o", "--output", help="file; stdout when left out")] = None,
        verbose: Verbose = False,
    ) -> None:
        """Write every setting of `hsfuse run` with its default and meaning, as TOML."""
        session = Session(verbose)
        with session.errors():
            from hsfuse.workflows.config import config_toml, write_config

            if output is None:
                deliver(config_toml(), end="")
            else:
                write_config(output)
