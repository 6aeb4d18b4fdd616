"""``hsfuse run``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hsfuse import process
from hsfuse._early import resting_collector
from hsfuse.cli.options import with_config
from hsfuse.cli.session import AsJson, ConfigFile, LogFile, LogFormat, NoProgress, Quiet, Session, Verbose
from hsfuse.config import CoregisterConfig, RunConfig
from hsfuse.errors import EXIT_CODES

_PANEL_FIELDS = {
    "Fusion": "method guide quality model prior adapt bands vnir_swir_cut_nm s2_bands allow_radiometry_mismatch ratio"
    " psf_fwhm clip seed",
    "HSI raster": "wavelengths scale offset nodata",
    "Fidelity guards": "back_projection back_projection_weight srf_weight",
    "Co-registration": " ".join(CoregisterConfig.model_fields),
    "Sentinel-2 of several dates": "s2_date max_days partners",
    "Product": "format dtype compress overwrite resume aoi aoi_crs cloud_mask cloud_dilate_px report figures"
    " min_quality min_confidence",
    "Computing": "tile overlap device precision max_memory max_vram threads verify",
}
MATTER = (
    "method",
    "guide",
    "quality",
    "bands",
    "coregister",
    "aoi",
    "adapt",
    "format",
    "max_memory",
    "overwrite",
    "resume",
)
"""The settings that most users want to know of."""
_INTERRUPTED = "; the same command with --resume goes on where it stopped"
PANELS = {name: panel for panel, names in _PANEL_FIELDS.items() for name in names.split()}


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("run", epilog="Exit codes: " + " · ".join(f"{c} {t}" for c, t in EXIT_CODES.items()))
    @with_config(RunConfig, panels=PANELS, matter=MATTER)
    def run(
        hsi: Annotated[Path, typer.Argument(help="PRISMA .he5 or .zip, or a raster cube with wavelengths")],
        output: Annotated[Path, typer.Option("-o", "--output", help="the cube: .tif, or .img for ENVI")],
        settings: dict[str, Any],
        msi: Annotated[
            list[Path] | None,
            typer.Argument(
                help="Sentinel-2 .SAFE, MTD_*.xml, .zip, several, or a folder of many dates; none with --guide pan",
            ),
        ] = None,
        config: ConfigFile = None,
        dry_run: Annotated[
            bool,
            typer.Option("--dry-run", help="check everything within seconds, print the plan and its memory, then stop"),
        ] = False,
        full_dry_run: Annotated[
            bool, typer.Option("--dry-run-full", help="the same after co-registration; also written --dry-run=full")
        ] = False,
        verbose: Verbose = False,
        quiet: Quiet = False,
        as_json: AsJson = False,
        no_progress: NoProgress = False,
        log_format: LogFormat = None,
        log_file: LogFile = None,
    ) -> None:
        """Fuse one scene: HSI and Sentinel-2 in, one georeferenced cube out."""
        session = Session(verbose, quiet, as_json, no_progress, log_format, log_file, interrupted=_INTERRUPTED)
        with session.errors():
            resolved = RunConfig.resolve(config, **settings)
            shown = session.progress
            with resting_collector(own=process.is_own()):
                from hsfuse.workflows.run import run_scene

            planning: bool | Literal["full"] = "full" if full_dry_run else dry_run
            result = run_scene(hsi, msi or [], output, resolved, dry_run=planning, progress=shown)
            session.show(result.summary, lambda: plan_text(result.summary) if planning else result_text(result.summary))


def plan_text(summary: dict[str, Any]) -> str:
    """Describe a plan in a few lines."""
    grid, plan, bands = summary["grid"], summary["plan"], summary["bands"]
    return "\n".join(
        [
            f"method        {summary['method']['name']}: {summary['method']['reason']}",
            f"result        {grid['height']} x {grid['width']} pixels of {grid['pixel_m']:g} m, {bands['count']} bands,"
            f" {grid['crs']}",
            *([f"dates         {used_dates(summary['dates'])}"] if "dates" in summary else []),
            f"alignment     {_alignment(summary['coregistration'])}",
            f"tiles         {plan['tiles']} of {plan['tile_px']} px, overlap {plan['overlap_px']}, on {plan['device']}",
            f"peak memory   {plan['peak_memory_bytes'] / 1e9:.2f} GB"
            + (f", GPU {plan['peak_vram_bytes'] / 1e9:.2f} GB" if plan["peak_vram_bytes"] else ""),
            f"disk          up to {2 * plan['disk_bytes'] / 1e9:.2f} GB while running",
            f"time          about {plan['estimated_seconds']:.0f} s for fusing and writing",
        ]
    )


def _alignment(coregistration: dict[str, Any]) -> str:
    verdict, reason = coregistration["verdict"], str(coregistration["reason"])
    return reason if verdict == "off" else f"{verdict}: {reason}"


def used_dates(dates: list[dict[str, Any]], *, partners: bool = True) -> str:
    """Say of which dates the multispectral image is composed, how much comes from each, and which are partners."""

    def day(date: dict[str, Any]) -> str:
        return str(date["start"] or date["products"][0])[:10]

    used = [date for date in dates if date["used"] > 0]
    text = f"{len(used)} of {len(dates)}: " + ", ".join(f"{day(date)} ({100 * date['used']:.0f} %)" for date in used)
    others = [day(date) for date in dates if date["partner"]] if partners else []
    return f"{text}; combined with {' and '.join(others)}" if others else text


def result_text(summary: dict[str, Any]) -> str:
    """Describe a result in a few lines."""
    grid, coregistration, scores = summary["grid"], summary["coregistration"], summary.get("scores", {})
    error = coregistration.get("rmse_m")
    lines = [
        f"{summary['output']}  {grid['height']} x {grid['width']} pixels of {grid['pixel_m']:g} m,"
        f" {summary['bands']['count']} bands, {summary['bytes'] / 1e6:.0f} MB",
        f"  method      {summary['method']['name']}: {summary['method']['reason']}",
        f"  alignment   {coregistration['verdict']}" + (f", error {error:.1f} m" if error is not None else ""),
    ]
    if "adaptation" in summary:
        from hsfuse.workflows.steps.adapted import short_adaptation_text

        lines.insert(2, f"  adapted     {short_adaptation_text(summary['adaptation'])}")
    tried = bool((summary.get("changes") or {}).get("partners"))
    if "dates" in summary:
        # Which of the partners were combined with it is said below, where that was tried.
        lines.append(f"  dates       {used_dates(summary['dates'], partners=not tried)}")
    if tried:
        from hsfuse.workflows.steps.changes import partners_text

        lines.append(f"  partners    {partners_text(summary['changes']['partners'])}")
    if summary.get("changes"):
        lines.append(
            f"  changes     {100 * summary['changes']['changed_share']:.1f} % of the ground; {summary['confidence']}"
        )
    if scores.get("qnr") is not None:
        lines.append(
            f"  quality     QNR {scores['qnr']:.3f} (D_lambda {scores['d_lambda']:.3f}, D_s {scores['d_s']:.3f})"
        )
    if summary.get("verdict"):
        lines.append(f"  verdict     {summary['verdict']['level']}")
        lines.append(f"  report      {summary['report']}")
    peak = summary["peak_memory_bytes"] / 1e9
    lines.append(f"  took        {summary['total_seconds']:.0f} s, peak memory {peak:.2f} GB")
    return "\n".join(lines)
