"""From what the user gives (pairs, cubes, a number of generated scenes) to scenes that a network can learn from."""

from __future__ import annotations

import csv
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from numpy.typing import NDArray

from hsfuse.band_selection import parse_bands, select_bands
from hsfuse.band_selection.thinning import thin
from hsfuse.band_selection.windows import windows_of
from hsfuse.config import RunConfig, TrainConfig
from hsfuse.degrade import Psf, masked_lowpass_decimate_array
from hsfuse.errors import InputError, OutputError, UsageError
from hsfuse.fusion.nets.band_matching import match_bands
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.grid import Slice2D
from hsfuse.inference.fill import fill_missing
from hsfuse.inference.scene import FusionScene
from hsfuse.log import get_logger
from hsfuse.progress import Progress
from hsfuse.readers.choose import likely_role
from hsfuse.sensors.sentinel2 import BANDS_10M, BANDS_ALL
from hsfuse.spectral import BandTable, srf_weights
from hsfuse.training.scenes import SceneEntry, TrainingScene
from hsfuse.workflows.steps.cubes import open_cube
from hsfuse.workflows.steps.inputs import open_pair
from hsfuse.workflows.steps.prepare import prepare_scene
from hsfuse.workflows.training.remixed import remixed_entries, s2_weights

_log = get_logger(__name__)

MIN_BANDS = 8
"""A network for fewer bands is not worth its name: the MSI itself has up to ten."""
_STRIP_ROWS = 64
_MAX_DISTANCE_NM = 40.0
"""A wanted wavelength may lie so far from the nearest band of a cube that is interpolated to it."""
_CACHED_SCENES = 12
_VALIDATION_SCENES = 8
"""Of the generated scenes, one in so many validates."""


@dataclass(frozen=True)
class TrainingInput:
    """One scene given by the user: a pair (``msi`` not empty) or a cube."""

    hsi: Path
    msi: tuple[Path, ...]


@dataclass(frozen=True)
class TrainingData:
    """Scenes and what they have in common.

    Attributes
    ----------
    entries
        The scenes.
    bands
        Bands of the references.
    msi_bands
        Names of the MSI bands.
    ratios
        Pixel size ratios.
    fingerprint
        Names, sizes and check sums: whether a resumed training sees the same data.
    """

    entries: tuple[SceneEntry, ...]
    bands: BandTable
    msi_bands: tuple[str, ...]
    ratios: tuple[int, ...]
    fingerprint: list[list[Any]]


def parse_inputs(paths: Sequence[Path]) -> list[TrainingInput]:
    """Sort arguments into pairs and cubes: an HSI, and the Sentinel-2 products that follow it.

    A single ``.csv`` file lists one scene a line, ``hsi,msi[;msi...]``, relative to the file; the MSI may be left
    out.

    Raises
    ------
    InputError
        A file is missing or a line cannot be understood.
    UsageError
        The list starts with an MSI.
    """
    if len(paths) == 1 and paths[0].suffix.lower() == ".csv":
        return _read_list(paths[0])
    found: list[TrainingInput] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist.", hint="Check the path.")
        if not _is_msi(path):
            found.append(TrainingInput(path, ()))
        elif not found:
            raise UsageError(
                f"{path} is a multispectral image; the hyperspectral one comes first.",
                hint="hsfuse train-reduced PRISMA.he5 SENTINEL2.SAFE -o model.safetensors",
            )
        else:
            found[-1] = replace(found[-1], msi=(*found[-1].msi, path))
    return found


def _is_msi(path: Path) -> bool:
    # A cube of arrays is no product: `open_cube` reads it.
    return path.suffix.lower() != ".npz" and likely_role(path) == "msi"


def _read_list(path: Path) -> list[TrainingInput]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"The list {path} cannot be read ({error}).", hint="Give a text file, hsi,msi a line."
        ) from error
    found = []
    for number, row in enumerate(rows, start=1):
        if not any(row) or row[0].startswith("#") or (number == 1 and row[0].lower() == "hsi"):
            continue
        if len(row) > 2 or not row[0]:
            raise InputError(f"Line {number} of {path} is not 'hsi,msi'.", hint="Several MSIs are separated by ';'.")
        msi = [part.strip() for part in row[1].split(";") if part.strip()] if len(row) == 2 else []
        files = [path.parent / name for name in (row[0], *msi)]
        for file in files:
            if not file.exists():
                raise InputError(f"{file} (line {number} of {path}) does not exist.", hint="Paths start at the list.")
        found.append(TrainingInput(files[0], tuple(files[1:])))
    if not found:
        raise InputError(f"The list {path} names no scene.", hint="Give one 'hsi,msi' a line.")
    return found


