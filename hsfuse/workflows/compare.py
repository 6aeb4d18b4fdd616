"""`hsfuse compare`: several methods on one scene, with scores, error maps, spectra and a report."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from hsfuse._version import __version__
from hsfuse.config import CompareConfig
from hsfuse.errors import HsfuseError, InputError, OutputError, UsageError
from hsfuse.fusion.fidelity import guarded
from hsfuse.fusion.map.method import refined
from hsfuse.fusion.nets.band_matching import match_bands
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.registry import available_methods
from hsfuse.inference import pipeline
from hsfuse.inference.card_speed import card_speed, predict_stages_with
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.speed import measure_speed
from hsfuse.log import get_logger
from hsfuse.outputs import check_new_files, refuse_inputs
from hsfuse.parallel import allowed_threads
from hsfuse.process import bounded_block_cache
from hsfuse.progress import Progress, Step, expect, format_seconds
from hsfuse.qa.compare_report import CompareData, MethodResult, write_compare_report
from hsfuse.qa.page import OWN_PICTURE, picture_folder
from hsfuse.qa.plain import to_plain, write_json
from hsfuse.resources import Resources
from hsfuse.threads import torch_threads
from hsfuse.workflows.comparison.judge import Judge
from hsfuse.workflows.comparison.scratch_cube import ScratchCube
from hsfuse.workflows.comparison.setting import ComparisonSetting, SettingSource, open_source
from hsfuse.workflows.steps.behind_method import may_calibrate, refinement_quality
from hsfuse.workflows.steps.changes import repaired_scene
from hsfuse.workflows.steps.clock import StageClock
from hsfuse.workflows.steps.memory import PeakMemory
from hsfuse.workflows.steps.method_specification import (
    MethodSpecification,
    all_specifications,
    parse_specification,
    split_specifications,
    usual_specifications,
)
from hsfuse.workflows.steps.precision import network_precision
from hsfuse.workflows.steps.resources import resolved, resources_of
from hsfuse.writers import ReportFiles

_log = get_logger(__name__)

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
    paths: Sequence[Path],
    output: Path | None,
    config: CompareConfig,
    *,
    resources: Resources | None = None,
    progress: Progress | None = None,
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
    resources
        Device, threads and memory to use; None: as the settings say.
    progress
        Where to show progress.

    Raises
    ------
    HsfuseError
        See :mod:`hsfuse.errors`. A method that was not named but taken with all others is left out with a note
        where it cannot be used.
    """
    if not paths:
        raise UsageError("Nothing was given to compare on.", hint="hsfuse compare PRISMA SENTINEL2, or a cube.")
    report = output or Path(f"{paths[0].stem}.compare.html")
    numbers = check_report(report, _input_files(paths, config), overwrite=config.overwrite)
    wanted, named = wanted_methods(config)
    given = resolved(resources) if resources else resources_of(config)
    with StageClock(progress) as clock, ExitStack() as stack:
        stack.enter_context(bounded_block_cache())
        stack.enter_context(allowed_threads(given.threads))
        stack.enter_context(torch_threads(given.threads))
        expect(clock, _to_come(config, {}))
        with clock.stage("open") as stage:
            source = open_source(paths, config, stack)
            stage.advance()
        specs, headers, unsuited = _that_suit(wanted, named, source)
        setting = source.prepare(next((h for h in headers.values() if h.centre_nm), None), clock)
        if config.quality != "plain":
            with clock.stage("find changes") as stage:
                setting = replace(setting, repaired=repaired_scene(setting.scene, config, given).scene)
                stage.advance()
        expected = expected_seconds(specs, setting.fused_scene, config, given)
        expect(clock, _to_come(config, expected))
        judge = Judge(setting)
        results, failed = _run_all(specs, named, setting, judge, headers, config, given, report, clock)
        notes = [*unsuited, *failed]
        if not results:
            raise InputError("No method could be run on this scene.", hint=" ".join(notes))
        data = _data(setting, judge, results, notes, config, given)
        write_compare_report(report, data)
        write_json(numbers, data.to_json())
        summary = to_plain(data.to_json()) | {
            "report": str(report), "numbers": str(numbers), "expected_seconds": expected,
            "seconds": {k: round(v, 2) for k, v in clock.seconds.items()}, "total_seconds": round(clock.total, 2),
        }  # fmt: skip
    return CompareResult(report, summary, tuple(results))


