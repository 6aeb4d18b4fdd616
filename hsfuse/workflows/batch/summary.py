"""All scenes of a batch at one glance: ``batch.html``, ``batch.csv`` and a STAC collection over the cubes' items."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hsfuse._version import __version__
from hsfuse.log import get_logger
from hsfuse.qa.batch_report import SceneRow, write_batch_report
from hsfuse.workflows.batch.jobs import PlanEntry
from hsfuse.workflows.batch.scene import log_path
from hsfuse.workflows.batch.state import BatchState
from hsfuse.writers.storage import storage_errors, write_durably

_log = get_logger(__name__)

PAGE_NAME, TABLE_NAME, COLLECTION_NAME = "batch.html", "batch.csv", "collection.json"
_CSV_COLUMNS = (
    "scene", "status", "reason", "exit_code", "verdict", "hsi", "msi", "hsi_start", "msi_start", "days_apart",
    "cloud_percent", "coregistration", "coregistration_rmse_m", "qnr", "change_share", "method", "bands", "height",
    "width", "seconds", "peak_memory_bytes", "bytes", "output", "report", "log",
)  # fmt: skip
_STATUS = {"finished": "done", "started": "interrupted", "retried": "interrupted"}


def scene_facts(entries: Sequence[PlanEntry], state: BatchState, folder: Path) -> list[dict[str, Any]]:
    """Return one record per scene, by the names of ``batch.csv``: those of this call's plan, then all others.

    A scene that an earlier call has done stays in the summary when a later one does not name it.
    """
    planned = {entry.name: entry for entry in entries}
    names = [*planned, *(name for name in state.scenes if name not in planned)]
    return [_facts(name, planned.get(name), state, folder) for name in names]


def _facts(name: str, entry: PlanEntry | None, state: BatchState, folder: Path) -> dict[str, Any]:
    known = state.scenes.get(name)
    event = known.event if known is not None else {}
    status = _STATUS.get(known.status, known.status) if known is not None else "not started"
    facts: dict[str, Any] = {"scene": name, "status": status, "reason": event.get("message", "")}
    if entry is not None:
        facts |= {"hsi": Path(entry.hsi).name}
        if entry.job is not None:
            facts |= {"msi": ", ".join(Path(p).name for p in entry.job.msi), "days_apart": entry.job.days_apart,
                      "cloud_percent": entry.job.cloud_percent}  # fmt: skip
        if entry.action in ("outdated", "unpaired", "unreadable"):
            facts |= {"status": entry.action, "reason": entry.reason}
    if known is not None and known.status == "finished":
        facts |= event["record"]
    if event.get("exit_code"):
        facts["exit_code"] = event["exit_code"]
    log = log_path(folder, name)
    return facts | ({"log": str(log)} if log.exists() else {})


def write_summary(entries: Sequence[PlanEntry], state: BatchState, folder: Path) -> dict[str, Path]:
    """Write page, table and collection of a batch's folder.

    Returns
    -------
    dict
        ``html``, ``csv`` and ``stac``: the files.

    Raises
    ------
    OutputError
        One of them cannot be written.
    """
    facts = scene_facts(entries, state, folder)
    files = {"html": folder / PAGE_NAME, "csv": folder / TABLE_NAME, "stac": folder / COLLECTION_NAME}
    with storage_errors(files["csv"]):
        write_durably(files["csv"], _csv_text(facts, folder))
        write_durably(files["stac"], json.dumps(stac_collection(facts, folder), indent=1, allow_nan=False) + "\n")
    seconds = [float(f["seconds"]) for f in facts if f.get("seconds")]
    shown = {"Folder": folder, "Scenes": len(facts), "hsfuse": __version__, "Time of all runs": f"{sum(seconds):.0f} s"}
    rows = [_row(record, folder) for record in facts]
    write_batch_report(files["html"], f"Batch {folder.name}", rows, facts=shown)
    return files


def _relative(path: Any, folder: Path) -> str:
    """Path of a file as seen from the folder, with slashes."""
    return Path(os.path.relpath(path, folder)).as_posix() if path else ""


def _csv_text(facts: Sequence[Mapping[str, Any]], folder: Path) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for record in facts:
        files = {key: _relative(record.get(key), folder) for key in ("output", "report", "log")}
        writer.writerow({**record, **files})
    return stream.getvalue()


def _row(record: Mapping[str, Any], folder: Path) -> SceneRow:
    picture = Path(record["thumbnail"]) if record.get("thumbnail") else None
    numbers = ("days_apart", "coregistration_rmse_m", "qnr", "change_share", "seconds")
    return SceneRow(
        name=record["scene"], status=record["status"], reason=record.get("reason") or "",
        verdict=record.get("verdict") or "", hsi=record.get("hsi") or "", msi=record.get("msi") or "",
        output=_relative(record.get("output"), folder), report=_relative(record.get("report"), folder),
        log=_relative(record.get("log"), folder),
        picture=picture.read_bytes() if picture is not None and picture.is_file() else b"",
        **{key: record.get(key) for key in numbers},
    )  # fmt: skip


def stac_collection(facts: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """Return a STAC collection that links the items beside the cubes."""
    links: list[dict[str, str]] = [
        {"rel": "self", "href": f"./{COLLECTION_NAME}", "type": "application/json"},
        {"rel": "root", "href": f"./{COLLECTION_NAME}", "type": "application/json"},
    ]
    boxes: list[list[float]] = []
    times: list[str] = []
    for record in facts:
        path = _item_path(record)
        if path is None:
            continue
        try:
            item = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            _log.warning("%s is no STAC item any more", path)
            continue
        links.append({"rel": "item", "href": "./" + _relative(path, folder), "type": "application/geo+json"})
        boxes.append([float(v) for v in item["bbox"]])
        if item["properties"].get("datetime"):
            times.append(item["properties"]["datetime"])
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": folder.resolve().name,
        "title": f"Fused cubes in {folder.resolve().name}",
        "description": "Hyperspectral cubes fused with Sentinel-2 by hsfuse.",
        "license": "proprietary",
        "extent": {
            "spatial": {"bbox": [_hull(boxes), *boxes] if len(boxes) > 1 else boxes or [[-180.0, -90.0, 180.0, 90.0]]},
            "temporal": {"interval": [[min(times, default=None), max(times, default=None)]]},
        },
        "summaries": {"processing:software": [{"hsfuse": __version__}]},
        "links": links,
    }


def _item_path(record: Mapping[str, Any]) -> Path | None:
    items = [Path(p) for p in record.get("sidecars", ()) if str(p).endswith(".stac.json")]
    return items[0] if items and record.get("status") in ("done", "outdated") else None


def _hull(boxes: Sequence[Sequence[float]]) -> list[float]:
    """Box around all boxes; one that crosses the antimeridian has its west east of its east."""
    if any(box[0] > box[2] for box in boxes):
        return [-180.0, min(b[1] for b in boxes), 180.0, max(b[3] for b in boxes)]
    return [min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)]