def collect(
    inputs: Sequence[TrainingInput],
    config: TrainConfig,
    header: NetworkHeader | None,
    progress: Progress,
    *,
    scratch: Path | None = None,
) -> TrainingData:
    """Open, align and load everything.

    Parameters
    ----------
    inputs
        From :func:`parse_inputs`.
    config
        Settings.
    header
        Of the weights to start from: they decide bands, ratios and MSI bands.
    progress
        Shows co-registration and reading.
    scratch
        Folder for scenes that do not fit into a quarter of the free memory (as files without a name); None keeps
        everything in memory.

    Raises
    ------
    HsfuseError
        A scene cannot be used; see :mod:`hsfuse.errors`.
    """
    if not inputs and not config.generated:
        raise UsageError("There is nothing to train on.", hint="Give scenes, or --generated N.")
    names: tuple[str, ...] = BANDS_ALL if config.s2_bands == "all" else BANDS_10M
    bands = header.bands if header else None
    entries: list[SceneEntry] = []
    store = _Store(scratch)
    ratios = header.ratios if header else config.ratios
    pairs = [i for i in inputs if i.msi]
    for scene_input in pairs:
        training, bands, ratio, names = _load_pair(scene_input, config, bands, progress)
        if ratios and ratio not in ratios:
            raise UsageError(
                f"{scene_input.hsi.name} and its MSI have a ratio of {ratio}, the training is for "
                f"{', '.join(map(str, ratios))}.",
                hint="Train on scenes of one ratio, with weights made for it.",
            )
        ratios = (ratio,)
        entries.append(SceneEntry.of(store.keep(training)))
    if header and config.ratios and not set(config.ratios) <= set(header.ratios):
        raise UsageError(
            f"The weights were trained for a ratio of {', '.join(map(str, header.ratios))}, not {config.ratio}.",
            hint="Leave out --ratio, or start without --init.",
        )
    if not pairs:
        ratios = config.ratios or ratios or (3,)
    cubes = [i.hsi for i in inputs if not i.msi]
    if bands is None:
        bands = _wanted_bands(config, cubes, progress)
    if len(bands) < MIN_BANDS:
        raise InputError(
            f"{len(bands)} bands are too few to train a network on; {MIN_BANDS} are the least.",
            hint="Use more bands, or a classical method.",
        )
    if header and header.msi_bands and tuple(header.msi_bands) != tuple(names):
        raise UsageError(
            f"The weights take the MSI bands {', '.join(header.msi_bands)}, the data bring {', '.join(names)}.",
            hint="Check --s2-bands, or start without --init.",
        )
    with progress.stage("read cubes", max(len(cubes), 1)) as stage:
        for path in cubes:
            entries.append(SceneEntry.of(store.keep(_load_cube(path, config, bands, names))))
            stage.advance()
    fingerprint = _fingerprint(entries, config)
    entries += remixed_entries(config, entries[len(pairs) :], bands, names)
    entries += _generated(config, bands, names, max(ratios))
    return TrainingData(tuple(entries), bands, tuple(names), ratios, fingerprint)


