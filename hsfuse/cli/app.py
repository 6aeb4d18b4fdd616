"""The ``hsfuse`` command. Heavy libraries are imported inside commands, so that ``--help`` is immediate."""

from __future__ import annotations

from typing import Annotated

import typer

from hsfuse._version import __version__
from hsfuse.cli import (
    bands,
    batch,
    batch_status,
    compare,
    config,
    coregister,
    demo,
    doctor,
    info,
    models,
    mosaic,
    run,
    simulate,
    train_prior,
    train_reduced,
    view,
)
from hsfuse.cli.group import HsfuseGroup
from hsfuse.cli.help import HelpCommand
from hsfuse.cli.streams import deliver
from hsfuse.errors import EXIT_CODES

_EPILOG = "Exit codes: " + " · ".join(f"{code} {text}" for code, text in EXIT_CODES.items())

app = typer.Typer(
    name="hsfuse",
    cls=HsfuseGroup,
    help="Fuse PRISMA hyperspectral and Sentinel-2 products into one georeferenced 10 m hyperspectral cube.",
    epilog=_EPILOG,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        deliver(f"hsfuse {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Fuse PRISMA hyperspectral and Sentinel-2 products into one georeferenced 10 m hyperspectral cube."""


_COMMANDS = (
    run, view, batch, batch_status, mosaic, info, bands, coregister, compare, train_reduced, train_prior, models,
    simulate, demo, doctor, config,
)  # fmt: skip
for module in _COMMANDS:
    module.add_to(app)
for registered in app.registered_commands:
    registered.cls = HelpCommand
