"""`hsfuse compare`: several methods on one scene, with scores, error maps, spectra and a report."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from hsfuse._version import __version__
from hsfuse.config import CompareConfig
from hsfuse.errors import HsfuseError, InputError, OutputError, UsageError
from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.fidelity import GuardedMethod, guarded
from hsfuse.fusion.nets.band_matching import match_bands
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.registry import available_methods
from hsfuse.inference.budget import choose_plan, make_budget
from hsfuse.inference.engine import fuse_scene_tiles, single_thread
from hsfuse.inference.scene import FusionScene
from hsfuse.log import get_logger
from hsfuse.progress import Progress, SilentProgress
from hsfuse.qa.compare_report import CompareData, MethodResult, write_compare_report
from hsfuse.qa.plain import to_plain, write_json
from hsfuse.workflows.comparison.judge import Judge
from hsfuse.workflows.comparison.scratch_cube import ScratchCube
from hsfuse.workflows.comparison.setting import ComparisonSetting, SettingSource, open_source
from hsfuse.workflows.run import cpu_threads
from hsfuse.workflows.steps.clock import StageClock
from hsfuse.workflows.steps.method_specification import (
    MethodSpecification,
    all_specifications,
    parse_specification,
    split_specifications,
)
from hsfuse.workflows.steps.methods import fusion_context, network_precision, resolve_device

_log = get_logger(__name__)

_SAMPLE_SECONDS = 0.02
_LIBRARIES = ("numpy", "scipy", "torch", "rasterio")


@dataclass(frozen=True)
class CompareResult:
    """What a comparison gave.

    Attributes
    ----------
    report
        HTML file; its numbers lie beside it as ``.json``.
    summary
        Everything that ``--json`` prints.
    results
        One outcome per method, in the order of the table.
    """

    report: Path
    summary: dict[str, Any]
    results: tuple[MethodResult, ...] = field(default=(), repr=False)


def compare(
    paths: Sequence[Path], output: Path | None, config: CompareConfig, *, progress: Progress | None = None
) -> CompareResult:
    """Compare methods on a pair or a cube.

    Parameters
    ----------
    paths
        An HSI and the MSIs of a pair, or one cube alone.
    output
        The report, ``.html``; None: named after the first input, in the working folder.
    config
        Settings.
    progress
        Where to show progress.

    Raises
    ------
    HsfuseError
        See :mod:`hsfuse.errors`. A method that was not named but taken with all others is left out with a note
        where it cannot be used.
    """
    import torch

    if not paths:
        raise UsageError("Nothing was given to compare on.", hint="hsfuse compare PRISMA SENTINEL2, or a cube.")
    clock = StageClock(progress or SilentProgress())
    device = resolve_device(config.device)
    torch.set_num_threads(cpu_threads(config.threads))
    report = output or Path(f"{paths[0].stem}.compare.html")
    numbers = check_report(report, overwrite=config.overwrite)
    specs, named = wanted_methods(config)
    with ExitStack() as stack:
        with clock.stage("open") as stage:
            source = open_source(paths, config, stack)
            stage.advance()
        specs, headers, notes = _that_suit(specs, named, source)
        setting = source.prepare(next(iter(headers.values()), None), clock)
        judge = Judge(setting)
        results: list[MethodResult] = []
        for spec in specs:
            try:
                results.append(_run(spec, setting, judge, headers.get(spec.label), config, device, report, clock))
            except HsfuseError as error:
                # A full disk is no fault of the method.
                if named or isinstance(error, OutputError):
                    raise
                notes.append(f"{spec.label} was left out: {error.message}")
                _log.warning("%s", notes[-1])
        if not results:
            raise InputError("No method could be run on this scene.", hint=" ".join(notes))
        data = _data(setting, judge, results, notes, config, device)
    write_compare_report(report, data)
    write_json(numbers, data.to_json())
    summary = to_plain(data.to_json()) | {
        "report": str(report), "numbers": str(numbers), "seconds": {k: round(v, 2) for k, v in clock.seconds.items()},
        "total_seconds": round(clock.total, 2),
    }  # fmt: skip
    return CompareResult(report, summary, tuple(results))


def check_report(path: Path, *, overwrite: bool) -> Path:
    """Check the place of the report before any work; return the name of the JSON file beside it.

    Raises
    ------
    UsageError
        The name is no HTML file's.
    OutputError
        The folder does not exist, or the report does.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"The report is an HTML file, not {path.name}.", hint="-o comparison.html")
    if not path.parent.is_dir():
        raise OutputError(f"The folder of the report, {path.parent}, does not exist.", hint="Make it first.")
    numbers = path.with_suffix(".json")
    for item in (path, numbers):
        if item.exists() and not overwrite:
            raise OutputError(f"{item} exists already.", hint="Use --overwrite to replace it, or another -o.")
    return numbers