class _Store:
    """Keeps scenes in memory as long as there is enough of it, then in nameless files that vanish by themselves."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._left = psutil.virtual_memory().available // 4

    def keep(self, scene: TrainingScene) -> TrainingScene:
        """Return the scene, backed by memory or by a file."""
        self._left -= scene.reference.nbytes
        if self._left >= 0 or self._folder is None:
            return scene
        _log.info("%s is kept on disk while training: memory is short.", scene.name)
        return replace(scene, reference=_on_disk(scene.reference, self._folder))


def _blank(shape: tuple[int, ...], folder: Path | None) -> NDArray[np.float32]:
    if folder is None:
        return np.empty(shape, np.float32)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return np.memmap(file, np.float32, mode="w+", shape=shape)
    except OSError as error:
        raise OutputError(
            f"The scene cannot be kept in {folder} while training ({error.strerror}).",
            hint="Free some space or memory, or cut the area with --aoi.",
        ) from error


def _on_disk(array: NDArray[np.float32], folder: Path) -> NDArray[np.float32]:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            np.ascontiguousarray(array).tofile(file)
            file.flush()
            # The map outlives the file's name and handle; the space is free again when training ends, however it ends.
            return np.memmap(file, np.float32, mode="r", shape=array.shape)
    except OSError as error:
        raise OutputError(
            f"A scene of {array.nbytes / 1e6:.0f} MB cannot be kept in {folder} ({error.strerror}).",
            hint="Free some space or memory, or train on fewer scenes.",
        ) from error


def scene_as_training(scene: FusionScene, name: str, *, scratch: Path | None = None) -> TrainingScene:
    """Read a prepared pair and bring its MSI to the HSI's grid (the first half of Wald's protocol).

    ``scratch`` is a folder for the HSI, as a file without a name; None keeps it in memory.
    """
    grid, ratio = scene.grid, scene.ratio
    shape = (grid.height, grid.width)
    reference = _blank((len(scene.bands), *shape), scratch)
    msi = np.empty((len(scene.msi.band_names), *shape), np.float32)
    valid = np.empty(shape, bool)
    reach = scene.psf.reach_px(ratio)
    for row0 in range(0, grid.height, _STRIP_ROWS):
        rows = Slice2D(row0, min(row0 + _STRIP_ROWS, grid.height), 0, grid.width)
        padded = Slice2D(rows.row0 - reach, rows.row1 + reach, 0, grid.width).clipped(*shape)
        fine, cloud = scene.read_msi(padded)
        usable = ~np.any(np.isnan(fine), axis=0)
        if scene.mask_cloud:
            usable &= ~cloud
        coarse, seen = masked_lowpass_decimate_array(np.nan_to_num(fine), usable, ratio, scene.psf)
        inner = slice(rows.row0 - padded.row0, rows.row1 - padded.row0)
        cube, missing = fill_missing(scene.read_hsi(rows))
        into = slice(rows.row0, rows.row1)
        reference[:, into] = cube
        msi[:, into] = coarse[:, inner]
        valid[into] = seen[inner] & ~np.any(missing, axis=0)
    msi[:, ~valid & np.isnan(msi).any(axis=0)] = np.nan
    msi, _ = fill_missing(msi)
    bands = scene.hsi.bands.take(scene.bands)
    responses = scene.msi.responses
    srf = (srf_weights(bands, responses),) if responses is not None else ()
    return TrainingScene(name, reference, valid, msi, srf, scene.psf, "measured")


def _load_pair(
    given: TrainingInput, config: TrainConfig, bands: BandTable | None, progress: Progress
) -> tuple[TrainingScene, BandTable, int, tuple[str, ...]]:
    run: RunConfig = config.pair_config()
    with ExitStack() as stack:
        pair = open_pair(given.hsi, given.msi, run, stack)
        if bands is not None:
            # Before minutes of matching: does the scene have the bands at all?
            index = match_bands(bands.centre_nm, pair.hsi.bands)
            # Which bands are selected does not matter then.
            run = run.model_copy(update={"bands": "all"})
        prepared = prepare_scene(pair, run, progress)
        scene = prepared.scene
        if bands is None:
            bands = pair.hsi.bands.take(scene.bands)
        else:
            scene = replace(scene, bands=index)
        name = f"{pair.hsi.info.name} + {pair.msi.info.name}"
        with progress.stage(f"read {pair.hsi.info.name}") as stage:
            training = scene_as_training(scene, name)
            stage.advance()
        share = float(training.valid.mean())
        if share < 0.05:
            raise InputError(
                f"Only {100 * share:.1f} % of {name} are valid in both images: too little to train on.",
                hint="Use a less cloudy image, or --no-cloud-mask if the mask is wrong.",
            )
        return training, bands, pair.ratio, tuple(pair.msi.band_names)


def _wanted_bands(config: TrainConfig, cubes: Sequence[Path], progress: Progress) -> BandTable:
    """Bands of a network that is trained without pairs: as asked for, PRISMA's nominal ones, or the first cube's."""
    request = parse_bands(config.bands)
    if request.wavelengths_nm is not None:
        return BandTable.make(np.sort(np.asarray(request.wavelengths_nm, dtype=np.float64)))
    if config.generated:
        return nominal_bands(request.count if isinstance(request.count, int) else 100)
    product = open_cube(cubes[0], cut_nm=config.vnir_swir_cut_nm)
    try:
        selection = select_bands(product, count=request.count, progress=progress)
        return product.bands.take(selection.indices)
    finally:
        product.close()


def nominal_bands(count: int) -> BandTable:
    """PRISMA's nominal bands outside absorption windows, thinned to ``count``.

    Raises
    ------
    InputError
        There are fewer.
    """
    from hsfuse.simulate.prisma_bands import default_prisma_bands

    table = default_prisma_bands()
    vnir = np.array([detector == "VNIR" for detector in table.detector])
    clear = np.array([window is None for window in windows_of(table.centre_nm)])
    table = table.take(clear & np.where(vnir, table.centre_nm < 950.0, table.centre_nm >= 950.0))
    if count > len(table):
        raise InputError(f"PRISMA has {len(table)} usable bands, not {count}.", hint="Use a smaller --bands.")
    if count == len(table):
        return table
    return table.take(np.sort(thin(table.centre_nm, np.ones(len(table)), count).kept))


def _load_cube(path: Path, config: TrainConfig, bands: BandTable, names: Sequence[str]) -> TrainingScene:
    product = open_cube(path, cut_nm=config.vnir_swir_cut_nm)
    try:
        usable = np.flatnonzero(product.bands.good)
        matrix = resampling_matrix(product.bands.take(usable), bands, path.name)
        rows, cols = product.grid.shape
        reference = np.empty((len(bands), rows, cols), np.float32)
        valid = np.empty((rows, cols), bool)
        for row0 in range(0, rows, _STRIP_ROWS):
            block = Slice2D(row0, min(row0 + _STRIP_ROWS, rows), 0, cols)
            cube, missing = fill_missing(product.read(block, usable))
            valid[block.slices] = missing.mean(axis=0) < 0.1
            reference[(slice(None), *block.slices)] = np.tensordot(matrix, cube, axes=1)
    finally:
        product.close()
    if valid.mean() < 0.05:
        raise InputError(f"{path} holds hardly any valid pixel.", hint="Check its nodata value.")
    psf = Psf(config.psf_fwhm) if config.psf_fwhm != "auto" else Psf()
    return TrainingScene(path.stem, reference, valid, None, s2_weights(bands, names), psf)


def resampling_matrix(source: BandTable, target: BandTable, name: str) -> NDArray[np.float32]:
    """Weights that interpolate the bands of a cube to other centres, shape (target band, source band).

    Raises
    ------
    InputError
        The cube has no bands near some wavelength.
    """
    order = np.argsort(source.centre_nm, kind="stable")
    centre = source.centre_nm[order]
    distance = np.abs(target.centre_nm[:, None] - centre[None, :]).min(axis=1)
    missing = distance > _MAX_DISTANCE_NM
    if missing.any():
        shown = ", ".join(f"{nm:.0f}" for nm in target.centre_nm[missing][:5])
        raise InputError(
            f"{name} has no band near {int(missing.sum())} of the {len(target)} wavelengths ({shown} nm, ...).",
            hint="Leave it out, or use --bands with wavelengths that all scenes have.",
        )
    unit = np.eye(centre.size)
    weights = np.stack([np.interp(target.centre_nm, centre, unit[i]) for i in range(centre.size)], axis=1)
    matrix = np.zeros((len(target), centre.size), np.float32)
    matrix[:, order] = weights
    return matrix


def _generated(config: TrainConfig, bands: BandTable, names: Sequence[str], ratio: int) -> list[SceneEntry]:
    """Scenes that are drawn when they are needed; one in eight validates."""
    from hsfuse.simulate.training_scene import training_scene

    side = config.generated_px // ratio * ratio
    psf = Psf(config.psf_fwhm) if config.psf_fwhm != "auto" else Psf()
    weights = s2_weights(bands, names) if config.generated else ()

    @lru_cache(maxsize=_CACHED_SCENES)
    def load(number: int) -> TrainingScene:
        truth = training_scene(config.seed * 1_000_003 + number, side, ratio)
        reference = truth.reflectance(bands, Slice2D(0, side, 0, side))
        return TrainingScene(f"generated {number}", reference, np.ones((side, side), bool), None, weights, psf)

    entries = []
    for number in range(config.generated):
        role: Literal["both", "training", "validation"] = (
            "validation" if number % _VALIDATION_SCENES == 1 else "training"
        )
        if config.generated == 1:
            role = "both"
        entries.append(SceneEntry(f"generated {number}", (side, side), partial(load, number), role, drawn=True))
    return entries


def _fingerprint(entries: Sequence[SceneEntry], config: TrainConfig) -> list[list[Any]]:
    """Name, size and check sum of the given scenes; made-up ones are known by the settings."""
    sums = []
    for entry in entries:
        reference = entry.load().reference
        sample = np.ascontiguousarray(reference[:: max(1, reference.shape[0] // 8), ::4, ::4])
        sums.append([entry.name, *entry.shape, zlib.crc32(sample.tobytes())])
    return [*sums, ["generated", config.generated, config.generated_px, config.seed]]
