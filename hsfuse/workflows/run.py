"""``hsfuse run``: one PRISMA product and one Sentinel-2 product in, one georeferenced cube out.

Here both products are opened. All that follows (:mod:`hsfuse.workflows.opened_run`) is imported afterwards, which takes
a core half a second: meanwhile others decode images.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Literal, Unpack

from hsfuse._early import import_torch, resting_collector
from hsfuse.config import RunConfig
from hsfuse.errors import HsfuseError
from hsfuse.process import bounded_block_cache, is_own
from hsfuse.progress import Progress, expect, progress_here
from hsfuse.readers.given_path import given_path
from hsfuse.resources import Resources
from hsfuse.workflows.python.settings import RunSettings, documents
from hsfuse.workflows.python.words import speaks_python
from hsfuse.workflows.run_result import RunResult
from hsfuse.workflows.steps.clock import StageClock
from hsfuse.workflows.steps.confidence_path import check_confidence_path, old_confidence
from hsfuse.workflows.steps.dates import with_date_map
from hsfuse.workflows.steps.foresight import foreseen
from hsfuse.workflows.steps.inputs import Pair, open_pair, read_ahead
from hsfuse.workflows.steps.report_files import report_files
from hsfuse.workflows.steps.suited_quality import suited_quality
from hsfuse.writers import WriteOptions, check_destination, journal_folder
from hsfuse.writers.lock import claimed

__all__ = ["RunResult", "fuse_scene", "run_scene"]


@documents(RunConfig)
@speaks_python
def fuse_scene(
    hsi: str | Path,
    msi: str | Path | Sequence[str | Path] | None,
    output: str | Path,
    *,
    config: RunConfig | None = None,
    dry_run: bool | Literal["full"] = False,
    resources: Resources | None = None,
    progress: Progress | None = None,
    **settings: Unpack[RunSettings],
) -> RunResult:
    """Fuse one scene: the Python face of ``hsfuse run``.

    Parameters
    ----------
    hsi
        PRISMA product (``.he5`` or ``.zip``), or any raster cube with wavelengths.
    msi
        Sentinel-2 product (``.SAFE``, ``MTD_*.xml`` or ``.zip``), several of them, a folder of many dates, or a
        GeoTIFF; None with ``guide="pan"``.
    output
        The cube to write: ``.tif``, ``.tiff`` or ``.img``/``.dat``/``.bil``.
    config
        Settings; the keywords below override it.
    dry_run
        Stop after planning: True checks all that names, headers and masks can tell, for positions as claimed, within
        seconds; ``full`` co-registers, examines the bands and compares checksums as a run does.
    resources
        Device, threads and memory to use; None: as the settings say.
    progress
        Where to show progress; None: in a notebook below the cell, else nowhere.

    Returns
    -------
    RunResult
        What was written, and everything that ``--json`` prints. ``hsfuse.report(result)`` shows its report.

    Raises
    ------
    HsfuseError
        See :mod:`hsfuse.errors`; each error carries the exit code of the command.

    Examples
    --------
    >>> import hsfuse
    >>> result = hsfuse.fuse_scene("prisma.he5", "s2.SAFE", "out.tif", method="bicubic", bands=20, report=False)
    >>> result.method, result.summary["bands"]["count"]
    ('bicubic', 20)
    """
    base = config or RunConfig()
    resolved = RunConfig.resolve(None, **(base.model_dump(exclude_unset=True) | dict(settings)))
    paths = [Path(msi)] if isinstance(msi, str | Path) else [Path(p) for p in msi or ()]
    with progress_here(progress) as shown:
        return run_scene(Path(hsi), paths, Path(output), resolved, dry_run=dry_run, resources=resources, progress=shown)


def run_scene(
    hsi_path: Path,
    msi_paths: Sequence[Path],
    output: Path,
    config: RunConfig,
    *,
    dry_run: bool | Literal["full"] = False,
    resources: Resources | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Run all steps in order; see :func:`fuse_scene` for the parameters."""
    hsi_path, msi_paths = given_path(hsi_path), [given_path(path) for path in msi_paths]
    config = suited_quality(config)
    options = WriteOptions(
        format=config.format, dtype=config.dtype, compress=config.compress,
        overwrite=config.overwrite, resume=config.resume, inputs=_input_files(hsi_path, msi_paths, config),
        report=report_files(output, wanted=config.report), stale=old_confidence(output),
    )  # fmt: skip
    # Before anything else: what is wrong with the output's place is known at once.
    check_destination(output, options)
    if config.adapt is not None:
        from hsfuse.workflows.steps.adapted import check_adapted_path

        check_adapted_path(output, options)
    if config.quality != "plain":
        check_confidence_path(output, options)
    with StageClock(progress) as clock, ExitStack() as stack:
        _claim(output, stack, dry_run=bool(dry_run))
        stack.enter_context(bounded_block_cache())
        quick = dry_run is True
        expect(clock, foreseen(config, dry_run=dry_run))
        pair = _open(
            hsi_path, msi_paths, config.model_copy(update={"verify": False}) if quick else config, clock, stack
        )
        options = with_date_map(options, pair.msi)
        if options.layers:
            check_destination(output, options)
        to_come = partial(
            foreseen, config, dry_run=dry_run, hsi_px=pair.hsi.grid.height * pair.hsi.grid.width, ratio=pair.ratio
        )  # fmt: skip
        expect(clock, to_come())
        if not quick:
            read_ahead(pair, config)
        # What follows and its libraries take seconds to import, in which other cores decode images.
        with resting_collector(own=is_own()):
            from hsfuse.workflows.opened_run import OpenedRun, run_opened
        if not quick and is_own():
            import_torch()
        return run_opened(
            OpenedRun(pair, hsi_path, msi_paths, output, config, options, dry_run), to_come, resources, clock, stack
        )  # fmt: skip


def _input_files(hsi_path: Path, msi_paths: Sequence[Path], config: RunConfig) -> tuple[Path, ...]:
    """Everything that a run reads and must not touch."""
    named = [Path(text) for text in (config.aoi, config.bands, config.wavelengths) if text is not None]
    return (
        hsi_path,
        *msi_paths,
        *filter(None, [config.model, config.prior]),
        *(path for path in named if path.is_file()),
    )


def _claim(output: Path, stack: ExitStack, *, dry_run: bool) -> None:
    """Make sure that no other run works for the output: during ``stack``, or now only for a plan."""
    with ExitStack() as at_once:
        (at_once if dry_run else stack).enter_context(claimed(journal_folder(output)))


def _open(
    hsi_path: Path, msi_paths: Sequence[Path], config: RunConfig, clock: StageClock, stack: ExitStack
) -> Pair:  # fmt: skip
    with clock.stage("open") as stage:
        try:
            pair = open_pair(hsi_path, msi_paths, config, stack)
        except HsfuseError:
            from hsfuse.workflows.steps.methods import choose_method
            from hsfuse.workflows.steps.resources import resources_of

            # A mistake in the settings is said before one in the files.
            choose_method(config, resources_of(config).device)
            raise
        stage.advance()
    return pair
