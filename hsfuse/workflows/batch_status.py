"""``hsfuse batch-status``: what a batch has done, what it is doing, what waits; from any terminal, at any time."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hsfuse.errors import InputError
from hsfuse.progress import format_seconds
from hsfuse.workflows.batch.lock import lock_note
from hsfuse.workflows.batch.state import STATE_NAME, BatchState, SceneState

_NAMES = {"finished": "done", "retried": "started"}
_ORDER = ("running", "interrupted", "failed", "unreadable", "unpaired", "waiting", "done")


def batch_status(folder: Path) -> dict[str, Any]:
    """Return how every scene of a batch's folder stands.

    Returns
    -------
    dict
        ``counts`` by status, and ``scenes``: each with ``scene``, ``status`` (``done``, ``running``, ``waiting``,
        ``failed``, ``interrupted``, ``unpaired``, ``unreadable``) and what is known beside that.

    Raises
    ------
    InputError
        The folder is no batch's.
    """
    if not (folder / STATE_NAME).is_file():
        raise InputError(
            f"{folder} is no folder of a batch (it has no {STATE_NAME}).", hint="Give the folder named with -o."
        )
    state = BatchState(folder)
    scenes = [_scene(folder, name, known) for name, known in state.scenes.items()]
    scenes += [{"scene": name, "status": "waiting"} for name in _waiting(state)]
    scenes.sort(key=lambda facts: (_ORDER.index(facts["status"]), facts["scene"]))
    counts = {status: sum(s["status"] == status for s in scenes) for status in _ORDER}
    return {"folder": str(folder), "counts": {k: v for k, v in counts.items() if v}, "scenes": scenes}


def _waiting(state: BatchState) -> list[str]:
    """Scenes of batches that have not ended, of which nothing was heard since they began."""
    ended = {entry.get("batch") for entry in state.batches if entry["event"] == "batch-finished"}
    names: dict[str, None] = {}
    for entry in state.batches:
        if entry["event"] == "batch-started" and entry.get("batch") not in ended:
            names |= dict.fromkeys(name for name in entry.get("scenes", ()) if name not in state.scenes)
    return list(names)


def _scene(folder: Path, name: str, known: SceneState) -> dict[str, Any]:
    event = known.event
    status = _NAMES.get(known.status, known.status)
    facts: dict[str, Any] = {"scene": name, "status": status, "since": event["time"]}
    if status == "started":
        note = lock_note(folder, name)
        facts["status"] = "interrupted" if note is None else "running"
        if note is not None:
            facts |= {"host": note.get("host"), "pid": note.get("pid"), "stage": note.get("stage"),
                      "fraction": note.get("fraction")}  # fmt: skip
    elif status == "done":
        record = event["record"]
        facts |= {"seconds": record["seconds"], "verdict": record.get("verdict"), "output": record["output"]}
    else:
        facts |= {"exit_code": event.get("exit_code"), "reason": event.get("message")}
    return facts


def status_text(facts: dict[str, Any]) -> str:
    """Lay out the status for reading; finished scenes are only counted."""
    counts = ", ".join(f"{count} {status}" for status, count in facts["counts"].items())
    lines = [f"{facts['folder']}: {len(facts['scenes'])} scenes: {counts}"]
    for scene in facts["scenes"]:
        if scene["status"] == "done":
            continue
        text = ""
        if scene["status"] == "running":
            spent = time.time() - datetime.fromisoformat(scene["since"]).astimezone(UTC).timestamp()
            fraction = scene["fraction"]
            share = f" {100 * fraction:.0f} %" if fraction else ""
            text = f"{scene['stage'] or 'start'}{share}, {format_seconds(max(0.0, spent))}, on {scene['host']}"
        elif scene.get("reason"):
            text = scene["reason"]
        lines.append(f"  {scene['status']:<11} {scene['scene']}  {text}".rstrip())
    return "\n".join(lines)
