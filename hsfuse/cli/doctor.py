"""``hsfuse doctor``: check the installation."""

from __future__ import annotations

import typer

from hsfuse.cli.session import AsJson, Quiet, Session, Verbose


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("doctor")
    def doctor(verbose: Verbose = False, quiet: Quiet = False, as_json: AsJson = False) -> None:
        """Check the installation: versions, drivers, GPU, compiled kernels, environment."""
        session = Session(verbose, quiet, as_json)
        with session.errors():
            from hsfuse.workflows.doctor import diagnose, diagnosis_text

            facts = diagnose()
            session.show(facts, lambda: diagnosis_text(facts))
            if facts["problems"]:
                raise typer.Exit(1)
