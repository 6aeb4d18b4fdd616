"""``hsfuse view``: a cube in the browser."""

from __future__ import annotations

import signal
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from hsfuse.cli.session import Quiet, Session, Verbose
from hsfuse.cli.streams import deliver


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("view")
    def view(
        cube: Annotated[Path, typer.Argument(help="a fused cube, or any raster with wavelengths")],
        hsi: Annotated[
            Path | None, typer.Option("--hsi", help="the PRISMA product; default: where the cube's report says it is")
        ] = None,
        msi: Annotated[
            list[Path] | None, typer.Option("--msi", help="the Sentinel-2 product; may be given several times")
        ] = None,
        port: Annotated[int, typer.Option(help="port on this computer; 0: a free one", min=0, max=65535)] = 0,
        browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open the page in the browser")] = True,
        verbose: Verbose = False,
        quiet: Quiet = False,
    ) -> None:
        """Look at a cube in the browser: any three bands, beside PRISMA and Sentinel-2, the spectrum of each pixel."""
        session = Session(verbose, quiet)
        with session.errors():
            from hsfuse.workflows.view.layers import Explored
            from hsfuse.workflows.view.server import ViewServer

            with Explored(cube, hsi=hsi, msi=msi or []) as explored, ViewServer(explored, port) as server:
                # There is no work to be made safe.
                signal.set_wakeup_fd(-1)
                try:
                    deliver(server.address)
                    if not quiet:
                        deliver("Only this computer can open it. Ctrl-C ends.")
                    if browser:
                        webbrowser.open(server.address)
                    server.serve_forever(poll_interval=0.2)
                except KeyboardInterrupt:
                    deliver("closed")
