"""``hsfuse coregister``: align any raster to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hsfuse._early import torch_beside
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
        tie_points: Annotated[
            Path | None, typer.Option("--tie-points", help="write tie and check points (.gpkg or .geojson)")
        ] = None,
        report: Annotated[bool, typer.Option("--report", help="write an HTML report beside the output")] = False,
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
        with torch_beside():
            session = Session(verbose, quiet, as_json, no_progress, log_format, log_file)
            with session.errors():
                resolved = CoregisterConfig.resolve(config, **settings)
                from hsfuse.workflows.coregister import coregister_files

        with session.errors():
            page = output.with_suffix(".report.html") if report else None
            result = coregister_files(
                target, reference, output, field=field, tie_points=tie_points, report=page, overwrite=overwrite,
                config=resolved, progress=session.progress,
            )  # fmt: skip
            written = {"output": output, "field_file": field, "tie_points_file": tie_points, "report": page}
            facts = {name: str(path) for name, path in written.items() if path is not None} | result.to_json()
            session.show(facts, lambda: result_text(facts))


def result_text(facts: dict[str, Any]) -> str:
    """Describe a result in a few lines."""
    lines = [f"{facts['output']}  {facts['verdict']}: {facts['reason']}"]
    east, north = facts["global_shift_m"]
    lines.append(f"  shift       {east:.1f} m east, {north:.1f} m north; field: {facts['model']}")
    swir = facts["swir"]
    if swir is not None:
        state = "moved" if swir["corrected"] else "not moved"
        lines.append(
            f"  SWIR        {swir['dx_m']:.1f} m east, {swir['dy_m']:.1f} m north brings it onto the VNIR"
            f" (standard error {swir['sigma_m']:.1f} m, against {swir['reference']}); {state}"
        )
    names = {"field": "field_file", "tie points": "tie_points_file", "report": "report"}
    lines += [f"  {label:<11} {facts[name]}" for label, name in names.items() if name in facts]
    return "\n".join(lines)
