"""``hsfuse demo``: simulate, run, score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsfuse.cli.session import AsJson, NoProgress, Quiet, Session, Verbose


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("demo")
    def demo(
        folder: Annotated[Path, typer.Argument(help="where to work")] = Path("demo"),
        size: Annotated[int, typer.Option(help="scene side in HSI pixels (30 m)", min=80)] = 160,
        seed: Annotated[int, typer.Option(help="another seed, another landscape", min=0)] = 0,
        method: Annotated[str, typer.Option(help="fusion method")] = "auto",
        verbose: Verbose = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
        no_progress: NoProgress = False,
    ) -> None:
        """Simulate a small scene in the true file formats, fuse it, and score the cube against the known truth."""
        session = Session(verbose, quiet, as_json, no_progress)
        with session.errors():
            shown = session.progress
            from hsfuse.workflows.demo import demo_text, run_demo

            facts = run_demo(folder, size=size, seed=seed, method=method, progress=shown)
            session.show(facts, lambda: demo_text(facts))