def wanted_methods(config: CompareConfig) -> tuple[list[MethodSpecification], bool]:
    """Return the methods in the order of the table, and whether the user named them.

    Raises
    ------
    UsageError, InputError
        A name, option or weights file makes no sense, or networks are missing for ``--adapt``.
    """
    named = config.methods.strip().lower() != "auto"
    specs = (
        [parse_specification(text) for text in split_specifications(config.methods)] if named else all_specifications()
    )
    if not specs:
        raise UsageError("--methods names no method.", hint="Such as --methods glp,cnmf.")
    unique = {spec.label: spec for spec in specs}
    if len(unique) < len(specs):
        raise UsageError("--methods names a method twice.")
    if config.adapt is not None:
        if not any(spec.network for spec in specs):
            raise UsageError("--adapt needs a network among the methods.", hint="Such as --methods glp,ssrfn.")
        specs = [item for spec in specs for item in ([spec, _adapted(spec, config.adapt)] if spec.network else [spec])]
    return specs, named


def _adapted(spec: MethodSpecification, minutes: float) -> MethodSpecification:
    return replace(spec, label=f"{spec.label} (adapted)", adapt_minutes=minutes)


def _that_suit(
    specs: Sequence[MethodSpecification], named: bool, source: SettingSource
) -> tuple[list[MethodSpecification], dict[str, NetworkHeader], list[str]]:
    """Keep the methods that can take part; all networks must share their bands."""
    kept: list[MethodSpecification] = []
    headers: dict[str, NetworkHeader] = {}
    notes: list[str] = []
    for spec in specs:
        try:
            if spec.network:
                header = spec.header()
                source.check(header)
                _check_same_bands(spec.label, header, headers)
                headers[spec.label] = header
            else:
                spec.create()
        except HsfuseError as error:
            if named:
                raise
            notes.append(f"{spec.label} was left out: {error.message}")
            _log.info("%s", notes[-1])
            continue
        kept.append(spec)
    return kept, headers, notes


def _check_same_bands(label: str, header: NetworkHeader, others: dict[str, NetworkHeader]) -> None:
    for other, known in others.items():
        try:
            same = len(known.centre_nm) == len(header.centre_nm) and bool(
                np.array_equal(match_bands(header.centre_nm, known.centre_nm), np.arange(len(known.centre_nm)))
            )
        except InputError:
            same = False
        if not same:
            raise UsageError(
                f"{label} and {other} were trained on other bands; they cannot be compared on one cube.",
                hint="Compare them in two calls.",
            )


