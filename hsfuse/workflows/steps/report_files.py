"""Names of what is reported about a cube."""

from __future__ import annotations

from pathlib import Path

from hsfuse.qa.page import OWN_PICTURE, picture_folder
from hsfuse.writers import ReportFiles


def report_files(output: Path, *, wanted: bool = True) -> ReportFiles:
    """Return the names of the HTML report, the JSON and the folder of pictures beside an output."""
    stem = output.with_suffix("")
    page = stem.with_name(stem.name + ".report.html")
    return ReportFiles(page, stem.with_name(stem.name + ".qa.json"), picture_folder(page), OWN_PICTURE, wanted)
