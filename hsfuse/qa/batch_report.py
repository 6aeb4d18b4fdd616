"""The page of a batch: one row per scene, to be sorted, with a small picture and a link to the scene's report."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hsfuse.grid import Slice2D
from hsfuse.qa.page import render_page, write_files
from hsfuse.qa.quicklook import COMPOSITES, encode_png, fit_shape, pick_bands, to_rgba
from hsfuse.writers.format import CubeReader

THUMBNAIL_PX = 96
_TONES = {"good": "good", "usable with care": "care", "failed": "failed"}


@dataclass(frozen=True)
class SceneRow:
    """A scene in the summary; numbers are None where they are not known.

    Attributes
    ----------
    name, status, reason
        The scene, how it stands (``done``, ``failed``, ``unpaired``, ...), and why where it is not done.
    verdict
        ``good``, ``usable with care`` or ``failed``; empty without quality assessment.
    hsi, msi
        Names of the products.
    days_apart
        Days between the images.
    coregistration_rmse_m
        Error of the co-registration (RMSE) in metres.
    qnr
        QNR at full resolution.
    change_share
        Share of the area that changed between the images, 0 to 1.
    seconds
        Time that the run took.
    output, report, log
        Files, relative to the page; empty where there is none.
    picture
        PNG, empty where there is none.
    """

    name: str
    status: str
    reason: str = ""
    verdict: str = ""
    hsi: str = ""
    msi: str = ""
    days_apart: float | None = None
    coregistration_rmse_m: float | None = None
    qnr: float | None = None
    change_share: float | None = None
    seconds: float | None = None
    output: str = ""
    report: str = ""
    log: str = ""
    picture: bytes = field(default=b"", repr=False)


_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("days_apart", "Days apart", "{:.1f}"),
    ("coregistration_rmse_m", "Co-registration error (m)", "{:.1f}"),
    ("qnr", "QNR", "{:.3f}"),
    ("change_share", "Changed", "{:.1%}"),
    ("seconds", "Time (s)", "{:.0f}"),
)


def write_batch_report(path: Path, title: str, rows: Sequence[SceneRow], *, facts: Mapping[str, Any]) -> Path:
    """Write the page.

    Parameters
    ----------
    path
        HTML file.
    title
        Heading.
    rows
        Scenes, in the order in which they are first shown.
    facts
        Label -> value, above the table.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    shown = [c for c in _COLUMNS if any(getattr(row, c[0]) is not None for row in rows)]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    context = {
        "title": title,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "facts": [(key, str(value)) for key, value in facts.items()],
        "counts": list(counts.items()),
        "columns": [label for _, label, _ in shown],
        "rows": [_row(row, shown) for row in rows],
    }
    write_files(path, render_page("batch.html", context), [])
    return path


def _row(row: SceneRow, shown: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    values = [getattr(row, key) for key, _, _ in shown]
    encoded = base64.b64encode(row.picture).decode("ascii")
    done = row.status == "done"
    return {
        "row": row,
        "picture": f"data:image/png;base64,{encoded}" if encoded else "",
        "tone": _TONES.get(row.verdict, "good") if done else ("care" if row.status != "failed" else "failed"),
        "state": (row.verdict or "done") if done else row.status,
        # Words sort after their gravity, not after the alphabet.
        "rank": {"good": 0, "care": 1, "failed": 2}[_TONES.get(row.verdict, "good")] if done else 3,
        "cells": [
            {
                "text": "" if value is None else pattern.format(value),
                "sort": "" if value is None else repr(float(value)),
            }
            for value, (_, _, pattern) in zip(values, shown, strict=True)
        ],
    }


def thumbnail(cube: CubeReader, centre_nm: Sequence[float], *, side_px: int = THUMBNAIL_PX) -> bytes:
    """Draw a small picture of a cube (PNG): true colour where it has the bands, else its middle band in grey.

    Parameters
    ----------
    cube
        An open product.
    centre_nm
        Centre wavelength of each of its bands.
    side_px
        Longer side of the picture.
    """
    _, rows, cols = cube.shape
    centre = np.asarray(centre_nm, dtype=np.float64)
    composite = COMPOSITES[0]
    bands = pick_bands(centre, composite.wanted_nm, composite.tolerance_nm) or (centre.size // 2,)
    return encode_png(to_rgba(cube.read(bands, Slice2D(0, rows, 0, cols), fit_shape((rows, cols), side_px))))
