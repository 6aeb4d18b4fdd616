"""``hsfuse compare``: several methods on one scene."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hsfuse.cli.options import with_config
from hsfuse.cli.session import AsJson, ConfigFile, LogFile, LogFormat, NoProgress, Quiet, Session, Verbose
from hsfuse.config import CompareConfig, CoregisterConfig
from hsfuse.errors import EXIT_CODES

_PANEL_FIELDS = {
    "Comparison": "methods guide quality adapt reduced condition bands vnir_swir_cut_nm s2_bands ratio psf_fwhm aoi"
    " aoi_crs window allow_radiometry_mismatch cloud_mask cloud_dilate_px overwrite seed",
    "Co-registration": " ".join(CoregisterConfig.model_fields),
    "Computing": "tile device precision max_memory max_vram threads verify",
}
_PANELS = {name: panel for panel, names in _PANEL_FIELDS.items() for name in names.split()}


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("compare", epilog="Exit codes: " + " · ".join(f"{c} {t}" for c, t in EXIT_CODES.items()))
    @with_config(CompareConfig, panels=_PANELS)
    def compare(
        scene: Annotated[
            list[Path],
            typer.Argument(
                help="PRISMA SENTINEL2 ...: full resolution, without a reference; or one cube (.he5, raster with"
                " wavelengths, .npz): reduced resolution with a simulated MSI, against the cube"
            ),
        ],
        settings: dict[str, Any],
        output: Annotated[
            Path | None, typer.Option("-o", "--output", help="report (.html); default: NAME.compare.html here")
        ] = None,
        config: ConfigFile = None,
        verbose: Verbose = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
        no_progress: NoProgress = False,
        log_format: LogFormat = None,
        log_file: LogFile = None,
    ) -> None:
        """Compare fusion methods on one scene: scores, error maps, spectra, report."""
        session = Session(verbose, quiet, as_json, no_progress, log_format, log_file)
        with session.errors():
            resolved = CompareConfig.resolve(config, **settings)
            from hsfuse.workflows.compare import compare as run

            result = run(scene, output, resolved, progress=session.progress)
            session.show(result.summary, lambda: table_text(result.summary))


def table_text(summary: dict[str, Any]) -> str:
    """Return the scores as a table, in parts that fit a terminal; the best of each column carries a star."""
    from hsfuse.qa.scores import score_text

    methods = summary["methods"]
    keys = list(dict.fromkeys(key for method in methods for key in method["scores"]))
    head = ["method", *(_short(key) for key in keys)]
    rows = []
    best = {}
    for key in keys:
        direction = score_text(key).direction
        values = [m["scores"][key] for m in methods if m["scores"].get(key) is not None]
        if direction and len(set(values)) > 1:
            best[key] = max(values) if direction > 0 else min(values)
    for method in methods:
        cells = [method["name"]]
        for key in keys:
            value = method["scores"].get(key)
            text = "-" if value is None else f"{value:.{score_text(key).decimals}f}"
            cells.append(text + ("*" if value is not None and value == best.get(key) else " "))
        rows.append(cells)
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [summary["title"] + (" (*: best of its column)" if best else "")]
    for part in _parts(widths):
        for first, *others in [head, *rows]:
            lines.append("  ".join([first.ljust(widths[0]), *(others[i].rjust(widths[i + 1]) for i in part)]))
    lines += [f"note: {note}" for note in summary["notes"]]
    return "\n".join([*(line.rstrip() for line in lines), f"report: {summary['report']}"])


def _parts(widths: Sequence[int]) -> list[list[int]]:
    """Columns beside the first one, in parts that are no wider than the terminal; in one where there is none."""
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else sum(widths) + 2 * len(widths)
    parts: list[list[int]] = [[]]
    for column, width in enumerate(widths[1:]):
        taken = widths[0] + sum(widths[i + 1] + 2 for i in parts[-1])
        if parts[-1] and taken + width + 2 > room:
            parts.append([])
        parts[-1].append(column)
    return parts


def _short(key: str) -> str:
    return {"seconds": "time/s", "memory_mb": "memory/MB", "vram_mb": "GPU/MB"}.get(key, key)
