"""Ground truth of a simulated scene: reflectance at every place and wavelength, from a few small arrays.

Each 10 m pixel is a mixture of at most four endmember spectra times a brightness, kept as bytes. Reflectance in any
bands is worked out block by block, so a full scene in 234 bands never exists as a whole. The bytes are what the
products are made from as well as what is saved: a loaded truth equals the one that was used.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine

from hsfuse.errors import InputError, OutputError, UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.outputs import part_name
from hsfuse.progress import Progress, SilentProgress
from hsfuse.simulate.endmembers import Endmembers
from hsfuse.simulate.landscape import SHADE_STEPS, SLOTS, Landscape
from hsfuse.simulate.mixtures import LABELS
from hsfuse.simulate.true_field import TrueField
from hsfuse.spectral import BandTable, SpectralResponse

FORMAT = 1
_OPTIONAL = ("change", "height_m")
_STRIP_ROWS = 192
_CHUNK_PX = 1 << 15
_FEW_BANDS = 12


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is really on the ground.

    Attributes
    ----------
    grid
        Grid of the scene, 10 or 5 m; Sentinel-2's pixels coincide with it, or with blocks of it.
    endmembers
        Spectra of the scene.
    index, weight
        Up to four endmembers of each pixel and their shares in 1/255, shape (4, row, col).
    shade
        Brightness in 1/160, shape (row, col).
    label
        Surface type, an index into :data:`hsfuse.simulate.mixtures.LABELS`, shape (row, col).
    field
        Position error of the simulated hyperspectral product; None when there is none.
    facts
        How the scene and its products were made (JSON values).
    change
        Where and why the guide of another day does not belong (bits of :mod:`hsfuse.simulate.other_day`), shape
        (row, col); None when both images are of one day.
    height_m
        Height of the ground over its mean in metres, shape (row, col); None: flat.
    """

    grid: Grid
    endmembers: Endmembers
    index: NDArray[np.uint8]
    weight: NDArray[np.uint8]
    shade: NDArray[np.uint8]
    label: NDArray[np.uint8]
    field: TrueField | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    change: NDArray[np.uint8] | None = None
    height_m: NDArray[np.float32] | None = None

    @classmethod
    def generate(
        cls,
        grid: Grid,
        *,
        seed: int = 0,
        field: TrueField | None = None,
        facts: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Truth:
        """Draw a scene: fields, woods, towns, roads, a river and lakes.

        Parameters
        ----------
        grid
            Where; its pixel size is the scene's (10 m is what the surfaces are drawn for).
        seed
            Equal seeds and grid shapes give equal scenes.
        field, facts
            Kept with the truth.
        progress
            Shows the drawing.
        """
        with (progress or SilentProgress()).stage("draw the scene", grid.height * 1.2) as stage:
            landscape = Landscape(grid.shape, pixel_m=grid.pixel_m, seed=seed)
            stage.advance(grid.height * 0.2)
            index, weight = (np.empty((SLOTS, *grid.shape), np.uint8) for _ in range(2))
            shade, label = (np.empty(grid.shape, np.uint8) for _ in range(2))
            for block in grid.row_blocks(_STRIP_ROWS):
                rows = slice(block.row0, block.row1)
                strip = landscape.strip(block.row0, block.row1)
                index[:, rows], weight[:, rows] = strip.index, strip.weight
                shade[rows], label[rows] = strip.shade, strip.label
                stage.advance(block.row1 - block.row0)
        return cls(grid, landscape.endmembers, index, weight, shade, label, field, dict(facts or {}))

    def reflectance(self, bands: BandTable | tuple[ArrayLike, ArrayLike], block: Slice2D) -> NDArray[np.float32]:
        """Reflectance in Gaussian bands, shape (band, row, col).

        Parameters
        ----------
        bands
            Band table, or centres and widths (FWHM) in nm.
        block
            Pixels of :attr:`grid`.

        Raises
        ------
        UsageError
            The block leaves the grid, or a band leaves the spectra.
        """
        table = bands if isinstance(bands, BandTable) else BandTable.make(*bands)
        return self.mix(self.endmembers.in_bands(table), block)

    def response(self, responses: Sequence[SpectralResponse], block: Slice2D) -> NDArray[np.float32]:
        """Reflectance seen through response functions, shape (response, row, col)."""
        return self.mix(self.endmembers.in_responses(responses), block)

    def labels(self, block: Slice2D) -> NDArray[np.uint8]:
        """Surface types, shape (row, col); names in :data:`hsfuse.simulate.mixtures.LABELS`."""
        self._check(block)
        return self.label[block.slices]

    def mix(self, values: NDArray[np.floating], block: Slice2D) -> NDArray[np.float32]:
        """Mix any per-endmember values, shape (value, endmember), into (value, row, col)."""
        self._check(block)
        values = np.asarray(values, dtype=np.float32)
        index, weight = self.index[(slice(None), *block.slices)], self.weight[(slice(None), *block.slices)]
        light = self.shade[block.slices].astype(np.float32) * np.float32(1.0 / (SHADE_STEPS * 255.0))
        out = np.empty((values.shape[0], *block.shape), np.float32)
        if values.shape[0] <= _FEW_BANDS:
            for band, row in enumerate(values):
                total = row[index[0]] * weight[0]
                for slot in range(1, SLOTS):
                    total += row[index[slot]] * weight[slot]
                np.multiply(total, light, out=out[band])
            return out
        # Many bands: a matrix product per chunk of pixels, small enough to stay in the cache.
        step = max(1, _CHUNK_PX // block.shape[1])
        for row0 in range(0, block.shape[0], step):
            rows = slice(row0, row0 + step)
            shares = _dense(index[:, rows], weight[:, rows], light[rows], len(self.endmembers))
            out[:, rows] = (values @ shares.reshape(shares.shape[0], -1)).reshape(values.shape[0], *shares.shape[1:])
        return out

    def coefficients(self, block: Slice2D) -> NDArray[np.float32]:
        """Share times brightness of every endmember, shape (endmember, row, col).

        Reflectance is linear in these maps, so an optical system can be applied to them instead of to each band.
        """
        self._check(block)
        light = self.shade[block.slices].astype(np.float32) * np.float32(1.0 / (SHADE_STEPS * 255.0))
        where = (slice(None), *block.slices)
        return _dense(self.index[where], self.weight[where], light, len(self.endmembers))

    def _check(self, block: Slice2D) -> None:
        if block != block.clipped(*self.grid.shape) or min(block.shape) < 1:
            raise UsageError(
                f"The block {block.row0}:{block.row1}, {block.col0}:{block.col1} is not inside the simulated scene "
                f"of {self.grid.height} x {self.grid.width} pixels."
            )

    def save(self, path: Path) -> None:
        """Write the truth to one compressed ``.npz`` file.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        header = {
            "format": FORMAT,
            "crs": self.grid.crs.to_wkt(),
            "transform": list(self.grid.transform)[:6],
            "group": list(self.endmembers.group),
            "name": list(self.endmembers.name),
            "labels": list(LABELS),
            "field": None if self.field is None else self.field.to_json(),
            "facts": dict(self.facts),
        }
        arrays: dict[str, NDArray[Any]] = {
            "header": np.array([json.dumps(header)]),
            "wavelength_nm": self.endmembers.wavelength_nm,
            "spectra": self.endmembers.reflectance,
            "index": self.index,
            "weight": self.weight,
            "shade": self.shade,
            "label": self.label,
        }
        arrays |= {name: array for name in _OPTIONAL if (array := getattr(self, name)) is not None}
        path = Path(path)
        partial = part_name(path)
        try:
            # numpy's own function compresses at level 6: five times slower for a tenth less.
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                        np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OutputError(f"The ground truth {path} cannot be written ({error.strerror or error}).") from error

    @classmethod
    def load(cls, path: Path) -> Truth:
        """Read a truth that :meth:`save` wrote.

        Raises
        ------
        InputError
            The file is missing, damaged, or something else.
        """
        hint = "`hsfuse simulate` writes the file as truth.npz beside its products."
        try:
            # numpy leaves a file open that turns out not to be an archive; this one is closed in any case.
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                header = json.loads(str(stored["header"][0]))
                if header["format"] != FORMAT:
                    raise InputError(f"{path}: ground truth of format {header['format']}, not {FORMAT}.", hint=hint)
                arrays = {name: stored[name] for name in ("wavelength_nm", "spectra", "index", "weight")}
                arrays |= {name: stored[name] for name in ("shade", "label")}
                arrays |= {name: stored[name] for name in _OPTIONAL if name in stored}
                spectra = Endmembers(
                    arrays["wavelength_nm"], arrays["spectra"], tuple(header["group"]), tuple(header["name"])
                )
                height, width = arrays["shade"].shape
                grid = Grid(CRS.from_wkt(header["crs"]), Affine(*header["transform"]), height, width)
                error_field = None
                if header["field"] is not None:
                    error_field = TrueField.from_json(header["field"]).over(grid, arrays.get("height_m"))
        except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path} is not a ground truth of a simulated scene ({error}).", hint=hint) from error
        return cls(
            grid,
            spectra,
            arrays["index"],
            arrays["weight"],
            arrays["shade"],
            arrays["label"],
            error_field,
            header["facts"],
            arrays.get("change"),
            arrays.get("height_m"),
        )


def _dense(
    index: NDArray[np.uint8], weight: NDArray[np.uint8], light: NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    """Spread (slot, row, col) shares over all endmembers: (endmember, row, col)."""
    out = np.zeros((count, *light.shape), np.float32)
    flat = out.reshape(count, -1)
    pixel = np.arange(flat.shape[1])
    for slot in range(index.shape[0]):
        # Within one slot every pixel occurs once, so the indexed sum is safe.
        flat[index[slot].ravel(), pixel] += weight[slot].ravel()
    out *= light
    return out
