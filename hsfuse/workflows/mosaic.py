"""``hsfuse mosaic``: neighbouring cubes of one track become one cube."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from hsfuse._version import __version__
from hsfuse.errors import InputError, UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.log import get_logger
from hsfuse.progress import Progress, SilentProgress
from hsfuse.readers import open_hsi
from hsfuse.readers.base import HyperspectralProduct
from hsfuse.spectral import BandTable
from hsfuse.workflows.batch.settings import MosaicConfig
from hsfuse.workflows.batch.state import STATE_NAME, BatchState
from hsfuse.workflows.mosaicking.blend import OpenCube, blend, fits
from hsfuse.writers import CubeWriter, WriteOptions, input_identity, provenance_record, run_identity

_log = get_logger(__name__)

_SAME_TRACK = timedelta(minutes=5)
_STRIP_BYTES = 96 * 2**20


def mosaic(
    sources: Sequence[Path], output: Path, config: MosaicConfig | None = None, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Join cubes of one track: band by band at the same wavelengths, feathered where they overlap.

    Cubes on the mosaic's pixel lattice (that of the first in time) are copied; others, such as those of another UTM
    zone, are resampled once (bilinear). Brightness is not adjusted. Bands that not all cubes hold are left out.

    Parameters
    ----------
    sources
        Folders of batches (their finished cubes), and single cubes.
    output
        The mosaic.
    config
        Settings.
    progress
        Where to show progress.

    Returns
    -------
    dict
        ``output``, ``cubes``, ``bands``, ``grid``, ``dropped_bands`` and ``resampled``: names of resampled cubes.

    Raises
    ------
    InputError, UsageError
        Fewer than two cubes, several tracks, or no common bands.
    OutputError
        The output cannot be written.
    """
    settings = config or MosaicConfig()
    with ExitStack() as stack:
        opened = _open(_find(sources, output), stack)
        chosen = _one_track(opened, settings.track)
        bands, cubes = _common_bands(chosen, settings.tolerance_nm)
        grid = _union_grid(cubes)
        writer = stack.enter_context(_writer(output, grid, bands, cubes, settings))
        feather_px = max(1, round(settings.feather_m / grid.pixel_m))
        rows = max(16, _STRIP_BYTES // (4 * len(bands) * grid.width) // 16 * 16)
        with (progress or SilentProgress()).stage("join", grid.height) as stage:
            stage.advance(writer.rows_done)
            for row0 in range(writer.rows_done, grid.height, rows):
                strip = Slice2D(row0, min(row0 + rows, grid.height), 0, grid.width)
                writer.write_rows(row0, blend(cubes, grid, strip, feather_px))
                stage.advance(strip.shape[0])
        written = writer.finish(progress=progress)
    return {
        "output": str(written.path), "sidecars": [str(p) for p in written.sidecars], "bytes": written.bytes,
        "cubes": [str(cube.path) for cube in cubes], "bands": len(bands),
        "dropped_bands": max(len(cube.product.bands) for cube in cubes) - len(bands),
        "resampled": [cube.path.name for cube in cubes if not fits(cube.product.grid, grid)],
        "grid": {"crs": grid.crs.to_string(), "bounds": list(grid.bounds), "pixel_m": grid.pixel_m,
                 "height": grid.height, "width": grid.width},
    }  # fmt: skip


def _find(sources: Sequence[Path], output: Path) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        if not source.is_dir():
            found.append(source)
            continue
        if not (source / STATE_NAME).is_file():
            raise InputError(
                f"{source} is no folder of a batch (it has no {STATE_NAME}).", hint="Name the cubes one by one."
            )
        known = BatchState(source).scenes.values()
        cubes = [Path(scene.event["record"]["output"]) for scene in known if scene.status == "finished"]
        found += sorted(path for path in cubes if path.exists())
    found = [path for path in dict.fromkeys(p.absolute() for p in found) if path != output.absolute()]
    if len(found) < 2:
        raise InputError(
            f"A mosaic needs two cubes at least, and there {'is one' if found else 'are none'}.",
            hint="`hsfuse batch-status FOLDER` shows which scenes are done.",
        )
    return found


def _open(paths: Sequence[Path], stack: ExitStack) -> list[tuple[Path, HyperspectralProduct]]:
    opened = []
    for path in paths:
        product = open_hsi(path)
        stack.callback(product.close)
        opened.append((path, product))
    return opened


def _one_track(
    opened: Sequence[tuple[Path, HyperspectralProduct]], wanted: str | None
) -> list[tuple[Path, HyperspectralProduct]]:
    """Cubes of the wanted track, in the order of their times."""
    tracks: list[list[tuple[Path, HyperspectralProduct]]] = []
    last: datetime | None = None
    unknown = [item for item in opened if item[1].info.start is None]
    if unknown and len(unknown) < len(opened):
        raise InputError(f"{unknown[0][0].name} does not say when it was acquired.", hint="Leave it out.")
    if unknown:
        return list(opened)
    for item in sorted(opened, key=lambda item: (str(item[1].info.start), str(item[0]))):
        start = item[1].info.start
        if start is None or last is None or start - last > _SAME_TRACK:
            tracks.append([])
        tracks[-1].append(item)
        last = start
    times = {str(track[0][1].info.start).replace(" ", "T")[:16]: track for track in tracks}
    matching = [track for time, track in times.items() if wanted is None or time.startswith(wanted.replace(" ", "T"))]
    if len(matching) == 1 and len(matching[0]) > 1:
        return matching[0]
    listed = ", ".join(f"{time} ({len(track)} cubes)" for time, track in times.items())
    if not matching:
        raise UsageError(f"No track begins at {wanted}.", hint=f"There are: {listed}.")
    if len(matching) == 1:
        raise UsageError(f"The track has one cube only: {matching[0][0][0].name}.", hint=f"There are: {listed}.")
    raise UsageError(f"The cubes belong to {len(matching)} tracks: {listed}.", hint="Choose one with --track TIME.")


def _common_bands(
    opened: Sequence[tuple[Path, HyperspectralProduct]], tolerance_nm: float
) -> tuple[BandTable, list[OpenCube]]:
    """Bands that all cubes hold, and where each cube holds them."""
    first = opened[0][1].bands
    kept = np.arange(len(first))
    places = [kept]
    for _, product in opened[1:]:
        nearest = product.bands.nearest(first.centre_nm)
        fits = np.abs(product.bands.centre_nm[nearest] - first.centre_nm) <= tolerance_nm
        kept = kept[fits[kept]]
        places.append(nearest)
    if kept.size == 0:
        raise InputError(
            f"The cubes have no wavelength in common (within {tolerance_nm:g} nm).",
            hint="Make them with the same bands: hsfuse batch --bands FILE, a list of wavelengths.",
        )
    largest = max(len(product.bands) for _, product in opened)
    if kept.size < largest:
        _log.warning(
            "%d of %d bands are held by all cubes, the others are left out; --bands FILE gives all scenes the same.",
            kept.size, largest,
        )  # fmt: skip
    cubes = [OpenCube(path, product, place[kept]) for (path, product), place in zip(opened, places, strict=True)]
    return first.take(kept), cubes


def _union_grid(cubes: Sequence[OpenCube]) -> Grid:
    """Pixels of the first cube, extended over all."""
    first = cubes[0].product.grid
    boxes = [cube.product.grid.bounds_in(first.crs) for cube in cubes]
    left, bottom = min(b.left for b in boxes), min(b.bottom for b in boxes)
    right, top = max(b.right for b in boxes), max(b.top for b in boxes)
    x0, y0 = first.bounds.left, first.bounds.top
    pixel = first.pixel_m
    col0, row0 = (round(np.floor((left - x0) / pixel + 1e-6)), round(np.floor((y0 - top) / pixel + 1e-6)))
    col1, row1 = (round(np.ceil((right - x0) / pixel - 1e-6)), round(np.ceil((y0 - bottom) / pixel - 1e-6)))
    return Grid.from_origin(first.crs, x0 + col0 * pixel, y0 - row0 * pixel, pixel, row1 - row0, col1 - col0)


def _writer(
    output: Path, grid: Grid, bands: BandTable, cubes: Sequence[OpenCube], settings: MosaicConfig
) -> CubeWriter:
    options = WriteOptions(
        format=settings.format, dtype=settings.dtype, compress=settings.compress, overwrite=settings.overwrite,
        resume=settings.resume,
    )  # fmt: skip
    how = frozenset({"overwrite", "resume", "threads", "track"})
    inputs = [input_identity(cube.path) for cube in cubes]
    info = cubes[0].product.info
    return CubeWriter(
        output, grid, bands, options, identity=run_identity(settings.digest(exclude=how), inputs, "mosaic"),
        provenance=provenance_record(
            config=settings.model_dump(mode="json", exclude=set(how)), inputs=inputs, method="mosaic"
        ),
        description=f"hsfuse {__version__}: mosaic of {len(cubes)} cubes", sensor=info.sensor, acquired=info.start,
        threads=settings.threads,
    )  # fmt: skip


def mosaic_text(facts: dict[str, Any]) -> str:
    """Describe a mosaic in a few lines."""
    grid = facts["grid"]
    lines = [
        f"{facts['output']}  {grid['height']} x {grid['width']} pixels of {grid['pixel_m']:g} m,"
        f" {facts['bands']} bands, {facts['bytes'] / 1e6:.0f} MB",
        f"  joined      {', '.join(Path(path).name for path in facts['cubes'])}",
    ]
    if facts["resampled"]:
        lines.append(f"  resampled   {', '.join(facts['resampled'])}: on another pixel lattice")
    if facts["dropped_bands"]:
        lines.append(f"  left out    {facts['dropped_bands']} bands that not all cubes hold")
    return "\n".join(lines)
