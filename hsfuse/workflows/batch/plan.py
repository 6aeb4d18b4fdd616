"""From arguments to a plan: which scenes there are, with what each is paired, and what will happen to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hsfuse.config import RunConfig
from hsfuse.errors import InputError, OverlapError, UsageError
from hsfuse.log import get_logger
from hsfuse.progress import format_seconds
from hsfuse.readers.product_header import ProductHeader
from hsfuse.workflows.batch.jobs import PlanEntry, SceneJob, check_outputs, output_path, scene_name
from hsfuse.workflows.batch.manifest import ManifestScene, is_manifest, read_manifest
from hsfuse.workflows.batch.pairing import Archive, PairingLimits, Partner
from hsfuse.workflows.batch.products import Unreadable, expand, find_all, read_headers
from hsfuse.workflows.batch.settings import BatchConfig
from hsfuse.workflows.batch.state import PERMANENT, BatchState, Fingerprints

_log = get_logger(__name__)


@dataclass(frozen=True)
class _Wanted:
    """A scene before anything of it was read."""

    origin: str
    hsi: Path
    msi: tuple[Path, ...]
    output: Path
    settings: dict[str, Any]

    @property
    def guides_itself(self) -> bool:
        """Whether its own panchromatic image is all the guide there is."""
        return self.settings.get("guide") == "pan"


def make_plan(
    sources: Sequence[str | Path],
    archive: Sequence[str | Path],
    folder: Path,
    config: BatchConfig,
    state: BatchState,
) -> list[PlanEntry]:
    """Find and pair all scenes and decide what happens to each; only headers are read.

    Parameters
    ----------
    sources
        Hyperspectral products, folders, globs, manifests.
    archive
        Sentinel-2 products, folders, globs.
    folder
        Where the cubes go.
    config
        Settings.
    state
        What happened before.

    Raises
    ------
    InputError, UsageError
        Something does not exist, a manifest is wrong, or outputs collide with each other or with inputs.
    OverlapError
        No scene has a partner.
    """
    if not sources:
        raise UsageError("No hyperspectral product was given.", hint="Name files, folders, patterns or a manifest.")
    manifests = [Path(s) for s in sources if is_manifest(s)]
    given = expand([s for s in sources if not is_manifest(s)], "hyperspectral products")
    searched = expand(archive, "Sentinel-2 archive")
    wanted = [_from_file(path, folder, config) for path in find_all(given, "hsi")]
    for manifest in manifests:
        wanted += [_from_manifest(manifest, scene, folder, config) for scene in read_manifest(manifest)]
    without = next((w for w in wanted if not w.msi and not w.guides_itself), None)
    if without is not None and not searched:
        raise UsageError(
            f"{without.hsi.name} has no Sentinel-2 product and there is no archive to look in.",
            hint="Add --s2 FOLDER, or fill the manifest's column s2; or use --guide pan.",
        )
    inputs = [path for path in (*given, *searched, *(p for w in wanted for p in w.msi)) if path.is_dir()]
    check_outputs([(w.origin, w.hsi, w.output) for w in wanted], folder, inputs)
    entries = _paired(wanted, find_all(searched, "msi"), folder, config)
    if all(entry.action == "unpaired" for entry in entries):
        raise OverlapError(
            f"None of the {len(entries)} scenes has a partner: for {entries[0].name}, {entries[0].reason}.",
            hint="Check --s2, or widen --max-days, --max-cloud or --min-overlap.",
        )
    fingerprints = Fingerprints()
    return [_decided(entry, state, config, fingerprints) for entry in entries]


def _from_file(path: Path, folder: Path, config: BatchConfig) -> _Wanted:
    settings = config.scene_settings()
    return _Wanted(str(path), path, (), output_path(folder, "", path, settings), settings)


def _from_manifest(manifest: Path, scene: ManifestScene, folder: Path, config: BatchConfig) -> _Wanted:
    settings = config.scene_settings(**scene.settings)
    output = output_path(folder, scene.output, scene.hsi, settings)
    return _Wanted(f"{manifest.name}, line {scene.line}", scene.hsi, scene.msi, output, settings)


def _paired(wanted: Sequence[_Wanted], archive: Sequence[Path], folder: Path, config: BatchConfig) -> list[PlanEntry]:
    """Read all headers and give each scene its partner."""
    named = [path for w in wanted for path in w.msi]
    paths = list(dict.fromkeys([*archive, *named]))
    hsi, msi = read_headers([w.hsi for w in wanted], paths)
    readable: dict[Path, ProductHeader] = {}
    for path, header in zip(paths, msi, strict=True):
        if isinstance(header, Unreadable):
            _log.warning("left out: %s", header.error.message)
        else:
            readable[path] = header
    if (
        archive
        and not any(path in readable for path in archive)
        and any(not (w.msi or w.guides_itself) for w in wanted)
    ):
        raise InputError("The archive holds no readable Sentinel-2 product.", hint="Check the folder given with --s2.")
    limits = PairingLimits(
        math.inf if config.max_days is None else config.max_days, config.max_cloud, config.min_overlap
    )
    choice = Archive([readable[path] for path in archive if path in readable])
    return [_entry(w, header, choice, limits, readable, folder) for w, header in zip(wanted, hsi, strict=True)]


def _entry(
    wanted: _Wanted,
    header: ProductHeader | Unreadable,
    archive: Archive,
    limits: PairingLimits,
    readable: dict[Path, ProductHeader],
    folder: Path,
) -> PlanEntry:
    name, hsi = scene_name(folder, wanted.output), str(wanted.hsi)
    if isinstance(header, Unreadable):
        return PlanEntry(name, hsi, "unreadable", header.error.message, exit_code=header.error.exit_code)
    partner: Partner | str | None
    paths: tuple[Path, ...]
    if wanted.guides_itself and not wanted.msi:
        partner, paths = None, ()
    elif wanted.msi:
        missing = [path for path in wanted.msi if path not in readable]
        if missing:
            return PlanEntry(name, hsi, "unreadable", f"{missing[0]} is no readable Sentinel-2 product", exit_code=3)
        # What the user names is used, however far apart: the limits are for choosing.
        chosen = Archive([readable[path] for path in wanted.msi])
        partner = chosen.partner(header, PairingLimits(float("inf"), 100.0, 0.0))
        paths = wanted.msi
    else:
        partner = archive.partner(header, limits, RunConfig.resolve(None, **wanted.settings).s2_days)
        paths = () if isinstance(partner, str) else tuple(p.path for p in (*partner.products, *partner.fills))
    if isinstance(partner, str):
        return PlanEntry(name, hsi, "unpaired", partner, exit_code=OverlapError.exit_code)
    job = SceneJob(
        name=name, hsi=hsi, msi=tuple(str(p.absolute()) for p in paths), output=str(wanted.output.absolute()),
        settings=wanted.settings, pixels=header.grids[0].height * header.grids[0].width,
        days_apart=partner.days_apart if partner else None, cloud_percent=partner.cloud_percent if partner else None,
        coverage=partner.coverage if partner else None,
    )  # fmt: skip
    job.config  # noqa: B018 - settings that contradict each other are said now, not by every scene
    return PlanEntry(name, hsi, "run", job=job)


def _decided(entry: PlanEntry, state: BatchState, config: BatchConfig, fingerprints: Fingerprints) -> PlanEntry:
    """Compare a scene with what happened before."""
    job, known = entry.job, state.scenes.get(entry.name)
    if job is None or known is None:
        return entry
    if known.status == "finished" and Path(job.output).exists():
        if config.redo == "all":
            return replace(entry, reason="made again (--redo all)", replace=True)
        difference = fingerprints.same(job, known.event.get("identity", {}))
        if not difference:
            return replace(entry, action="done", reason="finished before")
        if config.redo == "changed":
            return replace(entry, reason=f"made again: {difference}", replace=True)
        return replace(entry, action="outdated", reason=f"{difference}; --redo changed makes it again")
    if known.status == "failed":
        event = known.event
        code = int(event.get("exit_code", 1))
        if config.redo in ("failed", "all"):
            # A product that missed its quality is there, and stands in the way.
            return replace(entry, reason="tried again", replace=Path(job.output).exists())
        if code in PERMANENT and event.get("identity") and not fingerprints.same(job, event["identity"]):
            return replace(entry, action="failed before", reason=event.get("message", ""), exit_code=code)
        return replace(entry, reason="failed before")
    if known.status in ("started", "retried"):
        return replace(entry, reason="was interrupted")
    return entry


def seconds_per_pixel(state: BatchState) -> float | None:
    """What a pixel of the HSI took in earlier scenes of this folder; None without any."""
    known = [s.event for s in state.scenes.values() if s.status == "finished"]
    pixels = sum(int(e["record"].get("height", 0)) * int(e["record"].get("width", 0)) for e in known)
    return sum(float(e["record"]["seconds"]) for e in known) / pixels if pixels else None


def plan_text(
    entries: Sequence[PlanEntry], shares: str, seconds: float | None = None, *, width: int | None = None
) -> str:
    """Lay out a plan for reading: a table of scenes, then how many and how.

    Where a line would be longer than ``width``, each scene has lines of its own instead.
    """
    head = ["scene", "Sentinel-2", "days", "cloud %", "covered %", "action"]
    rows = [head, *(_row(entry) for entry in entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    numeric = (2, 3, 4)
    lines = [
        "  ".join(c.rjust(w) if i in numeric else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    if width is not None and max(map(len, lines)) > width:
        lines = [line for row in rows[1:] for line in _block(row)]
    counts: dict[str, int] = {}
    for entry in entries:
        counts[entry.action] = counts.get(entry.action, 0) + 1
    lines.append(f"{len(entries)} scenes: " + ", ".join(f"{count} {action}" for action, count in counts.items()))
    if counts.get("run"):
        lines.append(shares + (f"; about {format_seconds(seconds)}" if seconds else ""))
    return "\n".join(line.rstrip() for line in lines)


def _block(row: Sequence[str]) -> list[str]:
    scene, partner, days, cloud, covered, action = row
    if partner == "-":
        return [scene, f"  {action}"]
    facts = ((days, "days"), (cloud, "% cloud"), (covered, "% covered"))
    known = ", ".join(f"{value} {unit}" for value, unit in facts if value != "-")
    return [scene, f"  {partner}", f"  {known}: {action}" if known else f"  {action}"]


def _row(entry: PlanEntry) -> list[str]:
    job = entry.job
    action = entry.action + (f": {entry.reason}" if entry.reason else "")
    if job is None:
        return [entry.name, "-", "-", "-", "-", action]
    partner = (Path(job.msi[0]).name if job.msi else "its panchromatic image") + (
        f" and {len(job.msi) - 1} more" if len(job.msi) > 1 else ""
    )
    days, cloud = job.days_apart, job.cloud_percent
    return [
        entry.name, partner,
        "-" if days is None else f"{days:.1f}", "-" if cloud is None else f"{cloud:.0f}",
        "-" if job.coverage is None else f"{100 * job.coverage:.0f}", action,
    ]  # fmt: skip
