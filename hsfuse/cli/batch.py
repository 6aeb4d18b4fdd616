"""``hsfuse batch``: many scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hsfuse.cli.options import with_config
from hsfuse.cli.run import MATTER, PANELS
from hsfuse.cli.session import AsJson, ConfigFile, LogFile, LogFormat, NoProgress, Quiet, Session, Verbose
from hsfuse.errors import EXIT_CODES, UsageError
from hsfuse.workflows.batch.settings import BatchConfig

_BATCH = "max_days max_cloud min_overlap workers max_failures redo scheduler max_memory threads"
_DECIDED = frozenset({"overwrite", "resume"})
"""Settings about which a batch decides for each scene itself."""
_MATTER = ("workers", "max_days", "redo", *(name for name in MATTER if name not in {*_DECIDED, "format"}))
_PANELS = PANELS | dict.fromkeys(_BATCH.split(), "Batch")


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("batch", epilog="Exit codes: " + " · ".join(f"{c} {t}" for c, t in EXIT_CODES.items()))
    @with_config(BatchConfig, panels=_PANELS, without=_DECIDED, matter=_MATTER)
    def batch(
        sources: Annotated[
            list[str],
            typer.Argument(
                metavar="HSI...",
                help="hyperspectral products: files, folders, patterns; or a manifest (.csv, .jsonl: hsi, s2, output"
                " and any setting)",
            ),
        ],
        output: Annotated[Path, typer.Option("-o", "--output", help="folder for cubes, logs, state and summary")],
        settings: dict[str, Any],
        s2: Annotated[
            list[str] | None,
            typer.Option("--s2", help="Sentinel-2 archive: folder, products or patterns; may be given several times"),
        ] = None,
        config: ConfigFile = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="print the plan, then stop; reads headers only")
        ] = False,
        skip_existing: Annotated[
            bool, typer.Option("--skip-existing", help="skip what is finished and unchanged: the default")
        ] = False,
        verbose: Verbose = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
        no_progress: NoProgress = False,
        log_format: LogFormat = None,
        log_file: LogFile = None,
    ) -> None:
        """Fuse many scenes: pair them with Sentinel-2, run them side by side, go on where a call stopped, sum up."""
        again = "; the same command goes on where it stopped"
        session = Session(verbose, quiet, as_json, no_progress, log_format, log_file, interrupted=again)
        with session.errors():
            resolved = BatchConfig.resolve(config, **settings)
            if skip_existing and resolved.redo != "none":
                raise UsageError("--skip-existing and --redo exclude each other.")
            if resolved.overwrite or resolved.resume:
                raise UsageError(
                    "A batch decides about overwriting and resuming for each scene itself.",
                    hint="Use --redo changed, failed or all; resuming is what the same command does.",
                )
            from hsfuse.workflows.batch.command import result_text, run_batch

            result = run_batch(
                sources, s2 or [], output, resolved, dry_run=dry_run, quiet=quiet, show_progress=not no_progress
            )
            session.show(result.to_json(), lambda: result_text(result))
            if result.exit_code:
                raise typer.Exit(result.exit_code)