def _run(
    spec: MethodSpecification, setting: ComparisonSetting, judge: Judge, header: NetworkHeader | None,
    config: CompareConfig, device: str, report: Path, clock: StageClock,
) -> MethodResult:  # fmt: skip
    scene = setting.scene
    options: dict[str, Any] = {}
    if spec.network:
        options["precision"] = network_precision(spec.name, config.precision, device)
    method = spec.create(**options)
    summary = available_methods()[spec.name]
    if spec.adapt_minutes is not None and header is not None:
        from hsfuse.fusion.methods.ssrfn.method import DEFAULT_DRAFT
        from hsfuse.workflows.steps.adapt import adapt

        adaptation = adapt(
            method, scene, minutes=spec.adapt_minutes, device=device, seed=config.seed,  # type: ignore[arg-type]
            draft=header.base or DEFAULT_DRAFT, progress=clock,
        )  # fmt: skip
        summary += f"; adapted to the scene in {adaptation.steps} steps, {adaptation.seconds:.0f} s beside its time"
    method = guarded(method, spec.guards, ratio=scene.ratio, psf=scene.psf)
    with ScratchCube(report.parent, scene.fine_grid.shape, scene.hsi.bands.centre_nm[scene.bands]) as cube:
        with clock.stage(spec.label) as stage, _peak_memory(device) as memory:
            start = time.perf_counter()
            _fuse(method, scene, cube, config, device)
            seconds = time.perf_counter() - start
            stage.advance()
        with clock.stage("judge") as stage:
            result = judge.judge(spec.label, cube)
            stage.advance()
    trust = getattr(method.inner if isinstance(method, GuardedMethod) else method, "trust", None)
    if trust is not None and trust.windows:
        summary += f"; {100 * float(trust.share.mean()):.0f} % of its correction is used"
    scores = {**result.scores, "seconds": seconds, **memory}
    return replace(result, summary=summary, scores=scores)


def _fuse(method: FusionMethod, scene: FusionScene, cube: ScratchCube, config: CompareConfig, device: str) -> None:
    threads = cpu_threads(config.threads)
    with single_thread():
        method.fit(fusion_context(scene, device, config.seed), list(scene.low_resolution_strips()))
    estimate = choose_plan(
        *scene.grid.shape, ratio=scene.ratio, n_bands=len(scene.bands), n_msi=len(scene.msi.band_names),
        source_bands=len(scene.bands), spec=method.spec,
        budget=make_budget(device, config.max_memory, config.max_vram), tile=config.tile, sample_bytes=4,
        workers=threads,
    )  # fmt: skip
    fuse_scene_tiles(
        scene, method, estimate.plan, cube.write_rows, device=device, batch=estimate.batch, workers=threads, clip=False
    )


@contextmanager
def _peak_memory(device: str) -> Iterator[dict[str, float]]:
    """Measure how far the process grows inside the block, in MB; a thread looks 50 times a second."""
    process, done = psutil.Process(), threading.Event()
    found: dict[str, float] = {}
    start = top = process.memory_info().rss
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)

    def watch() -> None:
        nonlocal top
        while not done.wait(_SAMPLE_SECONDS):
            top = max(top, process.memory_info().rss)

    thread = threading.Thread(target=watch, name="hsfuse-memory", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        found["memory_mb"] = (max(top, process.memory_info().rss) - start) / 1e6
        if device.startswith("cuda"):
            found["vram_mb"] = torch.cuda.max_memory_allocated(device) / 1e6


def _data(
    setting: ComparisonSetting, judge: Judge, results: Sequence[MethodResult], notes: Sequence[str],
    config: CompareConfig, device: str,
) -> CompareData:  # fmt: skip
    true = setting.reference is not None
    versions = {"hsfuse": __version__, **{name: metadata.version(name) for name in _LIBRARIES}}
    return CompareData(
        title=setting.title, methods=results, with_reference=true,
        facts=setting.facts | {"Device": f"{device}, {cpu_threads(config.threads)} CPU threads"},
        centre_nm=judge.centre_nm, reference_picture=judge.reference_picture(),
        reference_spectra=judge.reference_spectra(), reference_name="reference" if true else "HSI",
        error_label="RMSE over bands (reflectance)" if true else "degraded cube against HSI, RMSE over bands",
        band_label="PSNR of each band" if true else "PSNR of each band, degraded cube against HSI",
        configuration=config.model_dump(mode="json"), versions=versions, notes=(*setting.notes, *notes),
    )  # fmt: skip
