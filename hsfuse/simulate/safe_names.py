"""File and folder names of Sentinel-2 SAFE products, compact and old."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from rasterio.warp import transform as transform_points

from hsfuse.grid import Grid
from hsfuse.simulate.safe_xml import stamp


def mgrs_tile(grid: Grid) -> str:
    """Return the MGRS tile name (such as ``T32TQM``) of the place just inside a UTM grid's upper-left corner."""
    epsg = grid.crs.to_epsg()
    box = grid.bounds
    # Tiles overlap their 100 km square by 10 km to the east and south; the square is found 5 km inside (or in the
    # middle of a grid that is smaller).
    x = box.left + min(5_000.0, (box.right - box.left) / 2)
    y = box.top - min(5_000.0, (box.top - box.bottom) / 2)
    zone = epsg % 100
    latitude = transform_points(grid.crs, "EPSG:4326", [x], [y])[1][0]
    band = "CDEFGHJKLMNPQRSTUVWXX"[int(np.clip((latitude + 80) // 8, 0, 20))]
    column = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")[(zone - 1) % 3][int(np.clip(x // 100_000 - 1, 0, 7))]
    rows = "ABCDEFGHJKLMNPQRSTUV"
    row = rows[int(y // 100_000 + (0 if zone % 2 else 5)) % 20]
    return f"T{zone:02d}{band}{column}{row}"


@dataclass(frozen=True)
class SafeNames:
    """File and folder names of one product."""

    level: str
    naming: str
    spacecraft: str
    baseline: str
    sensing_time: datetime
    relative_orbit: int
    tile_id: str

    @property
    def unit(self) -> str:
        """Short name of the spacecraft, such as ``S2A``."""
        return f"S2{self.spacecraft[-1]}"

    @property
    def generated(self) -> datetime:
        """Time of processing: four hours after the overpass."""
        return self.sensing_time + timedelta(hours=4)

    @property
    def absolute_orbit(self) -> int:
        """A plausible absolute orbit for the relative one (143 orbits repeat)."""
        return 143 * 250 + self.relative_orbit

    @property
    def product(self) -> str:
        """Name of the product folder."""
        start, made, orbit = stamp(self.sensing_time), stamp(self.generated), f"R{self.relative_orbit:03d}"
        if self.naming == "old":
            return f"{self.unit}_OPER_PRD_MSI{self.level}_PDMC_{made}_{orbit}_V{start}_{start}.SAFE"
        baseline = f"N{self.baseline.replace('.', '')}"
        return f"{self.unit}_MSI{self.level}_{start}_{baseline}_{orbit}_{self.tile_id}_{made}.SAFE"

    @property
    def product_xml(self) -> str:
        """Name of the main metadata file."""
        if self.naming == "old":
            return (
                self.product.replace(f"_PRD_MSI{self.level}_", f"_MTD_SAF{self.level}_").removesuffix(".SAFE") + ".xml"
            )
        return f"MTD_MSI{self.level}.xml"

    @property
    def granule(self) -> str:
        """Name of the granule folder."""
        if self.naming == "old":
            return f"{self._old_stem('MSI')}_{self.tile_id}_N{self.baseline}"
        return f"{self.level}_{self.tile_id}_A{self.absolute_orbit:06d}_{stamp(self.sensing_time)}"

    def _old_stem(self, kind: str) -> str:
        made = stamp(self.generated)
        return f"{self.unit}_OPER_{kind}_{self.level}_TL_SGS__{made}_A{self.absolute_orbit:06d}"

    @property
    def tile_xml(self) -> str:
        """Name of the granule's metadata file."""
        return "MTD_TL.xml" if self.naming == "compact" else f"{self._old_stem('MTD')}_{self.tile_id}.xml"

    def image(self, layer: str, resolution_m: int) -> str:
        """Path of an image from the product's folder, without extension."""
        if self.naming == "old":
            stem = f"{self._old_stem('MSI')}_{self.tile_id}_{layer}"
        else:
            stem = f"{self.tile_id}_{stamp(self.sensing_time)}_{layer}"
        base = f"GRANULE/{self.granule}/IMG_DATA"
        if self.level == "L1C":
            return f"{base}/{stem}"
        return f"{base}/R{resolution_m}m/{stem}_{resolution_m}m"
