"""From what the user gives (pairs, cubes, a number of generated scenes) to scenes that a network can learn from."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hsfuse.band_selection import parse_bands, select_bands
from hsfuse.band_selection.thinning import thin
from hsfuse.band_selection.windows import windows_of
from hsfuse.config import RunConfig, TrainConfig
from hsfuse.degrade import Psf
from hsfuse.errors import InputError, UsageError
from hsfuse.fusion.nets.band_matching import match_bands
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.grid import Slice2D
from hsfuse.inference.fill import fill_missing
from hsfuse.log import get_logger
from hsfuse.progress import Progress
from hsfuse.sensors.prisma import PAN_NAME
from hsfuse.sensors.sentinel2 import BANDS_10M, BANDS_ALL
from hsfuse.spectral import BandTable
from hsfuse.training.scenes import SceneEntry, TrainingScene
from hsfuse.workflows.steps.cubes import open_cube
from hsfuse.workflows.steps.inputs import declarations, open_pair
from hsfuse.workflows.steps.open_guide import brings_panchromatic
from hsfuse.workflows.steps.prepare import prepare_scene
from hsfuse.workflows.training.remixed import remixed_entries
from hsfuse.workflows.training.responses import guide_weights
from hsfuse.workflows.training.training_inputs import TrainingInput
from hsfuse.workflows.training.training_scene import SceneStore, scene_as_training

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
    if config.guide == "pan":
        names = (PAN_NAME,)
    bands = header.bands if header and header.centre_nm else None
    entries: list[SceneEntry] = []
    store = SceneStore(scratch)
    ratios = (header.ratios if header else ()) or config.ratios
    pairs = [i for i in inputs if _is_pair(i, config)]
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
    if header and header.ratios and config.ratios and not set(config.ratios) <= set(header.ratios):
        raise UsageError(
            f"The weights were trained for a ratio of {', '.join(map(str, header.ratios))}, not {config.ratio}.",
            hint="Leave out --ratio, or start without --init.",
        )
    if not pairs:
        ratios = config.ratios or ratios or (3,)
    cubes = [i.hsi for i in inputs if i not in pairs]
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


def _is_pair(given: TrainingInput, config: TrainConfig) -> bool:
    """Whether a scene brings its guide: an MSI beside it, or the panchromatic image of a product that has one."""
    if config.guide != "pan":
        return bool(given.msi)
    return brings_panchromatic(given.hsi)


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
    product = open_cube(cubes[0], cut_nm=config.vnir_swir_cut_nm, declared=declarations(config))
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
    product = open_cube(path, cut_nm=config.vnir_swir_cut_nm, declared=declarations(config))
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
    return TrainingScene(path.stem, reference, valid, None, guide_weights(bands, names), psf)


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
    weights = guide_weights(bands, names) if config.generated else ()

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
