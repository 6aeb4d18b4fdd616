"""Which images of a Sentinel-2 product are read, and how they lie to each other."""

from __future__ import annotations

from collections.abc import Sequence

from hsfuse.errors import InputError
from hsfuse.grid import Grid
from hsfuse.readers.placement import Placement
from hsfuse.readers.sentinel2.geometry import check_geometry, image_geometry
from hsfuse.readers.sentinel2.images import LayerPool
from hsfuse.readers.sentinel2.metadata import GranuleMetadata, SafeMetadata
from hsfuse.sensors.sentinel2 import RESOLUTION_M

_DAMAGED = "The product seems to be damaged or incomplete; download or unpack it again."


def choose_granule(metadata: SafeMetadata, wanted: str | None) -> GranuleMetadata:
    """Return the granule of a name or tile, by default the only one.

    Raises
    ------
    InputError
        There is none of that name, or several and none was chosen.
    """
    tiles = metadata.granules
    if wanted is not None:
        tiles = tuple(tile for tile in tiles if wanted in (tile.name, tile.tile_id))
        if not tiles:
            raise InputError(f"{metadata.name} has no granule {wanted}.")
    if len(tiles) > 1:
        raise InputError(
            f"{metadata.name} holds {len(tiles)} tiles.",
            hint="Open it with hsfuse.readers.open_msi, which makes a mosaic of them, or choose one granule.",
        )
    return tiles[0]


def layer_members(granule: GranuleMetadata, band_names: Sequence[str], name: str) -> dict[str, str]:
    """Layer (bands, scene classes or cloud mask) -> member of the archive.

    Raises
    ------
    InputError
        An image is missing.
    """
    images = granule.images
    missing = [band for band in band_names if (band, RESOLUTION_M[band]) not in images]
    if len(missing) == len(band_names):
        raise InputError(f"{name} holds metadata but no image files (.jp2).", hint=_DAMAGED)
    if missing:
        sizes = sorted({RESOLUTION_M[band] for band in missing})
        raise InputError(
            f"{name} has no {' or '.join(map(str, sizes))} m image of {', '.join(missing)}.", hint=_DAMAGED
        )
    members = {band: images[band, RESOLUTION_M[band]] for band in band_names}
    scl = images.get(("SCL", 20)) or images.get(("SCL", 60))
    if scl is not None:
        members["SCL"] = scl
    elif "MSK_CLASSI" in granule.masks:
        members["MSK_CLASSI"] = granule.masks["MSK_CLASSI"]
    return members


def place_layers(
    pool: LayerPool, layers: Sequence[str], tile: Grid, name: str, warnings: list[str]
) -> tuple[Grid, dict[str, Placement]]:
    """Check every image's own geometry against the metadata; return the grid and where each layer lies.

    Parameters
    ----------
    pool
        Open images.
    layers
        Their names.
    tile
        Grid of the tile at 10 m, from the metadata.
    name
        Name of the product, for messages.
    warnings
        Remarks are added to it.

    Raises
    ------
    InputError
        The images do not lie where the metadata say, or not on one grid.
    """
    geometry = {layer: pool.submit(layer, image_geometry, pixels=False) for layer in layers}
    grids: dict[str, Grid] = {}
    for layer, future in geometry.items():
        # A mask that cannot be opened must not be mistaken for a clear sky, so it is an error as well.
        grids[layer] = check_geometry(*future.result(), tile, layer, name)
    fine = grids["B02"]
    placements: dict[str, Placement] = {}
    for layer, grid in grids.items():
        placement = Placement.of(grid, fine)
        exact = placement is not None and (placement.row0, placement.col0, *grid.shape) == (0, 0, *fine.shape)
        if placement is None or (RESOLUTION_M.get(layer) == 10 and not exact):
            raise InputError(
                f"The images of B02 and {layer} in {name} do not lie on the same grid.",
                hint=_DAMAGED,
            )
        placements[layer] = placement
    if fine != tile:
        warnings.append(
            f"The images of {name} cover only {fine.height} x {fine.width} of the tile's "
            f"{tile.height} x {tile.width} pixels; they were taken as they are."
        )
    return fine, placements
