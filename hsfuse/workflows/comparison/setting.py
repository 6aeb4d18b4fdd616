"""What methods are compared on: a pair at full or reduced resolution, or a cube at reduced resolution."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hsfuse.band_selection import parse_bands, select_bands
from hsfuse.config import CompareConfig
from hsfuse.coregister.warp import Resampler
from hsfuse.degrade import Psf
from hsfuse.errors import InputError, OverlapError, UsageError
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.grid import Slice2D
from hsfuse.inference.fill import fill_missing
from hsfuse.inference.scene import FusionScene, alive_bands
from hsfuse.log import get_logger
from hsfuse.progress import Progress
from hsfuse.sensors.prisma import pan_response
from hsfuse.sensors.sentinel2 import BANDS_10M, BANDS_ALL, table_responses
from hsfuse.simulate.wald import CONDITIONS, reduce_scene
from hsfuse.spectral import BandTable, SpectralResponse, srf_weights
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.cubes import open_cube, solid_window
from hsfuse.workflows.steps.inputs import declarations, open_pair
from hsfuse.workflows.steps.methods import check_network
from hsfuse.workflows.steps.open_guide import brings_panchromatic
from hsfuse.workflows.steps.prepare import PreparedScene, prepare_scene
from hsfuse.workflows.training.training_data import resampling_matrix
from hsfuse.workflows.training.training_scene import scene_as_training

_log = get_logger(__name__)

PAIR_WINDOW_PX, CUBE_WINDOW_PX = 256, 384
_RATIO = 3
_MIN_COARSE_PX = 8
_ENOUGH_VALID = 0.98
_SPACECRAFT = "Sentinel-2A"

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class ComparisonSetting:
    """The scene that every method fuses, and what is known about the truth.

    Attributes
    ----------
    title
        What is compared on what.
    scene
        Prepared pair.
    reference
        True cube on the scene's fine grid, shape (band, row, col), NaN where unknown; None at full resolution.
    facts
        Label -> value for the report.
    notes
        Sentences for the report.
    repaired
        The scene with a repaired guide, where changes were looked for: methods fuse it, and are judged on the other.
    """

    title: str
    scene: FusionScene
    reference: FloatCube | None
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    repaired: FusionScene | None = None

    @property
    def fused_scene(self) -> FusionScene:
        """What methods are given."""
        return self.scene if self.repaired is None else self.repaired


class SettingSource(Protocol):
    """Inputs that are open."""

    ratio: int

    def check(self, header: NetworkHeader) -> None:
        """Raise UsageError or InputError where a network cannot take part."""
        ...

    def prepare(self, header: NetworkHeader | None, progress: Progress) -> ComparisonSetting:
        """Prepare the scene, with the bands of a network where one takes part."""
        ...


def open_source(paths: Sequence[Path], config: CompareConfig, stack: ExitStack) -> SettingSource:
    """Open a cube, or an HSI and the MSIs that follow it; ``stack`` closes them.

    Raises
    ------
    HsfuseError
        They cannot be opened, or do not belong together.
    """
    if len(paths) > 1 or (config.guide == "pan" and brings_panchromatic(paths[0])):
        return _PairSource(paths[0], paths[1:], config, stack)
    if config.aoi is not None:
        raise UsageError("--aoi needs a pair; of a cube alone the middle is compared.", hint="Use --window.")
    return _CubeSource(paths[0], config, stack)


class _PairSource:
    def __init__(self, hsi: Path, msi: Sequence[Path], config: CompareConfig, stack: ExitStack) -> None:
        self._config, self._run = config, config.pair_config()
        if config.condition != "noise-free" and not config.reduced:
            raise UsageError("--condition needs --reduced: at full resolution nothing is degraded.")
        self._pair = open_pair(hsi, list(msi), self._run, stack)
        self.ratio = self._pair.ratio

    def check(self, header: NetworkHeader) -> None:
        check_network(header, self._pair.msi.band_names, self.ratio, self._pair.hsi.bands)

    def prepare(self, header: NetworkHeader | None, progress: Progress) -> ComparisonSetting:
        pair, config = self._pair, self._config
        prepared = prepare_scene(pair, self._run, progress, network_nm=header.centre_nm if header else None)
        scene = _cropped(prepared, config.window or PAIR_WINDOW_PX)
        names = f"{pair.hsi.info.name} + {pair.msi.info.name}"
        facts = {
            "HSI": pair.hsi.info.name, "MSI": f"{pair.msi.info.name} ({', '.join(pair.msi.band_names)})",
            "Co-registration": f"{prepared.coregistration.verdict}: {prepared.coregistration.reason}",
        }  # fmt: skip
        notes = (*prepared.warnings, *prepared.selection.notes)
        if not config.reduced:
            facts |= {"Protocol": "full resolution, without a reference"}
            return ComparisonSetting(f"Methods on {names}", scene, None, facts | _scene_facts(scene), notes)
        with progress.stage("reduce") as stage:
            training = scene_as_training(scene, names)
            if training.msi is None:
                raise InputError(f"The MSI of {names} could not be reduced.")
            # The reference may have gaps; the degraded HSI must not see what the method cannot know.
            reduced = _reduced(training.reference, training.msi, training.valid, scene.hsi.bands.take(scene.bands),
                               scene.msi.responses, self.ratio, scene.psf, config, names)  # fmt: skip
            stage.advance()
        facts |= {"Protocol": "reduced resolution (Wald): the HSI is the reference, both images are degraded"}
        facts |= {"Condition": config.condition}
        return replace(reduced, title=f"Methods on {names}, at reduced resolution",
                       facts=facts | reduced.facts, notes=notes)  # fmt: skip


class _CubeSource:
    def __init__(self, path: Path, config: CompareConfig, stack: ExitStack) -> None:
        self._path, self._config = path, config
        self._product = open_cube(path, cut_nm=config.vnir_swir_cut_nm, declared=declarations(config))
        stack.callback(self._product.close)
        self.ratio = config.ratio or _RATIO
        self._usable = np.flatnonzero(self._product.bands.good)
        names = BANDS_ALL if config.s2_bands == "all" else BANDS_10M
        pan = config.guide == "pan"
        self._responses = (pan_response(),) if pan else table_responses(_SPACECRAFT, names)
        self._sensor = "PRISMA's panchromatic camera" if pan else _SPACECRAFT
        weights = srf_weights(self._product.bands.take(self._usable), self._responses)
        empty = [name for name, row in zip(names, weights, strict=True) if not row.any()]
        if empty:
            raise InputError(
                f"{path.name} has no band under {', '.join(empty)} of {self._sensor}, so its MSI cannot be simulated.",
                hint="Give a cube that covers 450 to 900 nm, or a pair.",
            )

    def check(self, header: NetworkHeader) -> None:
        check_network(header, [r.name for r in self._responses], self.ratio, None)
        if header.centre_nm:
            resampling_matrix(self._product.bands.take(self._usable), header.bands, self._path.name)

    def prepare(self, header: NetworkHeader | None, progress: Progress) -> ComparisonSetting:
        product, config, ratio = self._product, self._config, self.ratio
        block = self._window()
        with progress.stage("read the cube") as stage:
            cube, missing = fill_missing(product.read(block, self._usable))
            stage.advance()
        alive = alive_bands(missing)
        source = product.bands.take(self._usable).take(alive)
        valid = ~np.any(missing[alive], axis=0)
        cube = cube[alive]
        msi = np.tensordot(srf_weights(source, self._responses), cube, axes=1).astype(np.float32)
        if header is not None:
            bands = header.bands
            chosen = np.tensordot(resampling_matrix(source, bands, self._path.name), cube, axes=1)
            how = f"{len(bands)} of the network '{header.name}', interpolated"
        else:
            index = self._selected(np.flatnonzero(alive), progress)
            bands, chosen = source.take(index), cube[index]
            how = f"{len(bands)} of {len(product.bands)}"
        psf = Psf() if config.psf_fwhm == "auto" else Psf(config.psf_fwhm)
        name = self._path.stem
        reduced = _reduced(chosen, msi, valid, bands, self._responses, ratio, psf, config, name)
        facts = {
            "Cube": f"{product.info.name if product.info.name != 'array' else self._path.name}, rows {block.row0} to "
            f"{block.row1}, columns {block.col0} to {block.col1}",
            "Protocol": f"reduced resolution (Wald), MSI simulated with the responses of {self._sensor}",
            "Condition": config.condition,
        }
        return replace(reduced, title=f"Methods on {name}", facts=facts | reduced.facts | {"Bands": how})

    def _window(self) -> Slice2D:
        product = self._product
        middle = int(self._usable[len(self._usable) // 2])
        full = product.grid.full
        valid = product.valid(full) & np.isfinite(product.read(full, [middle])[0])
        block = solid_window(valid, self._config.window or CUBE_WINDOW_PX)
        rows, cols = (size // self.ratio * self.ratio for size in block.shape)
        if min(rows, cols) < _MIN_COARSE_PX * self.ratio:
            raise OverlapError(
                f"The largest part of {self._path.name} without gaps has {block.shape[0]} x {block.shape[1]} pixels; "
                f"a ratio of {self.ratio} needs {_MIN_COARSE_PX * self.ratio} x {_MIN_COARSE_PX * self.ratio}.",
                hint="Use a larger scene or --window, or a smaller --ratio.",
            )
        return Slice2D(block.row0, block.row0 + rows, block.col0, block.col0 + cols)

    def _selected(self, alive: NDArray[np.int64], progress: Progress) -> NDArray[np.int64]:
        """Positions in the alive bands of those that ``--bands`` asks for."""
        wanted = parse_bands(self._config.bands)
        count = wanted.count
        if isinstance(count, int) and count > alive.size and "bands" not in self._config.model_fields_set:
            count = "all"
        if count == "all" and wanted.wavelengths_nm is None:
            return np.arange(alive.size)
        selection = select_bands(self._product, count=count, wavelengths_nm=wanted.wavelengths_nm, progress=progress)
        position = np.full(len(self._product.bands), -1)
        position[self._usable[alive]] = np.arange(alive.size)
        chosen = position[selection.indices]
        return np.asarray(chosen[chosen >= 0], dtype=np.int64)


def _cropped(prepared: PreparedScene, side: int) -> FusionScene:
    """Cut the scene to a window of mostly valid pixels, as near to its middle as can be."""
    scene, field_ = prepared.scene, prepared.coregistration.field
    height, width = scene.grid.shape
    if max(height, width) <= side:
        return scene
    rows, cols = min(side, height), min(side, width)
    starts = [
        Slice2D(row, row + rows, col, col + cols)
        for row in sorted({0, (height - rows) // 2, height - rows})
        for col in sorted({0, (width - cols) // 2, width - cols})
    ]
    starts.sort(key=lambda b: abs(2 * b.row0 + rows - height) + abs(2 * b.col0 + cols - width))
    best, share = starts[0], -1.0
    for block in starts:
        valid = _valid_share(scene, block)
        if valid > share:
            best, share = block, valid
        if share >= _ENOUGH_VALID:
            break
    grid = scene.grid.crop(best)
    moved: dict[str, Any] = {"grid": grid, "resampler": Resampler(scene.hsi.stored_pixels.grid, grid, field_)}
    if scene.area is not None:
        moved["area"] = scene.area[best.scaled(scene.ratio).slices]
    if scene.swir_resampler is not None:
        moved["swir_resampler"] = Resampler(scene.hsi.stored_pixels.grid, grid, prepared.coregistration.swir_field)
    return replace(scene, **moved)


def _valid_share(scene: FusionScene, block: Slice2D) -> float:
    middle = scene.bands[len(scene.bands) // 2 : len(scene.bands) // 2 + 1]
    hsi = np.isfinite(scene.read_hsi(block, middle)[0])
    msi, cloud = scene.read_msi(block)
    clear = ~(np.isnan(msi).any(axis=0) | cloud)
    if scene.area is not None:
        clear &= scene.area[block.scaled(scene.ratio).slices]
    return float(hsi.mean() * clear.mean())


def _reduced(
    reference: FloatCube, msi: FloatCube, valid: BoolArray, bands: BandTable,
    responses: Sequence[SpectralResponse] | None, ratio: int, psf: Psf, config: CompareConfig, name: str,
) -> ComparisonSetting:  # fmt: skip
    """Degrade a sharp cube and its MSI; pixels that are not valid become nodata again."""
    pair = reduce_scene(reference, msi, ratio, CONDITIONS[config.condition], psf=psf, name=name, seed=config.seed)
    rows, cols = pair.truth.shape[1:]
    if min(rows, cols) < _MIN_COARSE_PX * ratio:
        raise OverlapError(
            f"A scene of {rows} x {cols} pixels is too small to be reduced by {ratio}.", hint="Use a larger area."
        )
    seen = valid[:rows, :cols]
    coarse = seen.reshape(rows // ratio, ratio, cols // ratio, ratio).any(axis=(1, 3))
    truth, hsi, guide = pair.truth, pair.hsi, pair.msi
    truth[:, ~seen], guide[:, ~seen], hsi[:, ~coarse] = np.nan, np.nan, np.nan
    scene = array_scene(hsi, guide, bands, responses, ratio, psf)
    return ComparisonSetting(name, scene, truth, _scene_facts(scene))


def _scene_facts(scene: FusionScene) -> dict[str, Any]:
    centre = scene.hsi.bands.centre_nm[scene.bands]
    fine = scene.fine_grid
    return {
        "Size": f"{fine.height} x {fine.width} pixels, HSI {scene.grid.height} x {scene.grid.width}",
        "Ratio": scene.ratio,
        "Bands": f"{len(centre)}, {centre[0]:.0f} to {centre[-1]:.0f} nm",
        "PSF of the HSI": f"{scene.psf.fwhm_px:.2f} HSI pixels (FWHM)",
    }
