"""What a report says of a run in a table of facts."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from hsfuse._version import __version__
from hsfuse.qa.dates import DatesView
from hsfuse.readers.source_dates import dates_text
from hsfuse.workflows.steps.adapted import adaptation_text
from hsfuse.workflows.steps.behind_method import guard_text
from hsfuse.workflows.steps.changes import change_text, partners_text, refinement_text
from hsfuse.writers import WrittenProduct

_LIBRARIES = ("numpy", "scipy", "torch", "rasterio", "h5py")


def report_facts(
    summary: dict[str, Any], written: WrittenProduct, coverage: float, dates: DatesView | None
) -> dict[str, Any]:
    """Facts by their names, from the summary of a run, the written product, the valid share and the dates."""
    grid, bands, plan = summary["grid"], summary["bands"], summary["plan"]
    statistics = summary["statistics"]
    total, computed = max(statistics["total_pixels"], 1), statistics["computed_pixels"]
    return {
        "Size": f"{grid['height']} x {grid['width']} pixels of {grid['pixel_m']:g} m",
        "Reference system": grid["crs"],
        "Bands": f"{bands['count']} of {bands['of']}, {bands['centre_nm'][0]:.0f} to {bands['centre_nm'][-1]:.0f} nm",
        **({"Dates of Sentinel-2": dates_text(dates.dates)} if dates is not None else {}),
        "Valid pixels": f"{100 * coverage:.1f} %",
        "Hidden by cloud": f"{100 * statistics['cloud_pixels'] / total:.1f} %",
        "PSF of the HSI": f"{summary['psf_fwhm_px']:.2f} HSI pixels (FWHM), {summary['psf_source']}",
        **({"Spectral smile": smile["text"]} if (smile := summary["inputs"]["hsi"].get("smile")) else {}),
        **_guide_facts(summary["guide"]),
        **_method_facts(summary),
        "Clipped samples": f"{100 * statistics['clipped'] / max(computed * bands['count'], 1):.3f} %",
        "Tiles": f"{plan['tiles']} of {plan['tile_px']} px, overlap {plan['overlap_px']} px,"
        f" {statistics['skipped']} empty ones skipped",
        "File": f"{written.path.name}, {written.bytes / 1e6:.1f} MB, {written.format.name}",
    }


def _guide_facts(guide: Mapping[str, Any]) -> dict[str, str]:
    facts = {}
    if guide["response"]:
        facts[f"Response of {guide['response']['band']}"] = guide["response"]["text"]
    if guide["pan_on_s2"]:
        facts["Panchromatic image on Sentinel-2"] = f"{guide['pan_on_s2']['verdict']}: {guide['pan_on_s2']['reason']}"
    return facts


def _method_facts(summary: dict[str, Any]) -> dict[str, str]:
    facts = {}
    validation = summary["method"].get("validation")
    if validation:
        facts["Share of the network's correction"] = f"{100 * validation['mean_share']:.0f} % (mean over bands)" + (
            f"; it gains {validation['gain_db']:.2f} dB over the base estimate on {validation['windows']} windows of "
            "the scene at reduced resolution"
            if validation["windows"]
            else "; no window of the scene is large and clear enough to test it"
        )
    calibration = summary["method"].get("calibration")
    if calibration:
        rows, cols = calibration["offset_px"]
        facts["Blur and shift found by the method"] = (
            f"PSF {calibration['psf_fwhm_px']:.2f} HSI pixels (FWHM); {rows:+.3f} rows, {cols:+.3f} columns"
        )
    if "adaptation" in summary:
        facts["Adaptation to the scene"] = adaptation_text(summary["adaptation"])
    refinement = summary["method"].get("refinement")
    if refinement:
        facts["Refinement"] = refinement_text(refinement)
    if "changes" in summary:
        facts["Changes between both images"] = change_text(summary["changes"])
        if summary["changes"].get("partners"):
            facts["Further dates of Sentinel-2"] = partners_text(summary["changes"]["partners"])
    guards = guard_text(summary["config"])
    return facts | ({"Fidelity guards": guards} if guards else {})


def versions() -> dict[str, str]:
    """Versions of hsfuse and of the libraries that its results depend on."""
    return {"hsfuse": __version__, **{name: metadata.version(name) for name in _LIBRARIES}}