def _input_files(paths: Sequence[Path], config: CompareConfig) -> list[Path]:
    """Everything that a comparison reads and must not touch."""
    named = [Path(text) for text in (config.aoi, config.bands) if text is not None]
    weights = [Path(part) for part in re.split(r"[@,+]", config.methods)]
    return [*paths, *(path for path in (*named, *weights) if path.is_file())]


def check_report(path: Path, inputs: Sequence[Path] = (), *, overwrite: bool) -> Path:
    """Check the place of the report before any work; return the name of the JSON file beside it.

    Raises
    ------
    UsageError
        The name is no HTML file's.
    OutputError
        The folder does not exist, the report does, or something belongs to an input or to somebody else.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"The report is an HTML file, not {path.name}.", hint="-o comparison.html")
    numbers = path.with_suffix(".json")
    files = ReportFiles(path, numbers, picture_folder(path), OWN_PICTURE)
    check_new_files([path, numbers], inputs, overwrite=overwrite)
    refuse_inputs([files.pictures], inputs)
    # The page was named by the user, who may replace it; what goes with it was not.
    files.check_beside()
    return numbers


def wanted_methods(config: CompareConfig) -> tuple[list[MethodSpecification], bool]:
    """Return the methods in the order of the table, and whether the user named them.

    Raises
    ------
    UsageError, InputError
        A name, option or weights file makes no sense, or networks are missing for ``--adapt``.
    """
    collections = {"auto": usual_specifications, "all": all_specifications}
    collected = collections.get(config.methods.strip().lower())
    named = collected is None
    specs = collected() if collected else [parse_specification(text) for text in split_specifications(config.methods)]
    if not specs:
        raise UsageError("--methods names no method.", hint="Such as --methods glp,cnmf.")
    if len({spec.label for spec in specs}) < len(specs):
        raise UsageError("--methods names a method twice.")
    if config.adapt is None:
        return specs, named
    if not any(spec.network for spec in specs):
        raise UsageError("--adapt needs a network among the methods.", hint="Such as --methods glp,ssrfn.")
    minutes = config.adapt
    return [s for spec in specs for s in ([spec, _adapted(spec, minutes)] if spec.network else [spec])], named


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
                if header.centre_nm:
                    _check_same_bands(spec.label, header, {k: h for k, h in headers.items() if h.centre_nm})
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


def _to_come(config: CompareConfig, expected: Mapping[str, float]) -> list[Step]:
    """The steps of a comparison: the pair, then every method; how long those take is known once they are planned."""
    pair = [Step("open", "read the headers, grids and masks", 0.7)]
    if config.coregister != "off":
        pair.append(Step("co-register", "match both images in windows, fit the displacement", 3.0))
    if config.quality != "plain":
        pair.append(Step("find changes", "find what changed between both images, and repair the guide there", 6.0))
    methods = [Step(label, "fit, fuse and judge", seconds, measured=True) for label, seconds in expected.items()]
    return [*pair, *(methods or [Step("methods", "fuse with every method, and judge", 60.0)])]


def expected_seconds(
    specs: Sequence[MethodSpecification], scene: FusionScene, config: CompareConfig, resources: Resources
) -> dict[str, float]:
    """Say how long the methods will take on this machine."""
    card = card_speed(resources.device) if resources.on_gpu else None
    speed, found = measure_speed(resources.threads), {}
    samples = int(np.prod(scene.fine_grid.shape)) * len(scene.bands)
    for spec in specs:
        method = spec.create().spec
        plan = pipeline.plan(scene, method, resources, tile=config.tile)
        stages = predict_stages_with(card, plan, method, samples, speed, judged=False)
        found[spec.label] = round(stages.learn + stages.fuse + 60.0 * (spec.adapt_minutes or 0.0), 1)
    slow = sorted(found, key=lambda label: -found[label])[:3]
    _log.info(
        "%d methods will take about %s (longest: %s).", len(found), format_seconds(sum(found.values())),
        ", ".join(f"{label} {format_seconds(found[label])}" for label in slow),
    )  # fmt: skip
    return found


def _run_all(
    specs: Sequence[MethodSpecification], named: bool, setting: ComparisonSetting, judge: Judge,
    headers: dict[str, NetworkHeader], config: CompareConfig, resources: Resources, report: Path, clock: StageClock,
) -> tuple[list[MethodResult], list[str]]:  # fmt: skip
    """Run and judge each method; return the results, and sentences about methods that were left out."""
    results: list[MethodResult] = []
    notes: list[str] = []
    for spec in specs:
        try:
            results.append(_run(spec, setting, judge, headers.get(spec.label), config, resources, report, clock))
        except HsfuseError as error:
            # A full disk is no fault of the method.
            if named or isinstance(error, OutputError):
                raise
            notes.append(f"{spec.label} was left out: {error.message}")
            _log.warning("%s", notes[-1])
    return results, notes


def _run(
    spec: MethodSpecification, setting: ComparisonSetting, judge: Judge, header: NetworkHeader | None,
    config: CompareConfig, resources: Resources, report: Path, clock: StageClock,
) -> MethodResult:  # fmt: skip
    scene, device = setting.fused_scene, resources.device
    options = {"precision": network_precision(spec.name, config.precision, device)} if spec.network else {}
    inner = spec.create(**options)
    summary = available_methods()[spec.name]
    if spec.adapt_minutes is not None and header is not None:
        from hsfuse.workflows.steps.adapt import adapt

        adaptation = adapt(
            inner, scene, minutes=spec.adapt_minutes, device=device, seed=config.seed, base=header.base,
            quality=refinement_quality(config) or "standard", calibrate=may_calibrate(config), progress=clock,
        )  # fmt: skip
        summary += f"; adapted to the scene in {adaptation.steps} steps, {adaptation.seconds:.0f} s beside its time"
    method = guarded(
        refined(inner, refinement_quality(config), ratio=scene.ratio), spec.guards, ratio=scene.ratio, psf=scene.psf
    )
    with ScratchCube(report.parent, scene.fine_grid.shape, scene.hsi.bands.centre_nm[scene.bands]) as cube:
        with clock.stage(spec.label) as stage, _measured(device) as measured:
            pipeline.fuse_scene_with(
                method, scene, cube.write_rows, resources, seed=config.seed, calibrate=may_calibrate(config),
                tile=config.tile,
            )  # fmt: skip
            stage.advance()
        with clock.stage("judge") as stage:
            result = judge.judge(spec.label, cube)
            stage.advance()
    validation = method.diagnostics.validation
    if validation is not None and validation.windows:
        summary += f"; {100 * float(validation.share.mean()):.0f} % of its correction is used"
    return replace(result, summary=summary, scores={**result.scores, **measured})


@contextmanager
def _measured(device: str) -> Iterator[dict[str, float]]:
    """Seconds, and by how many MB the process grows inside the block."""
    found: dict[str, float] = {}
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    with PeakMemory() as memory:
        yield found
        found["seconds"] = time.perf_counter() - start
    found["memory_mb"] = memory.growth_bytes / 1e6
    if device.startswith("cuda"):
        found["vram_mb"] = torch.cuda.max_memory_allocated(device) / 1e6


def _data(
    setting: ComparisonSetting, judge: Judge, results: Sequence[MethodResult], notes: Sequence[str],
    config: CompareConfig, resources: Resources,
) -> CompareData:  # fmt: skip
    true = setting.reference is not None
    versions = {"hsfuse": __version__, **{name: metadata.version(name) for name in _LIBRARIES}}
    return CompareData(
        title=setting.title, methods=results, with_reference=true,
        facts=setting.facts | {"Device": f"{resources.device}, {resources.threads} CPU threads"},
        centre_nm=judge.centre_nm, reference_picture=judge.reference_picture(),
        reference_spectra=judge.reference_spectra(), reference_name="reference" if true else "HSI",
        error_label="RMSE over bands (reflectance)" if true else "degraded cube against HSI, RMSE over bands",
        band_label="PSNR of each band" if true else "PSNR of each band, degraded cube against HSI",
        configuration=config.model_dump(mode="json"), versions=versions, notes=(*setting.notes, *notes),
    )  # fmt: skip
